// Products of quantized weights and several rows of numbers, sixteen rows of weights at a time. See paddock_loops.h, which reads this.
//
// Thirty-two numbers of sixteen rows are turned, so that each register holds four numbers of every row; each is multiplied with four numbers of up to eight other
// rows. llama.cpp multiplies row by row (Q8_0, Q5_0), which takes four times as many instructions, or unpacks for many rows (Q6_K). Sums of a block are whole
// numbers and exact; a result is the sum of the same blocks in the same order, whatever else is computed beside it.
#pragma once
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
#define PADDOCK_PRODUCTS
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <vector>

namespace paddock {

constexpr int64_t LANES = 16, FOURS = 8;           // rows of weights in a register; fours of numbers in a chunk of 32
constexpr int64_t AT_ONCE = 8, MOST_ROWS = 512;    // other rows in registers, and those that notes are kept of
constexpr int64_t FEW_UNITS = 160;                 // of 32 numbers

struct Tile {  // 32 numbers of sixteen rows of weights, four by four, and a factor of each row for the first half and the second
    __m512i numbers[FOURS];
    __m512 factors[2];
};

struct Room {  // of one thread
    std::vector<Tile> tiles;
    std::vector<float> factors;  // of the other rows, one for each chunk
    std::vector<int32_t> sums;   // of their numbers, times what is above, for each part that has a factor
};

static inline __m512 halves(const uint8_t *const *rows, int64_t offset) {
    alignas(32) uint16_t found[LANES];
    for (int row = 0; row < LANES; ++row) memcpy(found + row, rows[row] + offset, 2);
    return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)found));
}

static inline float half(const uint8_t *at) {
    uint16_t found;
    memcpy(&found, at, 2);
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(found)));
}

static inline int32_t sum_of_32(const uint8_t *at) {
    const __m256i fours = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), _mm256_loadu_si256((const __m256i *)at));
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}

static inline __m256i nibbles(__m128i pairs) {  // low ones, then high ones
    return _mm256_and_si256(_mm256_inserti128_si256(_mm256_castsi128_si256(pairs), _mm_srli_epi16(pairs, 4), 1), _mm256_set1_epi8(15));
}

struct OfQ8_0 {  // the other rows, for weights in units of 32: a factor, and signed numbers
    static constexpr int64_t bytes = 34, numbers = 2;
    static inline float factor(const uint8_t *unit) { return half(unit); }
};

struct OfQ8_K {  // for weights in units of 256
    static constexpr int64_t bytes = 292, numbers = 4;
    static inline float factor(const uint8_t *unit) {
        float found;
        memcpy(&found, unit, 4);
        return found;
    }
};

struct Q8_0 {
    using Other = OfQ8_0;
    static constexpr int64_t bytes = 34, chunks = 1, parts = 1;  // of a unit; chunks of 32 numbers in it, and parts with a factor in a chunk
    static constexpr int above = 128;                            // what is added to a number so that none is negative
    static inline __m256i numbers(const uint8_t *unit, int) {
        return _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(unit + 2)), _mm256_set1_epi8((char)0x80));
    }
    static inline void factors(const uint8_t *const *rows, int64_t offset, Tile *tile) { tile->factors[0] = halves(rows, offset); }
    static inline void sums(const uint8_t *unit, int32_t *to) { *to = -above * sum_of_32(unit + Other::numbers); }
};

struct Q5_0 {
    using Other = OfQ8_0;
    static constexpr int64_t bytes = 22, chunks = 1, parts = 1;
    static constexpr int above = 16;
    static inline __m256i numbers(const uint8_t *unit, int) {
        uint32_t fifth;
        memcpy(&fifth, unit + 2, 4);
        const __m256i low = nibbles(_mm_loadu_si128((const __m128i *)(unit + 6)));
        return _mm256_mask_add_epi8(low, (__mmask32)fifth, low, _mm256_set1_epi8(16));
    }
    static inline void factors(const uint8_t *const *rows, int64_t offset, Tile *tile) { tile->factors[0] = halves(rows, offset); }
    static inline void sums(const uint8_t *unit, int32_t *to) { *to = -above * sum_of_32(unit + Other::numbers); }
};

