// Registers of as many rows of weights as the processor has room for, for paddock_products.h: sixteen with AVX-512 and VNNI, eight with AVX2.
//
// Both hold four numbers of every row. VNNI, which some processors have without AVX-512, multiplies them with four others and adds all up in one instruction. AVX2 alone
// takes two of them, in 16 bits, where as many products are added up as never overflow; weights of eight bits have none to spare, so they are multiplied without their
// signs, which the other numbers get instead. Sums are whole numbers and exact either way.
#pragma once
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && !defined(PADDOCK_NO_PRODUCTS)
#define PADDOCK_PRODUCTS
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

namespace paddock {

constexpr int64_t FOURS = 8;  // of numbers in a chunk of 32

static inline float half(const uint8_t *at) {
    uint16_t found;
    memcpy(&found, at, 2);
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(found)));
}

static inline __m128i eight_halves(const uint8_t *const *rows, int64_t offset) {
    uint16_t found[8];
    for (int row = 0; row < 8; ++row) memcpy(found + row, rows[row] + offset, 2);
    return _mm_setr_epi16((short)found[0], (short)found[1], (short)found[2], (short)found[3], (short)found[4], (short)found[5], (short)found[6], (short)found[7]);
}

// Sixteen bytes of eight rows, turned: each register holds the bytes of two places
static inline void turn_bytes(const uint8_t *const *rows, int64_t offset, __m128i *to) {
    __m128i in[8], pairs[8];
    for (int row = 0; row < 8; ++row) in[row] = _mm_loadu_si128((const __m128i *)(rows[row] + offset));
    for (int row = 0; row < 4; ++row) {
        pairs[row] = _mm_unpacklo_epi8(in[row], in[row + 4]);
        pairs[row + 4] = _mm_unpackhi_epi8(in[row], in[row + 4]);
    }
    for (int row = 0; row < 8; row += 4) {
        const __m128i a = _mm_unpacklo_epi8(pairs[row], pairs[row + 2]), b = _mm_unpackhi_epi8(pairs[row], pairs[row + 2]);
        const __m128i c = _mm_unpacklo_epi8(pairs[row + 1], pairs[row + 3]), d = _mm_unpackhi_epi8(pairs[row + 1], pairs[row + 3]);
        to[row] = _mm_unpacklo_epi8(a, c);
        to[row + 1] = _mm_unpackhi_epi8(a, c);
        to[row + 2] = _mm_unpacklo_epi8(b, d);
        to[row + 3] = _mm_unpackhi_epi8(b, d);
    }
}

// Of eight rows the byte in one place, as a number
static inline __m256i eight_bytes(const uint8_t *const *rows, int64_t offset) {
    const auto of = [rows, offset](int row) { return (char)rows[row][offset]; };
    return _mm256_cvtepu8_epi32(_mm_setr_epi8(of(0), of(1), of(2), of(3), of(4), of(5), of(6), of(7), 0, 0, 0, 0, 0, 0, 0, 0));
}

static inline int32_t four_of(const uint8_t *at) {
    int32_t found;
    memcpy(&found, at, 4);
    return found;
}

static inline __m256i eight_fours(const uint8_t *const *rows, int64_t offset) {
    const auto of = [rows, offset](int row) { return four_of(rows[row] + offset); };
    return _mm256_setr_epi32(of(0), of(1), of(2), of(3), of(4), of(5), of(6), of(7));
}

static inline __m256i nibbles(__m128i pairs) {  // low ones, then high ones
    return _mm256_and_si256(_mm256_inserti128_si256(_mm256_castsi128_si256(pairs), _mm_srli_epi16(pairs, 4), 1), _mm256_set1_epi8(15));
}

