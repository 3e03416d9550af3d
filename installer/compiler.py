"""What llama.cpp is compiled with beyond its own flags: what the compiler here gets wrong, and loops that it leaves slow.

GCC before 11.5, 12.4, 13.3 and 14 takes the table that `_tile_loadconfig` reads for 8 bytes and may leave the rest unwritten (its bug 114098): on processors
with AMX llama.cpp then ends with a segmentation fault at its first step. Such a compiler is known by what its programs do, whatever its version says.

llama.cpp's attention takes numbers of half precision one by one where a head has fewer than its widest step, and looks for the largest of a row in one lane
of a register; it takes the heads of a token one after the other, whatever they share; it multiplies weights in 8 bits with several rows nearly as if these came one
after the other; and its threads ask the system, at every one of some hundred places in a step where they wait for each other, to wake who does not sleep, and get parts of
attention that divide what is computed at once. A header that is read before its sources says it better, for the processor here (`headers/paddock_loops.h` and what that one
reads); it is tried with a small program first.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

COMPILERS = ("c++", "g++", "clang++")  # in the order in which cmake looks for them
HEADERS = Path(__file__).parent / "headers"
WHOLE_TABLE = "-include paddock_tiles.h"  # of HEADERS: the instruction as it should be
NO_TILES = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
LOOPS_HEADER = "paddock_loops.h"  # of HEADERS too
READ_BY_IT = ("paddock_products.h", "paddock_lanes.h", "paddock_barrier.h", "paddock_attention.h", "paddock_heads.h")
OPENMP = "-fopenmp -DPADDOCK_SPINS=20"  # llama.cpp finds it by itself; a probe's threads look for each other so seldom that they sleep
NO_BARRIER = "-DPADDOCK_NO_BARRIER"
# Ends with 0 where the processor took the table that was meant. Does not compile where processor or compiler know no tiles.
PROBE = """
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
struct Table { unsigned char palette = 0, row = 0, none[14] = {0}; unsigned short bytes[16] = {0}; unsigned char rows[16] = {0}; };
int main() {
    if (syscall(SYS_arch_prctl, 0x1023, 18)) return 0;  // ARCH_REQ_XCOMP_PERM: a system that lends no tiles is asked by llama.cpp too
    alignas(64) Table wanted = {};
    wanted.palette = 1;
    for (int tile = 0; tile < 8; ++tile) { wanted.bytes[tile] = 64; wanted.rows[tile] = 16; }
    _tile_loadconfig(&wanted);
    alignas(64) unsigned char found[64];
    asm volatile("sttilecfg %0" : "=m"(found));
    return found[16 + 2 * 7] == 64 && found[48 + 7] == 16 ? 0 : 1;
}
"""
# What the header of the loops finds in llama.cpp's sources, and a program that ends with 0 where it computes as it should
LIKE_LLAMA: Mapping[str, str] = MappingProxyType({
    "simd-mappings.h": "#pragma once\n#include <cmath>\n#include <immintrin.h>\ntypedef double ggml_float;\n#define GGML_F16_STEP 128\n#define GGML_F16_DOT_STEP 64\n",
    "vec.h": "#pragma once\nenum { GGML_TYPE_F32, GGML_TYPE_F16 };\n#ifdef __AVX__\nstatic inline __m256 ggml_v_expf(__m256 x) {\n    float at[8];\n    _mm256_storeu_ps(at, x);\n"
             "    for (float &one : at) one = std::exp(one);\n    return _mm256_loadu_ps(at);\n}\n#endif\n",
})
LOOPS_PROBE = """
#include <algorithm>
#include <cmath>
#include <thread>
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
// Every number is that of `value`, with the largest that there are in the last two rows of both, and every factor a power of two by row and unit: rows of weights beyond a multiple
// of sixteen, and more other rows than notes are kept of, or few
static int exponent(int row, int unit) { return (row + 2 * unit) % 3; }
template <typename Kind> static int multiplied(int factor, void (*fill)(uint8_t *, int), int value(int, int)) {
    constexpr int m = 19, n = 515, units = 2, count = 32 * Kind::chunks;
    static uint8_t weights[m][units][Kind::bytes], other[n][units][Kind::Other::bytes];
    static float found[n][m + 1];
    for (int row = 0; row < m; ++row)
        for (int unit = 0; unit < units; ++unit) {
            fill(weights[row][unit], row);
            weights[row][unit][factor + 1] = (uint8_t)(0x3c + 4 * exponent(row, unit));  // in half precision
        }
    for (int row = 0; row < n; ++row)
        for (int unit = 0; unit < units; ++unit) {
            uint8_t *at = other[row][unit];
            const float single = (float)(1 << exponent(row, unit));
            if (count == 32) at[1] = (uint8_t)(0x3c + 4 * exponent(row, unit)); else memcpy(at, &single, 4);
            for (int i = 0; i < count; ++i) at[Kind::Other::numbers + i] = (uint8_t)(row < n - 2 ? (7 * i + 5 * row + unit) % 255 - 127 : row < n - 1 ? 127 : -127);
            for (int part = 0; count > 32 && part < count / 16; ++part) {
                int16_t sum = 0;
                for (int i = 0; i < 16; ++i) sum += (int8_t)at[Kind::Other::numbers + 16 * part + i];
                memcpy(at + Kind::Other::numbers + count + 2 * part, &sum, 2);
            }
        }
    for (const int rows : {n, 1, 2, 5}) {
        std::fill(found[0], found[n], NAN);
        for (int row = 0; row < n; ++row) found[row][m] = -1.0f;
        for (int thread = 0; thread < 2; ++thread) paddock::product<Kind>(m, rows, units, weights, units, other[n - rows], units, found[n - rows], m + 1, thread, 2);
        for (int row = n - rows; row < n; ++row)
            for (int place = 0; place < m; ++place) {
                double wanted = 0, all = 0;
                for (int i = 0; i < units * count; ++i) {
                    const double one = (double)value(place, i % count) * (int8_t)other[row][i / count][Kind::Other::numbers + i % count]
                        * (1 << exponent(place, i / count)) * (1 << exponent(row, i / count));
                    wanted += one;
                    all += std::abs(one);
                }
                if (!(std::abs(found[row][place] - wanted) <= 4e-6 * all) || found[row][m] != -1.0f) return 1;
            }
    }
    return 0;
}
static int products() {
    static const auto eight = [](int row, int i) { return row < 17 ? (11 * i + 3 * row) % 256 - 128 : row < 18 ? 127 : -128; };
    static const auto five = [](int row, int i) { return row < 17 ? (11 * i + 3 * row) % 32 - 16 : row < 18 ? 15 : -16; };
    static const auto six = [](int row, int i) { return row < 17 ? (11 * i + 3 * row) % 64 - 32 : row < 18 ? 31 : -32; };
    static const auto scale = [](int row, int part) { return (5 * part + row) % 16 - 8; };  // of each sixteen
    if (multiplied<paddock::Q8_0>(0, [](uint8_t *to, int row) {
        for (int i = 0; i < 32; ++i) to[2 + i] = (uint8_t)eight(row, i);
    }, eight)) return 1;
    if (multiplied<paddock::Q5_0>(0, [](uint8_t *to, int row) {
        for (int i = 0; i < 32; ++i) {
            const int code = five(row, i) + 16;
            to[6 + i % 16] |= (uint8_t)((code & 15) << (i < 16 ? 0 : 4));
            to[2 + i / 8] |= (uint8_t)((code >> 4) << i % 8);
        }
    }, five)) return 2;
    if (multiplied<paddock::Q6_K>(208, [](uint8_t *to, int row) {
        for (int part = 0; part < 16; ++part) to[192 + part] = (uint8_t)scale(row, part);
        for (int i = 0; i < 256; ++i) {
            const int code = six(row, i) + 32, half = i / 128, part = i % 128 / 32, at = i % 32;
            to[64 * half + 32 * (part % 2) + at] |= (uint8_t)((code & 15) << (part < 2 ? 0 : 4));
            to[128 + 32 * half + at] |= (uint8_t)((code >> 4) << 2 * part);
        }
    }, [](int row, int i) { return six(row, i) * scale(row, i / 16); })) return 3;
    return 0;
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
"""

# No tiles in what it compiles; the whole table was loaded; it was not; its program could not be started, or not be waited for
Found = Literal["absent", "sound", "broken", "unknown"]
Probe = Callable[[str, Mapping[str, str]], Found]


def compiler(environment: Mapping[str, str], which: Callable[[str], str | None] = shutil.which) -> str:
    """The command of the C++ compiler that cmake takes; empty if there is none."""
    named = environment.get("CXX", "")
    return named if named and which(named.split()[0]) else next((name for name in COMPILERS if which(name)), "")


def version_of(folder: Path) -> str:
    """A name for what the headers of the loops do, whatever their remarks say."""
    texts = [(folder / name).read_text(encoding="ascii") for name in (LOOPS_HEADER, *READ_BY_IT)]
    lines = [line for text in texts for line in text.splitlines() if line and not line.startswith("//")]
    return f"v{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:8]}"


LOOPS = f"-include {LOOPS_HEADER} -DPADDOCK_LOOPS={version_of(HEADERS)}"
MARK = f"paddock loops {version_of(HEADERS)}"  # stands in a library that was compiled with them


def for_llama(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment that llama.cpp is compiled in."""
    return with_loops(with_sound_tiles(environment))


def has_loops(environment: Mapping[str, str]) -> bool:
    """Whether what is compiled in that environment should have the loops."""
    return LOOPS in environment.get("CXXFLAGS", "")


def without_loops(environment: Mapping[str, str]) -> dict[str, str]:
    """The same environment, but for the loops."""
    return {**environment, "CXXFLAGS": environment.get("CXXFLAGS", "").replace(f"{LOOPS} {NO_BARRIER}", "").replace(LOOPS, "").strip()}


def with_sound_tiles(environment: Mapping[str, str], probe: Probe | None = None) -> dict[str, str]:
    """The environment, with flags under which llama.cpp computes with tiles as it should, or without them where it cannot."""
    found = dict(environment)
    command = _asked_compiler(environment)
    ask = probe or (lambda flags, where: look(command, flags, where))
    if not command or ask("", found) in ("absent", "sound"):
        return found
    told = _with_headers(found)
    if ask(WHOLE_TABLE, told) in ("sound", "unknown"):  # to a sound compiler the header does nothing
        return _with(told, WHOLE_TABLE, ("CXXFLAGS",))
    return _with(found, NO_TILES, ("CFLAGS", "CXXFLAGS"))


def with_loops(environment: Mapping[str, str], probe: Probe | None = None) -> dict[str, str]:
    """The environment, with the loops where compiler and processor take them."""
    command = _asked_compiler(environment)
    ask = probe or (lambda flags, where: look(command, flags, where, LOOPS_PROBE, LIKE_LLAMA))
    told = _with_headers(environment)
    for beside, probed in (("", OPENMP), (NO_BARRIER, "")) if command else ():  # a compiler without OpenMP, or one whose threads would wait wrongly
        flags = f"{LOOPS} {beside}".strip()
        if ask(f"{flags} {probed}".strip(), told) == "sound":
            return _with(told, flags, ("CXXFLAGS",))
    return dict(environment)


def _asked_compiler(environment: Mapping[str, str]) -> str:
    """The compiler, on systems and processors that any of this is about."""
    return compiler(environment) if sys.platform.startswith("linux") and platform.machine() in ("x86_64", "AMD64") else ""


def _with_headers(environment: Mapping[str, str]) -> dict[str, str]:
    known = environment.get("CPLUS_INCLUDE_PATH", "")
    if str(HEADERS) in known.split(os.pathsep):
        return dict(environment)
    return {**environment, "CPLUS_INCLUDE_PATH": os.pathsep.join(filter(None, (str(HEADERS), known)))}


def _with(environment: dict[str, str], flags: str, names: tuple[str, ...]) -> dict[str, str]:
    return {**environment, **{name: f"{environment.get(name, '')} {flags}".strip() for name in names}}


def look(command: str, flags: str, environment: Mapping[str, str], program: str = PROBE, beside: Mapping[str, str] = MappingProxyType({})) -> Found:
    """What a program of this compiler does here: by default, what becomes of a table of tiles in it. `beside` are files that it may include."""
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "probe.cpp"), Path(folder, "probe")
        for path, text in {source: program, **{Path(folder, name): text for name, text in beside.items()}}.items():
            path.write_text(text, encoding="ascii")
        compiling = [*command.split(), "-std=c++17", "-O3", "-march=native", f"-I{folder}", *environment.get("CXXFLAGS", "").split(), *flags.split(), str(source), "-o", str(made)]
        try:
            if subprocess.run(compiling, env=dict(environment), capture_output=True, timeout=60, check=False).returncode:
                return "absent"
            return "broken" if subprocess.run([str(made)], capture_output=True, timeout=10, check=False).returncode else "sound"
        except (OSError, subprocess.SubprocessError):
            return "unknown"
