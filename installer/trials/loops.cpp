// Ends with 0 where the loops (installer/headers) compute as they should: set-up tries them with it before llama.cpp gets them. See installer/compiler.py.
#include <algorithm>
#include <cmath>
#include <thread>
#include <vector>
#ifdef PADDOCK_BARRIER
// Two teams at the same time, in each of which nobody may be a step ahead; with as few looks as OPENMP says some sleep
static int waited() {
    static std::atomic<int> wrong{0};
    const auto count = [] {
        std::atomic<int> steps[3] = {};
        #pragma omp parallel num_threads(3)
        for (int step = 1; step <= 300; ++step) {
            steps[omp_get_thread_num()] = step;
            #pragma omp barrier
            for (int member = 0; member < omp_get_num_threads(); ++member) if (steps[member] != step) wrong = 1;
            #pragma omp barrier
        }
    };
    std::thread other(count);
    count();
    other.join();
    return wrong;
}
#else
static int waited() { return 0; }
#endif
#include "paddock_products.h"
#ifdef PADDOCK_PRODUCTS
#ifdef PADDOCK_BARRIER
// In two teams at the same time three threads compute every tile once, in shares and in parts for whoever is free first, and what comes behind that without a barrier in shares alone
static int shared_out() {
    static std::atomic<int> wrong{0};
    const auto divide = [] {
        std::atomic<int> times[101] = {};
        #pragma omp parallel num_threads(3)
        for (int round = 0; round < 200; ++round) {
            for (int time = 0; time < 2; ++time) {
                const auto division = paddock::divided(101, 20, 32, omp_get_thread_num(), omp_get_num_threads());
                if (division.left != (time == 0 && paddock::own().team && division.threads > 1 ? 88 : 0)) wrong = 1;
                for (auto range = division.share(); range.tile < range.end; range = division.next())
                    for (; range.tile < range.end; ++range.tile) ++times[range.tile];
            }
            #pragma omp barrier
            for (int tile = omp_get_thread_num(); tile < 101; tile += omp_get_num_threads())
                if (times[tile].exchange(0) != 2) wrong = 1;
            #pragma omp barrier
        }
    };
    std::thread other(divide);
    divide();
    other.join();
    return wrong;
}
#else
static int shared_out() { return 0; }
#endif
// Every number is that of `value`, with the largest that there are in the last two rows of both, and every factor a power of two by row and unit (a half, or an exponent alone where its
// place is -1): rows of weights beyond a multiple of sixteen, more other rows than notes are kept of, or few, and threads that get shares or, in a team, parts too; and the same weights as experts
static int exponent(int row, int unit) { return (row + 2 * unit) % 3; }
struct Matrices { int type; int64_t ne[4], nb[4]; void *data; Matrices *src[2]; };
using Product = void(int64_t, int64_t, int64_t, const void *, int64_t, const void *, int64_t, void *, int64_t, int, int);
struct Way { int type; int64_t bytes, other_bytes, other_numbers; int count; Product *product; };
template <typename Kind> static Way way(int type) { return {type, Kind::bytes, Kind::Other::bytes, Kind::Other::numbers, 32 * Kind::chunks, paddock::product<Kind>}; }
static int multiplied(const Way &way, int factor, void (*fill)(uint8_t *, int), int value(int, int), int doubled = -1) {
    constexpr int m = 83, n = 515, units = 2;
    const int count = way.count, other_type = count > 32 ? GGML_TYPE_Q8_K : GGML_TYPE_Q8_0;
    std::vector<uint8_t> weights(m * units * way.bytes), other(n * units * way.other_bytes);
    static float found[n + 1][m + 1];  // who writes beyond the last hits nothing else
    static double wanted[n][m], all[n][m];
    for (int row = 0; row < m; ++row)
        for (int unit = 0; unit < units; ++unit) {
            uint8_t *at = &weights[(row * units + unit) * way.bytes];
            fill(at, row);
            at[factor + 1] = (uint8_t)(factor < 0 ? 128 + exponent(row, unit) : 0x3c + 4 * exponent(row, unit));
            if (doubled >= 0) at[doubled + 1] = (uint8_t)(0x40 + 4 * exponent(row, unit));
        }
    std::vector<int> numbers(m * count);
    for (int i = 0; i < m * count; ++i) numbers[i] = value(i / count, i % count);
    std::fill(wanted[0], wanted[n], 0.0);
    std::fill(all[0], all[n], 0.0);
    for (int row = 0; row < n; ++row)
        for (int unit = 0; unit < units; ++unit) {
            uint8_t *at = &other[(row * units + unit) * way.other_bytes];
            const float single = (float)(1 << exponent(row, unit));
            if (count == 32) at[1] = (uint8_t)(0x3c + 4 * exponent(row, unit)); else memcpy(at, &single, 4);
            int8_t *with = (int8_t *)at + way.other_numbers;
            for (int i = 0; i < count; ++i) with[i] = (int8_t)(row < n - 2 ? (7 * i + 5 * row + unit) % 255 - 127 : row < n - 1 ? 127 : -127);
            for (int part = 0; count > 32 && part < count / 16; ++part) {
                int16_t sum = 0;
                for (int i = 0; i < 16; ++i) sum += with[16 * part + i];
                memcpy(with + count + 2 * part, &sum, 2);
            }
            for (int place = 0; place < m; ++place) {
                int sum = 0, sizes = 0;
                for (int i = 0; i < count; ++i) {
                    sum += numbers[place * count + i] * with[i];
                    sizes += std::abs(numbers[place * count + i] * with[i]);
                }
                wanted[row][place] += (double)sum * (1 << exponent(place, unit)) * (1 << exponent(row, unit));
                all[row][place] += (double)sizes * (1 << exponent(place, unit)) * (1 << exponent(row, unit));
            }
        }
    const auto is_wrong = [&](int row, int place, float one) { return !(std::abs(one - wanted[row][place]) <= 4e-6 * all[row][place]); };
    const auto some = [&](int begin, int end, int thread, int threads) {
        way.product(m, end - begin, units, weights.data(), units, &other[begin * units * way.other_bytes], units, found[begin], m + 1, thread, threads);
    };
    std::vector<float> beside;
    const int ranges[][2] = {{0, n}, {0, 1}, {7, 8}, {n - 2, n - 1}, {n - 1, n}, {n - 2, n}, {n - 5, n}, {n - 20, n}};
    for (const bool is_team : {false, true}) for (const auto &range : ranges) {
        std::fill(found[0], found[n], NAN);
        for (int row = 0; row < n; ++row) found[row][m] = -1.0f;
        if (!is_team) for (int thread = 0; thread < 2; ++thread) some(range[0], range[1], thread, 2);
#ifdef PADDOCK_BARRIER
        #pragma omp parallel num_threads(3)
        if (is_team) some(range[0], range[1], omp_get_thread_num(), omp_get_num_threads());
#else
        if (is_team) continue;
#endif
        for (int row = range[0]; row < range[1]; ++row)
            for (int place = 0; place < m; ++place)
                if (is_wrong(row, place, found[row][place]) || found[row][m] != -1.0f) return 1;
        if (range[0] == 0 && range[1] == n) beside.assign(found[7], found[8]);
        if (range[0] == 7 && memcmp(beside.data(), found[7], sizeof(found[7]))) return 1;  // alone it has the same digits
    }
    // Experts: the two places of each token go to three of them in turn; all tokens go to one, which are more than are put together; a single one goes to one
    const auto differs = [&](int expert, int64_t places, const std::vector<int32_t> &pairs) {
        constexpr int rows_of_one = 27;
        const int64_t size = units * way.bytes, results = sizeof(found[0]), n_of_it = (int64_t)pairs.size() / 2;
        Matrices experts = {way.type, {units * count, rows_of_one, 3, 1}, {0, size, rows_of_one * size}, weights.data(), {}}, from = {GGML_TYPE_F32, {units * count, places}, {}, nullptr, {}};
        Matrices to = {GGML_TYPE_F32, {}, {4, places > 1 ? results : 0, places * results}, found, {&experts, &from}};
        std::fill(found[0], found[n], NAN);
        bool is_ours[2];
        const auto share = [&](int thread) { is_ours[thread] = paddock::product_of_expert(&to, expert, n_of_it, pairs.data(), other.data(), other_type, thread, 2); };
        std::thread second(share, 1);
        share(0);
        second.join();
        if (!is_ours[0] || !is_ours[1]) return true;
        if (std::count_if(found[0], found[n], [](float one) { return !std::isnan(one); }) != n_of_it * rows_of_one) return true;
        for (int64_t i = 0; i < n_of_it; ++i)
            for (int place = 0; place < rows_of_one; ++place) {
                const int row = (int)(pairs[2 * i] % places + pairs[2 * i + 1] * places);
                if (is_wrong(row, rows_of_one * expert + place, found[row][place])) return true;
            }
        return false;
    };
    std::vector<int32_t> in_turn[3], all_of_them;
    for (int token = 0; token < n; ++token) all_of_them.insert(all_of_them.end(), {token % 2, token});
    for (int token = 0; token < n / 2; ++token) for (int place = 0; place < 2; ++place) in_turn[(token + place) % 3].insert(in_turn[(token + place) % 3].end(), {place, token});
    for (int expert = 0; expert < 3; ++expert) if (differs(expert, 2, in_turn[expert])) return 2;
    return differs(1, 1, all_of_them) || differs(2, 2, {1, 70}) || paddock::with_kind(way.type, other_type == GGML_TYPE_Q8_0 ? GGML_TYPE_Q8_K : GGML_TYPE_Q8_0, [](auto) {});
}
// Every exponent, in every row of a register
static int powers() {
    for (int first = 1; first <= 255 - paddock::LANES; ++first) {
        uint8_t raised[paddock::LANES];
        const uint8_t *rows[paddock::LANES];
        float found[paddock::LANES];
        for (int row = 0; row < paddock::LANES; ++row) rows[row] = &(raised[row] = (uint8_t)(first + row));
        paddock::store(found, paddock::halves_of_powers(rows, 0), paddock::LANES);
        for (int row = 0; row < paddock::LANES; ++row) if (found[row] != std::ldexp(1.0f, raised[row] - 128)) return 12;
    }
    return 0;
}
static int products() {
    if (shared_out()) return 4;
    static const auto eight = [](int row, int i) { return row < 81 ? (11 * i + 3 * row) % 256 - 128 : row < 82 ? 127 : -128; };
    static const auto five = [](int row, int i) { return row < 81 ? (11 * i + 3 * row) % 32 - 16 : row < 82 ? 15 : -16; };
    static const auto six = [](int row, int i) { return row < 81 ? (11 * i + 3 * row) % 64 - 32 : row < 82 ? 31 : -32; };
    static const auto scale = [](int row, int part) { return (5 * part + row) % 16 - 8; };  // of each sixteen
    if (multiplied(way<paddock::Q8_0>(GGML_TYPE_Q8_0), 0, [](uint8_t *to, int row) {
        for (int i = 0; i < 32; ++i) to[2 + i] = (uint8_t)eight(row, i);
    }, eight)) return 1;
    if (multiplied(way<paddock::Q5_0>(GGML_TYPE_Q5_0), 0, [](uint8_t *to, int row) {
        for (int i = 0; i < 32; ++i) {
            const int code = five(row, i) + 16;
            to[6 + i % 16] |= (uint8_t)((code & 15) << (i < 16 ? 0 : 4));
            to[2 + i / 8] |= (uint8_t)((code >> 4) << i % 8);
        }
    }, five)) return 2;
    static const auto four = [](int row, int i) { return row < 81 ? (11 * i + 3 * row) % 16 - 8 : row < 82 ? 7 : -8; };
    if (multiplied(way<paddock::Q4_0>(GGML_TYPE_Q4_0), 0, [](uint8_t *to, int row) {
        for (int i = 0; i < 32; ++i) to[2 + i % 16] |= (uint8_t)((four(row, i) + 8) << (i < 16 ? 0 : 4));
    }, four)) return 7;
    if (multiplied(way<paddock::Q6_K>(GGML_TYPE_Q6_K), 208, [](uint8_t *to, int row) {
        for (int part = 0; part < 16; ++part) to[192 + part] = (uint8_t)scale(row, part);
        for (int i = 0; i < 256; ++i) {
            const int code = six(row, i) + 32, half = i / 128, part = i % 128 / 32, at = i % 32;
            to[64 * half + 32 * (part % 2) + at] |= (uint8_t)((code & 15) << (part < 2 ? 0 : 4));
            to[128 + 32 * half + at] |= (uint8_t)((code >> 4) << 2 * part);
        }
    }, [](int row, int i) { return six(row, i) * scale(row, i / 16); })) return 3;
    static const auto bare = [](int row, int i, int most) { return row < 81 ? (11 * i + 3 * row) % (most + 1) : row < 82 ? most : 0; };
    static const auto scale_of_32 = [](int row, int chunk) { return row < 81 ? (13 * chunk + 7 * row) % 64 : 63; };
    static const auto least_of_32 = [](int row, int chunk) { return row < 81 ? (29 * chunk + 5 * row) % 64 : 63; };
    static const auto scales = [](uint8_t *to, int row) {  // twelve bytes, six bits each
        for (int chunk = 0; chunk < 8; ++chunk) {
            const int at = chunk % 4, one = scale_of_32(row, chunk), two = least_of_32(row, chunk);
            if (chunk < 4) {
                to[at] |= (uint8_t)one;
                to[4 + at] |= (uint8_t)two;
            } else {
                to[8 + at] |= (uint8_t)((one & 15) | (two & 15) << 4);
                to[at] |= (uint8_t)(one >> 4 << 6);
                to[4 + at] |= (uint8_t)(two >> 4 << 6);
            }
        }
    };
    if (multiplied(way<paddock::Q4_K>(GGML_TYPE_Q4_K), 0, [](uint8_t *to, int row) {
        scales(to + 4, row);
        for (int i = 0; i < 256; ++i) to[16 + 32 * (i / 64) + i % 32] |= (uint8_t)(bare(row, i, 15) << (i / 32 % 2 ? 4 : 0));
    }, [](int row, int i) { return bare(row, i, 15) * scale_of_32(row, i / 32) - 2 * least_of_32(row, i / 32); }, 2)) return 5;
    if (multiplied(way<paddock::Q5_K>(GGML_TYPE_Q5_K), 0, [](uint8_t *to, int row) {
        scales(to + 4, row);
        for (int i = 0; i < 256; ++i) {
            const int code = bare(row, i, 31);
            to[48 + 32 * (i / 64) + i % 32] |= (uint8_t)((code & 15) << (i / 32 % 2 ? 4 : 0));
            to[16 + i % 32] |= (uint8_t)((code >> 4) << i / 32);
        }
    }, [](int row, int i) { return bare(row, i, 31) * scale_of_32(row, i / 32) - 2 * least_of_32(row, i / 32); }, 2)) return 6;
    static const auto table = [](int row, int i, int last) { return row < 81 ? (11 * i + 3 * row) % 16 : row < 82 ? last : 15; };
    static const auto doubled = [](int row, int i) { return std::vector<int>{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}[table(row, i, 7)]; };
    static const auto uneven = [](int row, int i) { return std::vector<int>{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}[table(row, i, 0)]; };
    static const auto six_bits = [](int row, int part) { return row < 81 ? (13 * part + 7 * row) % 64 : row < 82 ? 63 : 0; };
    if (multiplied(way<paddock::MXFP4>(GGML_TYPE_MXFP4), -1, [](uint8_t *to, int row) {
        for (int i = 0; i < 32; ++i) to[1 + i % 16] |= (uint8_t)(table(row, i, 7) << (i < 16 ? 0 : 4));
    }, doubled)) return 8;
    if (multiplied(way<paddock::IQ4_NL>(GGML_TYPE_IQ4_NL), 0, [](uint8_t *to, int row) {
        for (int i = 0; i < 32; ++i) to[2 + i % 16] |= (uint8_t)(table(row, i, 0) << (i < 16 ? 0 : 4));
    }, uneven)) return 9;
    if (multiplied(way<paddock::IQ4_XS>(GGML_TYPE_IQ4_XS), 0, [](uint8_t *to, int row) {
        for (int chunk = 0; chunk < 8; ++chunk) {
            to[4 + chunk / 2] |= (uint8_t)((six_bits(row, chunk) & 15) << 4 * (chunk % 2));
            to[2 + chunk / 4] |= (uint8_t)(six_bits(row, chunk) >> 4 << 2 * (chunk % 4));
        }
        for (int i = 0; i < 256; ++i) to[8 + 16 * (i / 32) + i % 16] |= (uint8_t)(table(row, i, 0) << (i % 32 < 16 ? 0 : 4));
    }, [](int row, int i) { return uneven(row, i) * (six_bits(row, i / 32) - 32); })) return 10;
    static const auto three = [](int row, int i) { return row < 81 ? (11 * i + 3 * row) % 8 : row < 82 ? 7 : 0; };
    if (multiplied(way<paddock::Q3_K>(GGML_TYPE_Q3_K), 108, [](uint8_t *to, int row) {
        for (int part = 0; part < 16; ++part) {
            to[96 + part % 8] |= (uint8_t)((six_bits(row, part) & 15) << part / 8 * 4);
            to[104 + part % 4] |= (uint8_t)(six_bits(row, part) >> 4 << part / 4 * 2);
        }
        for (int i = 0; i < 256; ++i) {
            to[32 + 32 * (i / 128) + i % 32] |= (uint8_t)((three(row, i) & 3) << 2 * (i % 128 / 32));
            to[i % 32] |= (uint8_t)(three(row, i) >> 2 << i / 32);
        }
    }, [](int row, int i) { return (three(row, i) - 4) * (six_bits(row, i / 16) - 32); })) return 11;
    return powers();
}
#else
static int products() { return 0; }
#endif
// Parts of attention as llama.cpp makes them: every row once, in as few tiles as there are
struct Heads { Heads *src[1]; int64_t ne[4]; int times[2400], tiles; };
static void ggml_compute_forward_flash_attn_ext_tiled(const char *, Heads *to, int begin, int end) {
    for (const int rows = (int)to->src[0]->ne[1]; begin < end; ++to->tiles)
        for (int left = std::min(64, std::min(end - begin, rows - begin % rows)); left; --left) ++to->times[begin++];
}
static int attended() {
    for (const int64_t heads : {1, 9, 12}) for (const int64_t rows : {64, 65, 100, 160, 200}) for (const int64_t parts : {1, 2, 7, 8, 40}) {
        static Heads to;
        to = {{&to}, {64, rows, heads, 1}, {}, 0};
        const int64_t all = heads * rows, size = (all + parts - 1) / parts;
        for (int64_t part = 0; part < parts; ++part) {
            const int64_t begin = size * part, end = std::min(begin + size, all);
            ggml_compute_forward_flash_attn_ext_tiled("", &to, begin, end);
        }
        if (to.tiles != heads * ((rows + 63) / 64) || std::count(to.times, to.times + all, 1) != all) return 1;
    }
    return 0;
}
#ifdef PADDOCK_HEADS
// Heads that share keys and values, several tokens in two batches, in parts that two threads compute, and one token in two parts of the past. In the first shape there is a cap, a score
// that has no value and tokens that see nothing, in the others they see everything
struct Numbers { int type; int64_t ne[4], nb[4]; void *data; Numbers *src[5]; float op_params[4]; };
struct Params { bool use_ref; int nth; };
static int left_to_llama = 0;
static void ggml_compute_forward_flash_attn_ext_f16_one_chunk(const Params *, Numbers *, int, int, int64_t, int64_t, float *, int64_t) { ++left_to_llama; }
static float in_halves(float number, uint16_t *to) {
    *to = (uint16_t)_mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(number), 0));
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(*to)));
}
template <int wide, int deep, int shared> static int looked() {
    constexpr int heads = 2 * shared, tokens = 4, past = 75, batches = 2, rows = batches * heads * tokens;
    constexpr bool more = wide == 72;
    static float query[batches][heads][tokens][wide], key[batches][past][2][wide], value[batches][past][2][deep], seen[batches][tokens][past], sink[heads];
    static float found[batches][tokens][heads][deep], partial[heads][2][2 + deep];
    static uint16_t keys[batches][past][2][wide], values[batches][past][2][deep], mask[batches][tokens][past];
    for (int i = 0; i < rows * wide; ++i) (&query[0][0][0][0])[i] = (float)(i * 7 % 31 - 15) / 32;
    for (int i = 0; i < batches * past * 2 * wide; ++i) (&key[0][0][0][0])[i] = in_halves((float)(i * 11 % 29 - 14) / 16, &keys[0][0][0][0] + i);
    for (int i = 0; i < batches * past * 2 * deep; ++i) (&value[0][0][0][0])[i] = in_halves((float)(i * 13 % 37 - 18) / 16, &values[0][0][0][0] + i);
    for (int i = 0; i < batches * tokens * past; ++i) {
        const int at = i % past, token = i / past % tokens;
        const float wanted = !more ? 0.0f : token == 3 || (at > 8 && at < 26) || at % 3 == token ? -INFINITY : at % 5 ? 0.0f : -0.5f - (float)(i / past / tokens);
        (&seen[0][0][0])[i] = in_halves(wanted, &mask[0][0][0] + i);
    }
    for (int head = 0; head < heads; ++head) sink[head] = (float)head - 2;
    std::fill(&found[0][0][0][0], &found[0][0][0][0] + rows * deep, NAN);
    Numbers q = {GGML_TYPE_F32, {wide, tokens, heads, batches}, {4, sizeof(query[0][0][0]), sizeof(query[0][0]), sizeof(query[0])}, query, {}, {}};
    Numbers k = {GGML_TYPE_F16, {wide, past, 2, batches}, {2, sizeof(keys[0][0]), sizeof(keys[0][0][0]), sizeof(keys[0])}, keys, {}, {}};
    Numbers v = {GGML_TYPE_F16, {deep, past, 2, batches}, {2, sizeof(values[0][0]), sizeof(values[0][0][0]), sizeof(values[0])}, values, {}, {}};
    Numbers m = {GGML_TYPE_F16, {past, tokens, 1, batches}, {2, sizeof(mask[0][0]), sizeof(mask[0]), sizeof(mask[0])}, mask, {}, {}}, sinks = {GGML_TYPE_F32, {}, {}, sink, {}, {}};
    Numbers to = {GGML_TYPE_F32, {deep, heads, tokens, batches}, {4, sizeof(found[0][0][0]), sizeof(found[0][0]), sizeof(found[0])}, found,
                  {&q, &k, &v, more ? &m : nullptr, more ? &sinks : nullptr}, {0.25f, 0, more ? 3.0f : 0.0f}};
    Params params = {false, 2};
    const auto ask = [&](int64_t begin, int64_t end) {
        ggml_compute_forward_flash_attn_ext_f16_one_chunk(&params, &to, begin, end, 0, (int64_t)past, nullptr, 0);
    };
    const auto differ = [&](int batch, int token, int head, const float *one, float weight) {
        double score[past], all = more ? std::exp((double)sink[head]) : 0;
        for (int at = 0; at < past; ++at) {
            score[at] = 0;
            for (int i = 0; i < wide; ++i) score[at] += (double)query[batch][head][token][i] * key[batch][at][head / shared][i];
            all += score[at] = std::exp((more ? 3 * std::tanh(score[at] / 12) : score[at] / 4) + seen[batch][token][at]);
        }
        for (int i = 0; i < deep; ++i) {
            double wanted = 0;
            for (int at = 0; at < past; ++at) wanted += score[at] / all * value[batch][at][head / shared][i];
            if (!(std::abs(one[i] * weight - wanted) < 1e-5)) return true;
        }
        return false;
    };
    const auto some = [&](int thread) {
        for (int64_t part = thread; 5 * part < rows; part += 2) ask(5 * part, std::min(5 * part + 5, (int64_t)rows));
    };
    std::thread other(some, 1);
    some(0);
    other.join();
    for (int i = 0; i < rows; ++i) {
        const int batch = i / (heads * tokens), token = i / heads % tokens, head = i % heads;
        if (differ(batch, token, head, found[batch][token][head], 1)) return 1;
    }
    for (const int some : {shared, 1}) {  // all heads that share at a time, or each alone: as many as were asked for
        std::fill(&found[0][0][0][0], &found[0][0][0][0] + rows * deep, NAN);
        params.nth = some > 1 ? 1 : rows;
        ask(0, some);
        if (rows * deep - std::count_if(&found[0][0][0][0], &found[0][0][0][0] + rows * deep, [](float one) { return std::isnan(one); }) != some * deep) return 2;
    }
    if (more) {  // who sees nothing finds nothing
        to.src[4] = nullptr;
        ask(0, rows);
        for (const auto &batch : found) for (const auto &head : batch[3]) for (const float one : head) if (one != 0.0f) return 6;
        to.src[4] = &sinks;
    }
    q.ne[1] = q.ne[3] = k.ne[3] = v.ne[3] = 1;
    for (int64_t part = 0; part < 2; ++part)
        for (int64_t head = 0; head < heads; ++head)
            ggml_compute_forward_flash_attn_ext_f16_one_chunk(&params, &to, head, head + 1, 40 * part, part ? (int64_t)past : (int64_t)40, partial[0][part], (int64_t)(2 * (2 + deep)));
    for (int head = 0; head < heads; ++head) {
        float whole[deep], *one = partial[head][0], *two = partial[head][1];
        const float largest = std::max(one[0], two[0]), first = std::exp(one[0] - largest), second = std::exp(two[0] - largest);
        for (int i = 0; i < deep; ++i) whole[i] = one[2 + i] * first + two[2 + i] * second;
        if (differ(0, 0, head, whole, 1 / (one[1] * first + two[1] * second))) return 3;
    }
    if (left_to_llama) return 4;
    // What is not ours, one after the other
    const auto refused = [&](auto *place, auto odd) {
        const auto right = *place;
        *place = (typename std::remove_reference<decltype(*place)>::type)odd;
        ask(0, 1);
        *place = right;
        return left_to_llama-- == 1;
    };
    to.src[3] = &m;
    return refused(&q.type, GGML_TYPE_F16) && refused(&k.type, GGML_TYPE_F32) && refused(&v.type, GGML_TYPE_F32) && refused(&k.ne[0], wide - 4) && refused(&v.ne[0], deep - 4)
        && refused(&k.ne[0], 264) && refused(&v.ne[0], 264) && refused(&v.ne[2], 1) && refused(&m.ne[2], heads) && refused(&params.use_ref, true) && refused(&to.op_params[1], 1) ? 0 : 5;
}
static int looked() { return looked<72, 88, 3>() || looked<256, 64, 1>() || looked<64, 128, 9>(); }
#else
static int looked() { return 0; }
#endif
#ifndef ggml_vec_max_f32
#error the processor has no wide registers
#endif
int main() {
    float row[43], most;
    for (int i = 0; i < 43; ++i) row[i] = -2.0f - i;
    for (int place = 0; place < 43; ++place) {
        row[place] = -1.0f;
        ggml_vec_max_f32(43, &most, row);
        if (most != -1.0f) return 1;
        row[place] = -2.0f - place;
    }
#ifdef GGML_F16_VEC
    unsigned short one[16], two[16], stored[16] = {};
    for (int i = 0; i < 16; ++i) { one[i] = 0x3c00; two[i] = 0x4000; }
    GGML_F16_VEC lanes[1] = {GGML_F16_VEC_FMA(GGML_F16_VEC_LOAD(one, 0), GGML_F16_VEC_LOAD(two, 0), GGML_F16_VEC_SET1(3.5f))};
    lanes[0] = GGML_F16_VEC_MUL(lanes[0], GGML_F16_VEC_SET1(0.5f));
    GGML_F16_VEC_STORE(stored, lanes, 0);
    for (int i = 0; i < 16; ++i) if (stored[i] != 0x4400) return 2;
    GGML_F16_DOT_VEC sums[GGML_F16_DOT_ARR] = {GGML_F16_DOT_VEC_FMA(GGML_F16_DOT_VEC_ZERO, GGML_F16_DOT_VEC_LOAD(one, 0), GGML_F16_DOT_VEC_LOAD(two, 0))};
    double sum;
    GGML_F16_DOT_VEC_REDUCE(sum, sums);
    if (sum != 32) return 3;
#endif
    return products() ? 4 : waited() ? 5 : attended() ? 6 : looked() ? 7 : 0;
}