static inline int32_t sum_of_eight(__m256i numbers) {
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(numbers), _mm256_extracti128_si256(numbers, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
constexpr int64_t LANES = 16, AT_ONCE = 8;  // rows of weights in a register, and other rows that are multiplied together
constexpr bool HAS_SIGNS = false;           // of weights in eight bits: in a register they are 128 more
using Ints = __m512i;
using Floats = __m512;

static inline Ints same(int32_t number) { return _mm512_set1_epi32(number); }
static inline Floats no_floats() { return _mm512_setzero_ps(); }
static inline Floats floats_of(Ints numbers) { return _mm512_cvtepi32_ps(numbers); }
static inline Floats halves(const uint8_t *const *rows, int64_t offset) {
    return _mm512_cvtph_ps(_mm256_inserti128_si256(_mm256_castsi128_si256(eight_halves(rows, offset)), eight_halves(rows + 8, offset), 1));
}
static inline Floats times(Floats one, Floats two) { return _mm512_mul_ps(one, two); }
static inline Floats times(Floats one, float two) { return _mm512_mul_ps(one, _mm512_set1_ps(two)); }
// Of each row a byte, which is the exponent of a power of two: a half of that. The least one is taken for nothing.
static inline Floats halves_of_powers(const uint8_t *const *rows, int64_t offset) {
    const Ints raised = _mm512_inserti64x4(_mm512_castsi256_si512(eight_bytes(rows, offset)), eight_bytes(rows + 8, offset), 1);
    return times(_mm512_castsi512_ps(_mm512_slli_epi32(raised, 23)), 0.5f);
}
static inline Floats plus_times(Floats sum, Floats one, Floats two) { return _mm512_fmadd_ps(one, two, sum); }
static inline Floats plus_times(Floats sum, Floats one, float two) { return _mm512_fmadd_ps(one, _mm512_set1_ps(two), sum); }
static inline void store(float *to, Floats numbers, int64_t lanes) { _mm512_mask_storeu_ps(to, (__mmask16)((1u << lanes) - 1), numbers); }
static inline int32_t sum_of_32(const uint8_t *at) {
    return sum_of_eight(_mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), _mm256_loadu_si256((const __m256i *)at)));
}
static inline __m256i with_fifth(__m256i low, uint32_t bits) { return _mm256_mask_add_epi8(low, (__mmask32)bits, low, _mm256_set1_epi8(16)); }

// Sixteen bytes of sixteen rows, each as a number
static inline void bytes_of(const uint8_t *const *rows, int64_t offset, Floats *to) {
    __m128i first[8], second[8];
    turn_bytes(rows, offset, first);
    turn_bytes(rows + 8, offset, second);
    for (int i = 0; i < 8; ++i) {
        to[2 * i] = floats_of(_mm512_cvtepi8_epi32(_mm_unpacklo_epi64(first[i], second[i])));
        to[2 * i + 1] = floats_of(_mm512_cvtepi8_epi32(_mm_unpackhi_epi64(first[i], second[i])));
    }
}

// 32 numbers of sixteen rows, four by four
static inline void turn(const __m256i *rows, Ints *to) {
    __m512i in[8], pairs[8];
    for (int i = 0; i < 8; ++i) {
        const int low = i < 4 ? i : i + 4;
        in[i] = _mm512_inserti64x4(_mm512_castsi256_si512(rows[low]), rows[low + 4], 1);
    }
    for (int i = 0; i < 8; i += 4) {
        const __m512i a = _mm512_unpacklo_epi32(in[i], in[i + 1]), b = _mm512_unpackhi_epi32(in[i], in[i + 1]);
        const __m512i c = _mm512_unpacklo_epi32(in[i + 2], in[i + 3]), d = _mm512_unpackhi_epi32(in[i + 2], in[i + 3]);
        pairs[i] = _mm512_unpacklo_epi64(a, c);
        pairs[i + 1] = _mm512_unpackhi_epi64(a, c);
        pairs[i + 2] = _mm512_unpacklo_epi64(b, d);
        pairs[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    for (int i = 0; i < 4; ++i) {
        to[i] = _mm512_shuffle_i64x2(pairs[i], pairs[i + 4], 0x88);
        to[i + 4] = _mm512_shuffle_i64x2(pairs[i], pairs[i + 4], 0xdd);
    }
}

// Four bytes of each row as a number; some bits of each; four low ones and two high ones
static inline Ints fours_of(const uint8_t *const *rows, int64_t offset) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(eight_fours(rows, offset)), eight_fours(rows + 8, offset), 1);
}
static inline Ints plus(Ints one, Ints two) { return _mm512_add_epi32(one, two); }
static inline Ints bits(Ints numbers, int from, int count) { return _mm512_and_si512(_mm512_srli_epi32(numbers, (unsigned)from), same((1 << count) - 1)); }
static inline Ints six_bits(Ints low, Ints high) { return _mm512_or_si512(low, _mm512_slli_epi32(high, 4)); }

// So many bytes of each of the next rows, which lie so far ahead
static inline void ask_for_next(const uint8_t *const *rows, int64_t ahead, int64_t offset, int64_t) {  // fewer than a cache line
    for (int row = 0; row < LANES; ++row) _mm_prefetch((const char *)(rows[row] + ahead + offset), _MM_HINT_T1);
}

// Adds to each sum the products of FOUR fours of every row with those of another one, `stride` bytes apart
template <int COLUMNS, int FOUR, int TOGETHER>
static inline void add_products(Ints *sums, const Ints *weights, const uint8_t *other, int64_t stride) {
    for (int four = 0; four < FOUR; ++four)
        for (int c = 0; c < COLUMNS; ++c) sums[c] = _mm512_dpbusd_epi32(sums[c], weights[four], same(four_of(other + c * stride + 4 * four)));
}
#else
constexpr int64_t LANES = 8, AT_ONCE = 4;
#if defined(__AVXVNNI__)
constexpr bool HAS_SIGNS = false;
#else
constexpr bool HAS_SIGNS = true;
#endif
using Ints = __m256i;
using Floats = __m256;