struct Q6_K {  // low bits of 256 numbers, high ones, sixteen scales, a factor
    using Other = OfQ8_K;
    static constexpr int64_t bytes = 210, chunks = 8, parts = 2;
    static constexpr int above = 32;
    static inline __m256i numbers(const uint8_t *unit, int chunk) {
        const int part = chunk % 4;
        const __m256i low = _mm256_loadu_si256((const __m256i *)(unit + 64 * (chunk / 4) + 32 * (part % 2)));
        const __m256i high = _mm256_loadu_si256((const __m256i *)(unit + 128 + 32 * (chunk / 4)));
        const __m256i four = _mm256_and_si256(part < 2 ? low : _mm256_srli_epi16(low, 4), _mm256_set1_epi8(15));
        const __m256i two = part < 2 ? _mm256_slli_epi16(high, 4 - 2 * part) : _mm256_srli_epi16(high, 2 * part - 4);
        return _mm256_or_si256(four, _mm256_and_si256(two, _mm256_set1_epi8(48)));
    }
    static inline void factors(const uint8_t *const *rows, int64_t offset, Tile *tiles) {
        const __m512 common = halves(rows, offset + 208);
        alignas(64) int8_t scales[16][LANES];
        for (int row = 0; row < LANES; ++row)
            for (int part = 0; part < 16; ++part) scales[part][row] = (int8_t)rows[row][offset + 192 + part];
        for (int part = 0; part < 16; ++part)
            tiles[part / 2].factors[part % 2] = _mm512_mul_ps(common, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_load_si128((const __m128i *)scales[part]))));
    }
    static inline void sums(const uint8_t *unit, int32_t *to) {
        for (int part = 0; part < 16; ++part) {
            int16_t sum;
            memcpy(&sum, unit + 260 + 2 * part, 2);
            to[part] = -above * sum;
        }
    }
};

template <typename Kind> static inline void turn(const uint8_t *const *rows, int64_t offset, int chunk, Tile *tile) {
    __m512i in[FOURS], pairs[FOURS];
    for (int i = 0; i < 8; ++i) {
        const int low = i < 4 ? i : i + 4;
        const __m256i first = Kind::numbers(rows[low] + offset, chunk), second = Kind::numbers(rows[low + 4] + offset, chunk);
        in[i] = _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
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
        tile->numbers[i] = _mm512_shuffle_i64x2(pairs[i], pairs[i + 4], 0x88);
        tile->numbers[i + 4] = _mm512_shuffle_i64x2(pairs[i], pairs[i + 4], 0xdd);
    }
}

template <typename Kind> static inline void turn_all(const uint8_t *const *rows, int64_t stride, int64_t units, Tile *tiles) {
    for (int64_t unit = 0; unit < units; ++unit) {
        const int64_t offset = unit * Kind::bytes;
        Tile *tile = tiles + unit * Kind::chunks;
        for (int chunk = 0; chunk < Kind::chunks; ++chunk) {
            for (int row = 0; row < LANES; ++row)  // the next sixteen rows are on their way while these are multiplied
                _mm_prefetch((const char *)(rows[row] + LANES * stride + offset + chunk * Kind::bytes / Kind::chunks), _MM_HINT_T1);
            turn<Kind>(rows, offset, chunk, tile + chunk);
        }
        Kind::factors(rows, offset, tile);
    }
}

template <typename Kind, int COLUMNS>
static inline void multiply(const Tile *tiles, int64_t units, const uint8_t *other, int64_t stride, const float *factors, const int32_t *sums, float *out,
                            int64_t out_stride, __mmask16 kept) {
    constexpr int64_t step = FOURS / Kind::parts;
    const int64_t parts = units * Kind::chunks * Kind::parts;
    __m512 found[COLUMNS];
    for (int c = 0; c < COLUMNS; ++c) found[c] = _mm512_setzero_ps();
    for (int64_t unit = 0; unit < units; ++unit) {
        const uint8_t *numbers = other + unit * Kind::Other::bytes + Kind::Other::numbers;
        for (int64_t part = 0; part < Kind::chunks * Kind::parts; ++part) {
            const int64_t place = unit * Kind::chunks * Kind::parts + part;
            const Tile *tile = tiles + place / Kind::parts;
            __m512i sum[COLUMNS];
            for (int c = 0; c < COLUMNS; ++c) sum[c] = _mm512_set1_epi32(sums[c * parts + place]);
            for (int64_t t = 0; t < step; ++t) {
                const __m512i weights = tile->numbers[(place % Kind::parts) * step + t];
                for (int c = 0; c < COLUMNS; ++c) {
                    int32_t four;
                    memcpy(&four, numbers + c * stride + 4 * (part * step + t), 4);
                    sum[c] = _mm512_dpbusd_epi32(sum[c], weights, _mm512_set1_epi32(four));
                }
            }
            for (int c = 0; c < COLUMNS; ++c) {
                const __m512 factor = _mm512_mul_ps(tile->factors[place % Kind::parts], _mm512_set1_ps(factors[c * units + unit]));
                found[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[c]), factor, found[c]);
            }
        }
    }
    for (int c = 0; c < COLUMNS; ++c) _mm512_mask_storeu_ps(out + c * out_stride, kept, found[c]);
}

