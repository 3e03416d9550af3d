// Products of quantized weights and several rows of numbers, sixteen or eight rows of weights at a time. See paddock_loops.h, which reads this.
//
// Thirty-two numbers of these rows are turned, so that each register holds four numbers of every row (paddock_lanes.h); each is multiplied with four numbers of several
// other rows. llama.cpp multiplies row by row (Q8_0, Q5_0), which takes more instructions, unpacks for many rows (Q5_K, Q6_K), or has weights in another order (Q4_0, Q4_K). Sums of a block are whole
// numbers and exact; a result is the sum of the same blocks in the same order, whatever else is computed beside it.
#pragma once
#include "paddock_barrier.h"
#include "paddock_lanes.h"
#ifdef PADDOCK_PRODUCTS
#include <algorithm>
#include <atomic>
#include <vector>

namespace paddock {

constexpr int64_t MOST_ROWS = 512;  // that notes are kept of
constexpr int64_t FEW_UNITS = 160;  // of 32 numbers
constexpr int64_t FEW_ROWS = 16;    // for which weights come from main memory as fast as they can, each thread's in one piece
#ifndef PADDOCK_WORTH_DIVIDING
#define PADDOCK_WORTH_DIVIDING (1 << 20)  // products of two numbers for each thread: 30 to 50 microseconds
#endif
#ifndef PADDOCK_PARTS
#define PADDOCK_PARTS 8  // for each thread
#endif
#ifndef PADDOCK_BARRIER
static inline std::atomic<int> *parts_taken() { return nullptr; }
#endif

struct Tile {  // 32 numbers of some rows of weights, four by four, and a factor of each row for the first half and the second
    Ints numbers[FOURS];
    Floats factors[2];  // or in place of the second, where weights have no sign, the least of them, negative
};

struct Room {  // of one thread
    std::vector<Tile> tiles;
    std::vector<float> factors;  // of the other rows, one for each unit
    std::vector<int32_t> sums;   // of their numbers, times what is above, for each part that has a factor
    std::vector<float> least;    // sums of their numbers times their factors, for each chunk, where weights have a least one
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

struct Plain {
    static constexpr bool has_least = false;
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
    static constexpr int64_t bytes = 18, chunks = 1, parts = 1, at_once = AT_ONCE;
    static constexpr int above = 8, together = 8;
    static inline __m256i numbers(const uint8_t *unit, int) { return nibbles(_mm_loadu_si128((const __m128i *)(unit + 2))); }
    static inline void factors(const uint8_t *const *rows, int64_t offset, Tile *tile) { tile->factors[0] = halves(rows, offset); }
    static inline void sums(const uint8_t *unit, int32_t *to) { *to = -above * sum_of_32(unit + Other::numbers); }
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
    static inline void sums(const uint8_t *unit, int32_t *to) {
        for (int part = 0; part < 16; ++part) {
            int16_t sum;
            memcpy(&sum, unit + 260 + 2 * part, 2);
            to[part] = -above * sum;
        }
    }
};

// A factor and one of the least numbers, in six bits for each chunk a scale and a least number, for Q5_K the fifth bits of 256 numbers, then four bits of each
template <bool FIFTH> struct WithLeast {
    using Other = OfQ8_K;
    static constexpr bool has_least = true;
    static constexpr int64_t bytes = FIFTH ? 176 : 144, chunks = 8, parts = 1, at_once = AT_ONCE;
    static constexpr int above = 0, together = FIFTH ? 4 : 8;
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
    static inline float sum(const uint8_t *unit, int chunk) {
        int16_t halves[2];
        memcpy(halves, unit + 260 + 4 * chunk, 4);
        return (float)(halves[0] + halves[1]);
    }
};
using Q4_K = WithLeast<false>;
using Q5_K = WithLeast<true>;

template <typename Kind> static inline void turn_all(const uint8_t *const *rows, int64_t ahead, int64_t units, Tile *tiles) {
    for (int64_t unit = 0; unit < units; ++unit) {
        const int64_t offset = unit * Kind::bytes;
        Tile *tile = tiles + unit * Kind::chunks;
        for (int chunk = 0; chunk < Kind::chunks; ++chunk) {
            ask_for_next(rows, ahead, offset + chunk * Kind::bytes / Kind::chunks, Kind::bytes / Kind::chunks);  // on their way while these are multiplied
            __m256i numbers[LANES];
            for (int row = 0; row < LANES; ++row) numbers[row] = Kind::numbers(rows[row] + offset, chunk);
            turn(numbers, tile[chunk].numbers);
        }
        Kind::factors(rows, offset, tile);
    }
}

template <typename Kind, int COLUMNS>
static inline void multiply(int64_t columns, const Tile *tiles, int64_t units, const uint8_t *other, int64_t stride, const float *factors, const int32_t *sums,
                            const float *least, float *out, int64_t out_stride, int64_t kept) {
    if constexpr (COLUMNS > 1)
        if (columns < COLUMNS) return multiply<Kind, COLUMNS - 1>(columns, tiles, units, other, stride, factors, sums, least, out, out_stride, kept);
    constexpr int64_t step = FOURS / Kind::parts;
    const int64_t parts = units * Kind::chunks * Kind::parts;
    Floats found[COLUMNS];
    for (int c = 0; c < COLUMNS; ++c) found[c] = no_floats();
    for (int64_t unit = 0; unit < units; ++unit) {
        const uint8_t *numbers = other + unit * Kind::Other::bytes + Kind::Other::numbers;
        for (int64_t part = 0; part < Kind::chunks * Kind::parts; ++part) {
            const int64_t place = unit * Kind::chunks * Kind::parts + part;
            const Tile *tile = tiles + place / Kind::parts;
            Ints sum[COLUMNS];
            for (int c = 0; c < COLUMNS; ++c) sum[c] = same(Kind::above ? sums[c * parts + place] : 0);
            add_products<COLUMNS, step, Kind::together>(sum, tile->numbers + (place % Kind::parts) * step, numbers + 4 * part * step, stride);
            for (int c = 0; c < COLUMNS; ++c)
                found[c] = plus_times(found[c], floats_of(sum[c]), times(tile->factors[place % Kind::parts], factors[c * units + unit]));
            if constexpr (Kind::has_least)
                for (int c = 0; c < COLUMNS; ++c) found[c] = plus_times(found[c], tile->factors[1], least[c * parts + place]);
        }
    }
    for (int c = 0; c < COLUMNS; ++c) store(out + c * out_stride, found[c], kept);
}

#ifdef PADDOCK_ALONE
// With a single other row nothing is turned: the same whole numbers, added up row by row of the weights.
template <typename Kind>
static inline void multiply_alone(const uint8_t *const *rows, int64_t ahead, int64_t units, const uint8_t *other, const float *factors, const int32_t *sums, const float *least, float *out,
                                  int64_t kept) {
    Tile tiles[Kind::chunks];
    Floats found = no_floats();
    for (int64_t unit = 0; unit < units; ++unit) {
        const int64_t offset = unit * Kind::bytes;
        Kind::factors(rows, offset, tiles);
        for (int chunk = 0; chunk < Kind::chunks; ++chunk) {
            const int64_t place = (unit * Kind::chunks + chunk) * Kind::parts;
            ask_for_next(rows, ahead, offset + chunk * Kind::bytes / Kind::chunks, Kind::bytes / Kind::chunks);
            const __m256i numbers = _mm256_loadu_si256((const __m256i *)(other + unit * Kind::Other::bytes + Kind::Other::numbers + 32 * chunk));
            Ints sum[LANES], halves[2];
            for (int row = 0; row < LANES; ++row) sum[row] = products_in_fours<Kind::together == 0>(Kind::numbers(rows[row] + offset, chunk), numbers);
            sums_of_halves(sum, halves);
            if constexpr (Kind::parts == 1) halves[0] = _mm256_add_epi32(halves[0], halves[1]);
            for (int part = 0; part < Kind::parts; ++part) {
                if constexpr (Kind::above != 0) halves[part] = _mm256_add_epi32(halves[part], same(sums[place + part]));
                found = plus_times(found, floats_of(halves[part]), times(tiles[chunk].factors[part], factors[unit]));
            }
            if constexpr (Kind::has_least) found = plus_times(found, tiles[chunk].factors[1], least[place]);
        }
    }
    store(out, found, kept);
}
#endif

// Which tiles a thread computes: a share of its own, and of what is left, if anything, the next part whenever it is free. Cores may differ, or have something else to do.
struct Division {
    int64_t tiles, left, parts;
    int thread, threads;
    std::atomic<int> *taken;
    struct Range {
        int64_t tile, end;
    };
    Range share() const { return {(tiles - left) * thread / threads, (tiles - left) * (thread + 1) / threads}; }
    Range next() const {
        const int64_t part = left ? taken->fetch_add(1, std::memory_order_relaxed) : parts;
        return part < parts ? Range{tiles - left + left * part / parts, tiles - left + left * (part + 1) / parts} : Range{tiles, tiles};
    }
};

static inline Division divided(int64_t tiles, int64_t n, int64_t numbers, int thread, int threads) {
    const bool is_worth_it = threads > 1 && n > FEW_ROWS && n <= MOST_ROWS && tiles * LANES * n * numbers >= (int64_t)PADDOCK_WORTH_DIVIDING * threads;
    std::atomic<int> *const taken = is_worth_it ? parts_taken() : nullptr;
    const int64_t left = taken ? tiles * 7 / 8 : 0;
    return {tiles, left, std::min<int64_t>(left, PADDOCK_PARTS * threads), thread, threads, taken};
}

template <typename Kind>
static inline void some(int64_t m, int64_t n, int64_t units, const uint8_t *weights, int64_t weights_stride, const uint8_t *other, int64_t stride, float *out,
                        int64_t out_stride, const Division &division) {
    static thread_local Room room;
    const int64_t parts = units * Kind::chunks * Kind::parts;
    room.tiles.resize(units * Kind::chunks);
    room.factors.resize(n * units);
    room.sums.resize(Kind::above ? n * parts : 0);
    room.least.resize(Kind::has_least ? n * parts : 0);
    for (int64_t column = 0; column < n; ++column)
        for (int64_t unit = 0; unit < units; ++unit) {
            const uint8_t *at = other + column * stride + unit * Kind::Other::bytes;
            room.factors[column * units + unit] = Kind::Other::factor(at);
            if constexpr (Kind::above) Kind::sums(at, &room.sums[column * parts + unit * Kind::chunks * Kind::parts]);
            if constexpr (Kind::has_least)
                for (int chunk = 0; chunk < Kind::chunks; ++chunk)
                    room.least[column * parts + unit * Kind::chunks + chunk] = room.factors[column * units + unit] * Kind::sum(at, chunk);
        }
    Division::Range now = division.share();
    if (now.tile == now.end) now = division.next();
    while (now.tile < now.end) {
        const Division::Range then = now.tile + 1 < now.end ? Division::Range{now.tile + 1, now.end} : division.next();
        const int64_t first = now.tile * LANES, there = m - first < LANES ? m - first : LANES;
        const uint8_t *rows[LANES];
        for (int64_t row = 0; row < LANES; ++row) rows[row] = weights + (first + (row < there ? row : there - 1)) * weights_stride;
        const int64_t ahead = (then.tile - now.tile) * LANES * weights_stride;
        now = then;
#ifdef PADDOCK_ALONE
        if (n == 1) {
            multiply_alone<Kind>(rows, ahead, units, other, room.factors.data(), room.sums.data(), room.least.data(), out + first, there);
            continue;
        }
#endif
        turn_all<Kind>(rows, ahead, units, room.tiles.data());
        for (int64_t column = 0; column < n; column += Kind::at_once)
            multiply<Kind, Kind::at_once>(n - column < Kind::at_once ? n - column : Kind::at_once, room.tiles.data(), units, other + column * stride, stride,
                                          room.factors.data() + column * units, room.sums.data() + column * parts, room.least.data() + column * parts,
                                          out + column * out_stride + first, out_stride, there);
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

// `m` rows of weights with `n` other rows, `units` in each; strides in units, that of the results in numbers. Each thread does its part of the rows of weights.
template <typename Kind>
static inline void product(int64_t m, int64_t n, int64_t units, const void *weights, int64_t weights_stride, const void *other, int64_t other_stride, void *out,
                           int64_t out_stride, int thread, int threads) {
    const int64_t stride = other_stride * Kind::Other::bytes;
    const Division division = divided((m + LANES - 1) / LANES, n, 32 * Kind::chunks * units, thread, threads);
    for (int64_t first = 0; first < n; first += MOST_ROWS)
        some<Kind>(m, n - first < MOST_ROWS ? n - first : MOST_ROWS, units, (const uint8_t *)weights, weights_stride * Kind::bytes,
                   (const uint8_t *)other + first * stride, stride, (float *)out + first * out_stride, out_stride, division);
}

}  // namespace paddock
#endif
