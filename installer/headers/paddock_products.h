// Products of quantized weights and several rows of numbers, sixteen or eight rows of weights at a time. See paddock_loops.h, which reads this.
//
// Thirty-two numbers of these rows are turned, so that each register holds four numbers of every row (paddock_lanes.h); each is multiplied with four numbers of several
// other rows. llama.cpp multiplies row by row (Q8_0, Q5_0, experts), which takes more instructions, unpacks for many rows (Q3_K, Q5_K, Q6_K, IQ4_XS), or has weights in another order (Q4_0, Q4_K,
// IQ4_NL, MXFP4). Sums of a block are whole numbers and exact; a result is the sum of the same blocks in the same order, whatever else is computed beside it.
#pragma once
#include "paddock_barrier.h"
#include "paddock_kinds.h"
#ifdef PADDOCK_PRODUCTS
#include <algorithm>
#include <atomic>
#include <vector>

namespace paddock {

constexpr int64_t MOST_ROWS = 512;    // that notes are kept of
constexpr int64_t ROUTED_ROWS = 128;  // that are put together for an expert
constexpr int64_t FEW_UNITS = 160;    // of 32 numbers
constexpr int64_t FEW_ROWS = 16;      // for which weights come from main memory as fast as they can, each thread's in one piece
#ifndef PADDOCK_WORTH_DIVIDING
#define PADDOCK_WORTH_DIVIDING (1 << 20)  // products of two numbers for each thread: 30 to 50 microseconds
#endif
#ifndef PADDOCK_PARTS
#define PADDOCK_PARTS 8  // for each thread
#endif
#ifndef PADDOCK_BARRIER
static inline std::atomic<int> *parts_taken() { return nullptr; }
#endif

struct Room {  // of one thread
    std::vector<Tile> tiles;
    std::vector<float> factors;  // of the other rows, one for each unit
    std::vector<int32_t> sums;   // of their numbers, times what is above, for each part that has a factor
    std::vector<float> least;    // sums of their numbers times their factors, for each chunk, where weights have a least one
};

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
                            const float *least, float *const *out, int64_t place, int64_t kept) {
    if constexpr (COLUMNS > 1)
        if (columns < COLUMNS) return multiply<Kind, COLUMNS - 1>(columns, tiles, units, other, stride, factors, sums, least, out, place, kept);
    constexpr int64_t step = FOURS / Kind::parts;
    const int64_t parts = units * Kind::chunks * Kind::parts;
    Floats found[COLUMNS];
    for (int c = 0; c < COLUMNS; ++c) found[c] = no_floats();
    for (int64_t unit = 0; unit < units; ++unit) {
        const uint8_t *numbers = other + unit * Kind::Other::bytes + Kind::Other::numbers;
        for (int64_t part = 0; part < Kind::chunks * Kind::parts; ++part) {
            const int64_t at = unit * Kind::chunks * Kind::parts + part;
            const Tile *tile = tiles + at / Kind::parts;
            Ints sum[COLUMNS];
            for (int c = 0; c < COLUMNS; ++c) sum[c] = same(Kind::above ? sums[c * parts + at] : 0);
            add_products<COLUMNS, step, Kind::together>(sum, tile->numbers + (at % Kind::parts) * step, numbers + 4 * part * step, stride);
            for (int c = 0; c < COLUMNS; ++c)
                found[c] = plus_times(found[c], floats_of(sum[c]), times(tile->factors[at % Kind::parts], factors[c * units + unit]));
            if constexpr (Kind::has_least)
                for (int c = 0; c < COLUMNS; ++c) found[c] = plus_times(found[c], tile->factors[1], least[c * parts + at]);
        }
    }
    for (int c = 0; c < COLUMNS; ++c) store(out[c] + place, found[c], kept);
}