static inline Ints same(int32_t number) { return _mm256_set1_epi32(number); }
static inline Floats no_floats() { return _mm256_setzero_ps(); }
static inline Floats floats_of(Ints numbers) { return _mm256_cvtepi32_ps(numbers); }
static inline Floats halves(const uint8_t *const *rows, int64_t offset) { return _mm256_cvtph_ps(eight_halves(rows, offset)); }
static inline Floats times(Floats one, Floats two) { return _mm256_mul_ps(one, two); }
static inline Floats times(Floats one, float two) { return _mm256_mul_ps(one, _mm256_set1_ps(two)); }
static inline Floats halves_of_powers(const uint8_t *const *rows, int64_t offset) {
    return times(_mm256_castsi256_ps(_mm256_slli_epi32(eight_bytes(rows, offset), 23)), 0.5f);
}
static inline Floats plus_times(Floats sum, Floats one, Floats two) { return _mm256_fmadd_ps(one, two, sum); }
static inline Floats plus_times(Floats sum, Floats one, float two) { return _mm256_fmadd_ps(one, _mm256_set1_ps(two), sum); }
static inline void store(float *to, Floats numbers, int64_t lanes) {
    if (lanes == LANES) return _mm256_storeu_ps(to, numbers);
    _mm256_maskstore_ps(to, _mm256_cmpgt_epi32(same((int32_t)lanes), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)), numbers);
}
static inline Ints in_pairs(Ints numbers) { return _mm256_madd_epi16(numbers, _mm256_set1_epi16(1)); }
static inline int32_t sum_of_32(const uint8_t *at) {
    return sum_of_eight(in_pairs(_mm256_maddubs_epi16(_mm256_set1_epi8(1), _mm256_loadu_si256((const __m256i *)at))));
}
static inline __m256i with_fifth(__m256i low, uint32_t bits) {  // byte by byte: its bits eight times, of which one counts
    const __m256i places = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i mine = _mm256_set1_epi64x((long long)0x8040201008040201), all = _mm256_shuffle_epi8(_mm256_set1_epi32((int32_t)bits), places);
    return _mm256_or_si256(low, _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(all, mine), mine), _mm256_set1_epi8(16)));
}

static inline void bytes_of(const uint8_t *const *rows, int64_t offset, Floats *to) {
    __m128i turned[8];
    turn_bytes(rows, offset, turned);
    for (int i = 0; i < 8; ++i) {
        to[2 * i] = floats_of(_mm256_cvtepi8_epi32(turned[i]));
        to[2 * i + 1] = floats_of(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(turned[i], turned[i])));
    }
}

static inline void turn(const __m256i *rows, Ints *to) {
    __m256i pairs[8];
    for (int i = 0; i < 8; i += 4) {
        const __m256i a = _mm256_unpacklo_epi32(rows[i], rows[i + 1]), b = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
        const __m256i c = _mm256_unpacklo_epi32(rows[i + 2], rows[i + 3]), d = _mm256_unpackhi_epi32(rows[i + 2], rows[i + 3]);
        pairs[i] = _mm256_unpacklo_epi64(a, c);
        pairs[i + 1] = _mm256_unpackhi_epi64(a, c);
        pairs[i + 2] = _mm256_unpacklo_epi64(b, d);
        pairs[i + 3] = _mm256_unpackhi_epi64(b, d);
    }
    for (int i = 0; i < 4; ++i) {
        to[i] = _mm256_permute2x128_si256(pairs[i], pairs[i + 4], 0x20);
        to[i + 4] = _mm256_permute2x128_si256(pairs[i], pairs[i + 4], 0x31);
    }
}

static inline Ints fours_of(const uint8_t *const *rows, int64_t offset) { return eight_fours(rows, offset); }
static inline Ints plus(Ints one, Ints two) { return _mm256_add_epi32(one, two); }
static inline Ints bits(Ints numbers, int from, int count) { return _mm256_and_si256(_mm256_srli_epi32(numbers, from), same((1 << count) - 1)); }
static inline Ints six_bits(Ints low, Ints high) { return _mm256_or_si256(low, _mm256_slli_epi32(high, 4)); }

#define PADDOCK_ALONE
// Products of 32 numbers, four by four
template <bool SIGNED> static inline Ints products_in_fours(__m256i weights, __m256i other) {
#if defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), weights, other);
#else
    if constexpr (SIGNED) return in_pairs(_mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(other, weights)));
    return in_pairs(_mm256_maddubs_epi16(weights, other));