template <typename Kind>
static inline void some(int64_t m, int64_t n, int64_t units, const uint8_t *weights, int64_t weights_stride, const uint8_t *other, int64_t stride, float *out,
                        int64_t out_stride, int thread, int threads) {
    static thread_local Room room;
    const int64_t tiles = (m + LANES - 1) / LANES, end = tiles * (thread + 1) / threads, parts = units * Kind::chunks * Kind::parts;
    room.tiles.resize(units * Kind::chunks);
    room.factors.resize(n * units);
    room.sums.resize(n * parts);
    for (int64_t column = 0; column < n; ++column)
        for (int64_t unit = 0; unit < units; ++unit) {
            const uint8_t *at = other + column * stride + unit * Kind::Other::bytes;
            room.factors[column * units + unit] = Kind::Other::factor(at);
            Kind::sums(at, &room.sums[column * parts + unit * Kind::chunks * Kind::parts]);
        }
    for (int64_t tile = tiles * thread / threads; tile < end; ++tile) {
        const int64_t first = tile * LANES, there = m - first < LANES ? m - first : LANES;
        const uint8_t *rows[LANES];
        for (int64_t row = 0; row < LANES; ++row) rows[row] = weights + (first + (row < there ? row : there - 1)) * weights_stride;
        turn_all<Kind>(rows, weights_stride, units, room.tiles.data());
        const __mmask16 kept = (__mmask16)((1u << there) - 1);
        for (int64_t column = 0; column < n; column += AT_ONCE) {
            const Tile *turned = room.tiles.data();
            const uint8_t *from = other + column * stride;
            const float *factors = &room.factors[column * units];
            const int32_t *sums = &room.sums[column * parts];
            float *to = out + column * out_stride + first;
            switch (n - column < AT_ONCE ? n - column : AT_ONCE) {
            case 1: multiply<Kind, 1>(turned, units, from, stride, factors, sums, to, out_stride, kept); break;
            case 2: multiply<Kind, 2>(turned, units, from, stride, factors, sums, to, out_stride, kept); break;
            case 3: multiply<Kind, 3>(turned, units, from, stride, factors, sums, to, out_stride, kept); break;
            case 4: multiply<Kind, 4>(turned, units, from, stride, factors, sums, to, out_stride, kept); break;
            case 5: multiply<Kind, 5>(turned, units, from, stride, factors, sums, to, out_stride, kept); break;
            case 6: multiply<Kind, 6>(turned, units, from, stride, factors, sums, to, out_stride, kept); break;
            case 7: multiply<Kind, 7>(turned, units, from, stride, factors, sums, to, out_stride, kept); break;
            default: multiply<Kind, 8>(turned, units, from, stride, factors, sums, to, out_stride, kept);
            }
        }
    }
}

// Few enough that each thread puts them all into eight bits by itself sooner than it would hear that the others have done their share.
static inline bool are_few(int64_t rows, int64_t units) { return rows * units <= FEW_UNITS; }

// Rows of numbers in the units of Q8_0, of the calling thread until it asks again.
static inline const void *in_eight_bits(int64_t rows, int64_t units, const float *from, int64_t stride, void (*convert)(const float *, void *, int64_t)) {
    static thread_local std::vector<uint8_t> found;
    found.resize(rows * units * OfQ8_0::bytes);
    for (int64_t row = 0; row < rows; ++row) convert(from + row * stride, found.data() + row * units * OfQ8_0::bytes, 32 * units);
    return found.data();
}

// `m` rows of weights with `n` other rows, `units` in each; strides in units, that of the results in numbers. Each thread does its share of the rows of weights.
template <typename Kind>
static inline void product(int64_t m, int64_t n, int64_t units, const void *weights, int64_t weights_stride, const void *other, int64_t other_stride, void *out,
                           int64_t out_stride, int thread, int threads) {
    const int64_t stride = other_stride * Kind::Other::bytes;
    for (int64_t first = 0; first < n; first += MOST_ROWS)
        some<Kind>(m, n - first < MOST_ROWS ? n - first : MOST_ROWS, units, (const uint8_t *)weights, weights_stride * Kind::bytes,
                   (const uint8_t *)other + first * stride, stride, (float *)out + first * out_stride, out_stride, thread, threads);
}

}  // namespace paddock
#endif