#ifdef PADDOCK_ALONE
// Sums of products of sixteen bytes of every row, with four bits for a number, two rows in a register
template <typename Kind> static inline Ints products_of_fours(const uint8_t *const *rows, int64_t offset, __m256i low_ones, __m256i high_ones) {
    static_assert(Kind::together != 1 || !HAS_SIGNS, "two are added up in 16 bits");
    const __m256i four_bits = _mm256_set1_epi8(15);
    Ints sums[LANES / 2];
    for (int row = 0; row < LANES / 2; ++row) {
        const __m256i pairs = both(rows[row] + offset, rows[row + LANES / 2] + offset);
        const __m256i low = Kind::of_fours(_mm256_and_si256(pairs, four_bits)), high = Kind::of_fours(_mm256_and_si256(_mm256_srli_epi16(pairs, 4), four_bits));
        sums[row] = products_in_fours<Kind::together == 0>(low, low_ones, high, high_ones);
    }
    return sums_of_fours(sums);
}

// The same of 32 bytes of every row, of which the low bits belong to one chunk and the high ones to the next
static inline void products_of_two_chunks(const uint8_t *const *rows, int64_t offset, const uint8_t *other, Ints *to) {
    const __m256i four_bits = _mm256_set1_epi8(15);
    Ints low[LANES / 2], high[LANES / 2];
    for (int row = 0; row < LANES / 2; ++row) {
        const uint8_t *one = rows[row] + offset, *two = rows[row + LANES / 2] + offset;
        const __m256i first = both(one, two), second = both(one + 16, two + 16);
        low[row] = products_in_fours<false>(_mm256_and_si256(first, four_bits), twice(other), _mm256_and_si256(second, four_bits), twice(other + 16));
        high[row] = products_in_fours<false>(_mm256_and_si256(_mm256_srli_epi16(first, 4), four_bits), twice(other + 32),
                                             _mm256_and_si256(_mm256_srli_epi16(second, 4), four_bits), twice(other + 48));
    }
    to[0] = sums_of_fours(low);
    to[1] = sums_of_fours(high);
}

