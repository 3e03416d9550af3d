// Kinds of quantized weights and of the rows that are multiplied with them, as llama.cpp lays them out, for paddock_products.h: where in a unit its numbers are, and its factors.
#pragma once
#include "paddock_lanes.h"
#ifdef PADDOCK_PRODUCTS

namespace paddock {

struct Tile {  // 32 numbers of some rows of weights, four by four, and a factor of each row for the first half and the second
    Ints numbers[FOURS];
    Floats factors[2];  // or in place of the second, where weights have no sign, the least of them, negative
};

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

// Of the numbers of such a unit: of each sixteen, times a factor, and of the two in a chunk
static inline void sums_of_parts(const uint8_t *unit, int factor, int32_t *to) {
    for (int part = 0; part < 16; ++part) {
        int16_t sum;
        memcpy(&sum, unit + 260 + 2 * part, 2);
        to[part] = factor * sum;
    }
}
static inline int32_t sum_of_chunk(const uint8_t *unit, int chunk) {
    int16_t parts[2];
    memcpy(parts, unit + 260 + 4 * chunk, 4);
    return parts[0] + parts[1];
}

struct Plain {
    static constexpr bool has_least = false;
    static constexpr int64_t fours = 0;  // where in a unit are sixteen bytes for each chunk, with the low four bits of its first half and the high ones of its second
    static constexpr int64_t fours_of_two = 0;  // or 32 bytes for each two chunks, with the low ones of the first and the high ones of the second
};

struct Q8_0 : Plain {
    using Other = OfQ8_0;
    static constexpr int64_t bytes = 34, chunks = 1, parts = 1;  // of a unit; chunks of 32 numbers in it, and parts with a factor in a chunk
    static constexpr int64_t at_once = AT_ONCE;                  // other rows that are multiplied together
    static constexpr int above = HAS_SIGNS ? 0 : 128;            // what is added to a number so that none is negative
    static constexpr int together = HAS_SIGNS ? 0 : 1;           // products that may be added up in 16 bits (add_products)
    static inline __m256i numbers(const uint8_t *unit, int) {
        return _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(unit + 2)), _mm256_set1_epi8((char)above));
    }
    static inline void factors(const uint8_t *const *rows, int64_t offset, Tile *tile) { tile->factors[0] = halves(rows, offset); }
    static inline void sums(const uint8_t *unit, int32_t *to) { *to = -above * sum_of_32(unit + Other::numbers); }
};

struct Q5_0 : Plain {
    using Other = OfQ8_0;
    static constexpr int64_t bytes = 22, chunks = 1, parts = 1, at_once = AT_ONCE;
    static constexpr int above = 16, together = 4;
    static inline __m256i numbers(const uint8_t *unit, int) {
        uint32_t fifth;
        memcpy(&fifth, unit + 2, 4);
        return with_fifth(nibbles(_mm_loadu_si128((const __m128i *)(unit + 6))), fifth);
    }
    static inline void factors(const uint8_t *const *rows, int64_t offset, Tile *tile) { tile->factors[0] = halves(rows, offset); }
    static inline void sums(const uint8_t *unit, int32_t *to) { *to = -above * sum_of_32(unit + Other::numbers); }
};

struct Q4_0 : Plain {
    using Other = OfQ8_0;
    static constexpr int64_t bytes = 18, chunks = 1, parts = 1, at_once = AT_ONCE, fours = 2;
    static constexpr int above = 8, together = 8;
    static inline __m256i of_fours(__m256i which) { return which; }
    static inline __m256i numbers(const uint8_t *unit, int) { return nibbles(_mm_loadu_si128((const __m128i *)(unit + fours))); }
    static inline void factors(const uint8_t *const *rows, int64_t offset, Tile *tile) { tile->factors[0] = halves(rows, offset); }
    static inline void sums(const uint8_t *unit, int32_t *to) { *to = -above * sum_of_32(unit + Other::numbers); }
};

// Four bits say which of sixteen numbers it is: one of `table`, and so much above it
template <int ABOVE> static inline __m256i looked_up(const int8_t *table, __m256i which) {
    const __m128i all = _mm_add_epi8(_mm_loadu_si128((const __m128i *)table), _mm_set1_epi8((char)ABOVE));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(all), which);
}