#endif
}

// The same with those of two pairs of registers added up, in 16 bits where weights have no signs: none is larger than 64
template <bool SIGNED> static inline Ints products_in_fours(__m256i one, __m256i other_one, __m256i two, __m256i other_two) {
#if defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), one, other_one), two, other_two);
#else
    if constexpr (SIGNED) return _mm256_add_epi32(products_in_fours<true>(one, other_one), products_in_fours<true>(two, other_two));
    return in_pairs(_mm256_add_epi16(_mm256_maddubs_epi16(one, other_one), _mm256_maddubs_epi16(two, other_two)));
#endif
}

// Sixteen bytes twice; those of one row and of another
static inline __m256i twice(const uint8_t *at) { return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)at)); }
static inline __m256i both(const uint8_t *one, const uint8_t *two) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)one)), _mm_loadu_si128((const __m128i *)two), 1);
}

// Of four registers with four numbers of one row and four of the fourth behind it the sums, in the order of the rows
static inline Ints sums_of_fours(const Ints *rows) {
    return _mm256_hadd_epi32(_mm256_hadd_epi32(rows[0], rows[1]), _mm256_hadd_epi32(rows[2], rows[3]));
}

// Of eight rows with eight numbers each the sum of the first four of every row, and that of the others
static inline void sums_of_halves(const Ints *rows, Ints *to) {
    const Ints a = _mm256_hadd_epi32(_mm256_hadd_epi32(rows[0], rows[1]), _mm256_hadd_epi32(rows[2], rows[3]));
    const Ints b = _mm256_hadd_epi32(_mm256_hadd_epi32(rows[4], rows[5]), _mm256_hadd_epi32(rows[6], rows[7]));
    to[0] = _mm256_permute2x128_si256(a, b, 0x20);
    to[1] = _mm256_permute2x128_si256(a, b, 0x31);
}

// In the order in which they lie, row behind row (views of a wider matrix are asked for in vain)
static inline void ask_for_next(const uint8_t *const *rows, int64_t ahead, int64_t offset, int64_t bytes) {
    const uint8_t *next = rows[0] + ahead + LANES * offset;
    for (int64_t at = 0; at < LANES * bytes; at += 64) _mm_prefetch((const char *)(next + at), _MM_HINT_T0);
}

#if defined(__AVXVNNI__)
template <int COLUMNS, int FOUR, int TOGETHER>
static inline void add_products(Ints *sums, const Ints *weights, const uint8_t *other, int64_t stride) {
    for (int four = 0; four < FOUR; ++four)
        for (int c = 0; c < COLUMNS; ++c) sums[c] = _mm256_dpbusd_avx_epi32(sums[c], weights[four], same(four_of(other + c * stride + 4 * four)));
}
#else
// GCC would compute all products before it adds any, and has no registers for them
template <int COLUMNS> static inline Ints in_this_order(Ints numbers) {
    if constexpr (COLUMNS > 1) __asm__("" : "+x"(numbers));
    return numbers;
}

// TOGETHER: products that may be added up in 16 bits, of weights that have no signs; 0 for weights with signs
template <int COLUMNS, int FOUR, int TOGETHER>
static inline void add_products(Ints *sums, const Ints *weights, const uint8_t *other, int64_t stride) {
    if constexpr (TOGETHER == 0) {
        for (int four = 0; four < FOUR; ++four) {
            const Ints signed_ones = weights[four], bare = _mm256_abs_epi8(signed_ones);
            for (int c = 0; c < COLUMNS; ++c) {
                const Ints turned = _mm256_sign_epi8(same(four_of(other + c * stride + 4 * four)), signed_ones);
                sums[c] = in_this_order<COLUMNS>(_mm256_add_epi32(sums[c], in_pairs(_mm256_maddubs_epi16(bare, turned))));
            }
        }
    } else {
        static_assert(FOUR % TOGETHER == 0);
        for (int first = 0; first < FOUR; first += TOGETHER) {
            Ints some[COLUMNS];
            for (int c = 0; c < COLUMNS; ++c) some[c] = _mm256_maddubs_epi16(weights[first], same(four_of(other + c * stride + 4 * first)));
            for (int four = first + 1; four < first + TOGETHER; ++four)
                for (int c = 0; c < COLUMNS; ++c)
                    some[c] = in_this_order<COLUMNS>(_mm256_add_epi16(some[c], _mm256_maddubs_epi16(weights[four], same(four_of(other + c * stride + 4 * four)))));
            for (int c = 0; c < COLUMNS; ++c) sums[c] = _mm256_add_epi32(sums[c], in_pairs(some[c]));
        }
    }
}
#endif
#endif

}  // namespace paddock
#endif