// With a single other row nothing is turned: the same whole numbers, added up row by row of the weights.
template <typename Kind>
static inline void multiply_alone(const uint8_t *const *rows, int64_t ahead, int64_t units, const uint8_t *other, const float *factors, const int32_t *sums, const float *least, float *out,
                                  int64_t kept) {
    Tile tiles[Kind::chunks];
    Floats found = no_floats();
    Ints of_two[2] = {};
    for (int64_t unit = 0; unit < units; ++unit) {
        const int64_t offset = unit * Kind::bytes;
        Kind::factors(rows, offset, tiles);
        for (int chunk = 0; chunk < Kind::chunks; ++chunk) {
            const int64_t place = (unit * Kind::chunks + chunk) * Kind::parts;
            ask_for_next(rows, ahead, offset + chunk * Kind::bytes / Kind::chunks, Kind::bytes / Kind::chunks);
            const uint8_t *others = other + unit * Kind::Other::bytes + Kind::Other::numbers + 32 * chunk;
            const __m256i numbers = _mm256_loadu_si256((const __m256i *)others);
            Ints sum[LANES], halves[2];
            if constexpr (Kind::fours > 0) {
                halves[0] = products_of_fours<Kind>(rows, offset + Kind::fours + 16 * chunk, twice(others), twice(others + 16));
            } else if constexpr (Kind::fours_of_two > 0) {
                if (chunk % 2 == 0) products_of_two_chunks(rows, offset + Kind::fours_of_two + 16 * chunk, others, of_two);
                halves[0] = of_two[chunk % 2];
            } else {
                for (int row = 0; row < LANES; ++row) sum[row] = products_in_fours<Kind::together == 0>(Kind::numbers(rows[row] + offset, chunk), numbers);
                sums_of_halves(sum, halves);
                if constexpr (Kind::parts == 1) halves[0] = _mm256_add_epi32(halves[0], halves[1]);
            }
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
static inline void some(int64_t m, int64_t n, int64_t units, const uint8_t *weights, int64_t weights_stride, const uint8_t *other, int64_t stride, float *const *out,
                        const Division &division) {
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
                    room.least[column * parts + unit * Kind::chunks + chunk] = room.factors[column * units + unit] * (float)sum_of_chunk(at, chunk);
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
            multiply_alone<Kind>(rows, ahead, units, other, room.factors.data(), room.sums.data(), room.least.data(), out[0] + first, there);
            continue;
        }
#endif
        turn_all<Kind>(rows, ahead, units, room.tiles.data());
        for (int64_t column = 0; column < n; column += Kind::at_once)
            multiply<Kind, Kind::at_once>(n - column < Kind::at_once ? n - column : Kind::at_once, room.tiles.data(), units, other + column * stride, stride,
                                          room.factors.data() + column * units, room.sums.data() + column * parts, room.least.data() + column * parts, out + column, first, there);
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
    for (int64_t first = 0; first < n; first += MOST_ROWS) {
        const int64_t count = std::min(n - first, MOST_ROWS);
        float *results[MOST_ROWS];
        for (int64_t row = 0; row < count; ++row) results[row] = (float *)out + (first + row) * out_stride;
        some<Kind>(m, count, units, (const uint8_t *)weights, weights_stride * Kind::bytes, (const uint8_t *)other + first * stride, stride, results, division);
    }
}

// The same with rows that lie anywhere, and so do their results: those that go to an expert. They are put together first, which is little beside the products. Strides in bytes.
struct Routed {
    const uint8_t *row;
    float *results;
};
template <typename Kind>
static inline void product_of_routed(int64_t m, int64_t n, int64_t units, const uint8_t *weights, int64_t weights_stride, const Routed *rows, int thread, int threads) {
    static thread_local std::vector<uint8_t> together;
    const int64_t stride = units * Kind::Other::bytes, tiles = (m + LANES - 1) / LANES;
    for (int64_t first = 0; first < n; first += ROUTED_ROWS) {
        const int64_t count = std::min(n - first, ROUTED_ROWS);
        float *results[ROUTED_ROWS];
        if (count > 1) together.resize(count * stride);
        for (int64_t row = 0; row < count; ++row) {
            results[row] = rows[first + row].results;
            if (count > 1) memcpy(together.data() + row * stride, rows[first + row].row, stride);
        }
        some<Kind>(m, count, units, weights, weights_stride, count > 1 ? together.data() : rows[first].row, stride, results, {tiles, 0, 0, thread, threads, nullptr});
    }
}

// Does it with the kind of these weights and other rows, where products of them are ours.
template <typename Do> static inline bool with_kind(int weights, int other, Do what) {
    if (other == GGML_TYPE_Q8_0) switch (weights) {
        case GGML_TYPE_Q8_0: return what(Q8_0{}), true;
        case GGML_TYPE_Q5_0: return what(Q5_0{}), true;
        case GGML_TYPE_Q4_0: return what(Q4_0{}), true;
        case GGML_TYPE_IQ4_NL: return what(IQ4_NL{}), true;
        case GGML_TYPE_MXFP4: return what(MXFP4{}), true;
    }
    if (other == GGML_TYPE_Q8_K) switch (weights) {
        case GGML_TYPE_IQ4_XS: return what(IQ4_XS{}), true;
        case GGML_TYPE_Q3_K: return what(Q3_K{}), true;
        case GGML_TYPE_Q4_K: return what(Q4_K{}), true;
        case GGML_TYPE_Q5_K: return what(Q5_K{}), true;
        case GGML_TYPE_Q6_K: return what(Q6_K{}), true;
    }
    return false;
}

// The rows that go to an expert, by pairs of which of a token's experts it is and which token: to.src are the weights of all experts and the rows, in eight bits at `rows`.
template <typename Tensor>
static inline bool product_of_expert(const Tensor *to, int64_t expert, int64_t n, const int32_t *pairs, const void *rows, int other, int thread, int threads) {
    const Tensor *weights = to->src[0], *from = to->src[1];
    return with_kind(weights->type, other, [&](auto kind) {
        using Kind = decltype(kind);
        static thread_local std::vector<Routed> routed;
        const int64_t units = weights->ne[0] / (32 * Kind::chunks), stride = units * Kind::Other::bytes;
        routed.resize(n);
        for (int64_t i = 0; i < n; ++i) {
            const int64_t place = pairs[2 * i], token = pairs[2 * i + 1];
            routed[i] = {(const uint8_t *)rows + (place % from->ne[1] + token * from->ne[1]) * stride, (float *)((char *)to->data + place * to->nb[1] + token * to->nb[2])};
        }
        product_of_routed<Kind>(weights->ne[1], n, units, (const uint8_t *)weights->data + expert * weights->nb[2], weights->nb[1], routed.data(), thread, threads);
    });
}

}  // namespace paddock
#endif