struct MXFP4 : Plain {  // whole numbers are twice what is meant
    using Other = OfQ8_0;
    static constexpr int64_t bytes = 17, chunks = 1, parts = 1, at_once = AT_ONCE, fours = 1;
    static constexpr int above = 12, together = 4;
    static inline __m256i of_fours(__m256i which) {
        static constexpr int8_t table[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
        return looked_up<above>(table, which);
    }
    static inline __m256i numbers(const uint8_t *unit, int) { return of_fours(nibbles(_mm_loadu_si128((const __m128i *)(unit + fours)))); }
    static inline void factors(const uint8_t *const *rows, int64_t offset, Tile *tile) { tile->factors[0] = halves_of_powers(rows, offset); }
    static inline void sums(const uint8_t *unit, int32_t *to) { *to = -above * sum_of_32(unit + Other::numbers); }
};

struct Uneven : Plain {  // sixteen numbers, closer to each other where they are small
    static constexpr int above = HAS_SIGNS ? 0 : 128, together = HAS_SIGNS ? 0 : 1;
    static inline __m256i of_fours(__m256i which) {
        static constexpr int8_t table[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
        return looked_up<above>(table, which);
    }
};

struct IQ4_NL : Uneven {
    using Other = OfQ8_0;
    static constexpr int64_t bytes = 18, chunks = 1, parts = 1, at_once = AT_ONCE, fours = 2;
    static inline __m256i numbers(const uint8_t *unit, int) { return of_fours(nibbles(_mm_loadu_si128((const __m128i *)(unit + fours)))); }
    static inline void factors(const uint8_t *const *rows, int64_t offset, Tile *tile) { tile->factors[0] = halves(rows, offset); }
    static inline void sums(const uint8_t *unit, int32_t *to) { *to = -above * sum_of_32(unit + Other::numbers); }
};

struct IQ4_XS : Uneven {  // a factor, the two high bits of eight scales, their four low ones, 256 numbers
    using Other = OfQ8_K;
    static constexpr int64_t bytes = 136, chunks = 8, parts = 1, at_once = AT_ONCE, fours = 8;
    static inline __m256i numbers(const uint8_t *unit, int chunk) { return of_fours(nibbles(_mm_loadu_si128((const __m128i *)(unit + fours + 16 * chunk)))); }
    static inline void factors(const uint8_t *const *rows, int64_t offset, Tile *tiles) {
        const Floats common = halves(rows, offset);
        const Ints high = fours_of(rows, offset), low = fours_of(rows, offset + 4);
        for (int chunk = 0; chunk < 8; ++chunk)
            tiles[chunk].factors[0] = times(common, floats_of(plus(six_bits(bits(low, 4 * chunk, 4), bits(high, 16 + 2 * chunk, 2)), same(-32))));
    }
    static inline void sums(const uint8_t *unit, int32_t *to) {
        for (int chunk = 0; chunk < 8; ++chunk) to[chunk] = -above * sum_of_chunk(unit, chunk);
    }
};

struct Q3_K : Plain {  // the third bits of 256 numbers, their low two, sixteen scales in six bits, a factor
    using Other = OfQ8_K;
    static constexpr int64_t bytes = 110, chunks = 8, parts = 2, at_once = LANES > 8 ? AT_ONCE : AT_ONCE - 1;
    static constexpr int above = 4, together = 4;
    static inline __m256i numbers(const uint8_t *unit, int chunk) {
        const __m256i thirds = _mm256_loadu_si256((const __m256i *)unit), pairs = _mm256_loadu_si256((const __m256i *)(unit + 32 + 32 * (chunk / 4)));
        const __m256i two = _mm256_and_si256(_mm256_srli_epi16(pairs, 2 * (chunk % 4)), _mm256_set1_epi8(3));
        const __m256i third = chunk < 2 ? _mm256_slli_epi16(thirds, 2 - chunk) : _mm256_srli_epi16(thirds, chunk - 2);
        return _mm256_or_si256(two, _mm256_and_si256(third, _mm256_set1_epi8(4)));
    }
    static inline void factors(const uint8_t *const *rows, int64_t offset, Tile *tiles) {
        const Floats common = halves(rows, offset + 108);
        const Ints low[2] = {fours_of(rows, offset + 96), fours_of(rows, offset + 100)}, high = fours_of(rows, offset + 104);
        for (int part = 0; part < 16; ++part) {
            const int byte = 8 * (part % 4);
            const Ints scale = six_bits(bits(low[part / 4 % 2], byte + part / 8 * 4, 4), bits(high, byte + part / 4 * 2, 2));
            tiles[part / 2].factors[part % 2] = times(common, floats_of(plus(scale, same(-32))));
        }
    }
    static inline void sums(const uint8_t *unit, int32_t *to) { sums_of_parts(unit, -above, to); }
};

struct Q6_K : Plain {  // low bits of 256 numbers, high ones, sixteen scales, a factor
    using Other = OfQ8_K;
    static constexpr int64_t bytes = 210, chunks = 8, parts = 2, at_once = LANES > 8 ? AT_ONCE : AT_ONCE - 1;
    static constexpr int above = 32, together = 2;
    static inline __m256i numbers(const uint8_t *unit, int chunk) {
        const int part = chunk % 4;
        const __m256i low = _mm256_loadu_si256((const __m256i *)(unit + 64 * (chunk / 4) + 32 * (part % 2)));
        const __m256i high = _mm256_loadu_si256((const __m256i *)(unit + 128 + 32 * (chunk / 4)));
        const __m256i four = _mm256_and_si256(part < 2 ? low : _mm256_srli_epi16(low, 4), _mm256_set1_epi8(15));
        const __m256i two = part < 2 ? _mm256_slli_epi16(high, 4 - 2 * part) : _mm256_srli_epi16(high, 2 * part - 4);
        return _mm256_or_si256(four, _mm256_and_si256(two, _mm256_set1_epi8(48)));
    }
    static inline void factors(const uint8_t *const *rows, int64_t offset, Tile *tiles) {
        const Floats common = halves(rows, offset + 208);
        Floats scales[16];
        bytes_of(rows, offset + 192, scales);
        for (int part = 0; part < 16; ++part) tiles[part / 2].factors[part % 2] = times(common, scales[part]);
    }
    static inline void sums(const uint8_t *unit, int32_t *to) { sums_of_parts(unit, -above, to); }
};

// A factor and one of the least numbers, in six bits for each chunk a scale and a least number, for Q5_K the fifth bits of 256 numbers, then four bits of each
template <bool FIFTH> struct WithLeast : Plain {
    using Other = OfQ8_K;
    static constexpr bool has_least = true;
    static constexpr int64_t bytes = FIFTH ? 176 : 144, chunks = 8, parts = 1, at_once = AT_ONCE;
    static constexpr int above = 0, together = FIFTH ? 4 : 8;
    static constexpr int64_t fours_of_two = FIFTH ? 0 : 16;
    static inline __m256i numbers(const uint8_t *unit, int chunk) {
        const __m256i pairs = _mm256_loadu_si256((const __m256i *)(unit + (FIFTH ? 48 : 16) + 32 * (chunk / 2)));
        const __m256i four = _mm256_and_si256(chunk % 2 ? _mm256_srli_epi16(pairs, 4) : pairs, _mm256_set1_epi8(15));
        if constexpr (!FIFTH) return four;
        const __m256i fifths = _mm256_loadu_si256((const __m256i *)(unit + 16));
        const __m256i there = chunk < 4 ? _mm256_slli_epi16(fifths, 4 - chunk) : _mm256_srli_epi16(fifths, chunk - 4);
        return _mm256_or_si256(four, _mm256_and_si256(there, _mm256_set1_epi8(16)));
    }
    static inline void factors(const uint8_t *const *rows, int64_t offset, Tile *tiles) {
        const Floats common = halves(rows, offset), least = times(halves(rows, offset + 2), -1.0f);
        const Ints first = fours_of(rows, offset + 4), second = fours_of(rows, offset + 8), third = fours_of(rows, offset + 12);
        for (int chunk = 0; chunk < 4; ++chunk) {
            const int at = 8 * chunk;
            tiles[chunk].factors[0] = times(common, floats_of(bits(first, at, 6)));
            tiles[chunk].factors[1] = times(least, floats_of(bits(second, at, 6)));
            tiles[chunk + 4].factors[0] = times(common, floats_of(six_bits(bits(third, at, 4), bits(first, at + 6, 2))));
            tiles[chunk + 4].factors[1] = times(least, floats_of(six_bits(bits(third, at + 4, 4), bits(second, at + 6, 2))));
        }
    }
};
using Q4_K = WithLeast<false>;
using Q5_K = WithLeast<true>;

}  // namespace paddock
#endif
