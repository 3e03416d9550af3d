"""A compiler that makes llama.cpp crash is found by what it makes, and told better; loops of ours are given where they compute as they should."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from installer import compiler

HERE = sys.platform.startswith("linux") and platform.machine() == "x86_64"
LINUX_ONLY = pytest.mark.skipif(not HERE, reason="tiles are a matter of x86-64")


class Probe:
    """Answers by flags, and notes with which environment it was asked."""

    def __init__(self, answers: Mapping[str, compiler.Found]) -> None:
        self.answers = answers
        self.seen: list[Mapping[str, str]] = []

    def __call__(self, flags: str, environment: Mapping[str, str]) -> compiler.Found:
        self.seen.append(environment)
        return self.answers[flags]


@pytest.fixture(autouse=True)
def some_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    if HERE and not compiler.compiler({}):
        monkeypatch.setattr(compiler, "compiler", lambda *_: "c++")


@pytest.mark.parametrize("answer", ["sound", "absent"])
def test_a_sound_compiler_and_one_without_tiles_are_told_nothing(answer: compiler.Found) -> None:
    environment = {"PATH": os.defpath, "CXXFLAGS": "-g"}
    assert compiler.with_sound_tiles(environment, Probe({"": answer})) == environment


@LINUX_ONLY
@pytest.mark.parametrize("answers", [("broken", "sound"), ("unknown", "unknown"), ("unknown", "sound")])
def test_a_compiler_that_may_load_half_a_table_is_given_a_header(answers: tuple[compiler.Found, compiler.Found]) -> None:
    probe = Probe(dict(zip(("", compiler.WHOLE_TABLE), answers, strict=True)))
    told = compiler.with_sound_tiles({"CXXFLAGS": "-g", "CPLUS_INCLUDE_PATH": "/mine"}, probe)
    assert told == {"CXXFLAGS": f"-g {compiler.WHOLE_TABLE}", "CPLUS_INCLUDE_PATH": f"{compiler.HEADERS}{os.pathsep}/mine"}
    assert probe.seen[-1]["CPLUS_INCLUDE_PATH"] == told["CPLUS_INCLUDE_PATH"]
    assert (compiler.HEADERS / compiler.WHOLE_TABLE.split()[1]).is_file()


@LINUX_ONLY
@pytest.mark.parametrize("answer", ["broken", "absent"])
def test_where_that_does_not_help_nothing_computes_with_tiles(answer: compiler.Found) -> None:
    told = compiler.with_sound_tiles({}, Probe({"": "broken", compiler.WHOLE_TABLE: answer}))
    assert told == {"CFLAGS": compiler.NO_TILES, "CXXFLAGS": compiler.NO_TILES}


def test_without_a_compiler_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "compiler", lambda _environment: "")
    probe = Probe({})
    assert compiler.with_sound_tiles({}, probe) == {}
    assert not probe.seen


@pytest.mark.parametrize(("environment", "there", "command"), [
    ({}, ("g++", "clang++"), "g++"),
    ({"CXX": "ccache clang++"}, ("c++", "ccache"), "ccache clang++"),
    ({}, (), ""),
])
def test_the_compiler_is_the_one_that_cmake_takes(environment: dict[str, str], there: tuple[str, ...], command: str) -> None:
    found = compiler.compiler(environment, lambda name: f"/bin/{name}" if name in there else None)
    assert found == command


@LINUX_ONLY
@pytest.mark.processes
def test_what_is_told_holds_on_this_machine() -> None:
    """The real compiler: one that loads half a table loads the whole one with the header."""
    command = compiler.compiler(os.environ)
    told = compiler.with_sound_tiles(os.environ)
    if compiler.look(command, "", os.environ) in ("absent", "sound"):
        assert told == dict(os.environ)
    else:
        assert told["CXXFLAGS"].endswith(compiler.WHOLE_TABLE)
        assert compiler.look(command, compiler.WHOLE_TABLE, told) == "sound"


WHOLE_LOOPS, WITHOUT_BARRIER = f"{compiler.LOOPS} {compiler.OPENMP}", f"{compiler.LOOPS} {compiler.NO_BARRIER}"
WITHOUT_HEADS, WITHOUT_PRODUCTS = (f"{compiler.LOOPS} {part} {compiler.OPENMP}" for part in (compiler.NO_HEADS, compiler.NO_PRODUCTS))
LEAST_LOOPS = f"{WITHOUT_BARRIER} {compiler.NO_HEADS} {compiler.NO_PRODUCTS}"
HEADERS = (compiler.LOOPS_HEADER, *compiler.READ_BY_IT)
BARRIER_HEADER = "paddock_barrier.h"


@LINUX_ONLY
@pytest.mark.parametrize("answer", ["absent", "broken", "unknown"])
def test_loops_that_are_not_known_to_be_right_are_left_out(answer: compiler.Found) -> None:
    probe = Probe(dict.fromkeys((WHOLE_LOOPS, WITHOUT_BARRIER, WITHOUT_HEADS, WITHOUT_PRODUCTS, LEAST_LOOPS), answer))
    assert compiler.with_loops({"CXXFLAGS": "-g"}, probe) == {"CXXFLAGS": "-g"}


@LINUX_ONLY
@pytest.mark.parametrize("answer", ["absent", "broken", "unknown"])
def test_where_threads_would_not_wait_rightly_llama_cpps_own_do(answer: compiler.Found) -> None:
    told = compiler.with_loops({}, Probe({WHOLE_LOOPS: answer, WITHOUT_BARRIER: "sound"}))
    assert told["CXXFLAGS"] == WITHOUT_BARRIER
    assert compiler.has_loops(told)


@LINUX_ONLY
@pytest.mark.parametrize("answer", ["absent", "broken", "unknown"])
@pytest.mark.parametrize("sound", [WITHOUT_HEADS, WITHOUT_PRODUCTS, LEAST_LOOPS])
def test_parts_that_are_not_known_to_be_right_are_left_out_alone(sound: str, answer: compiler.Found) -> None:
    probe = Probe({**dict.fromkeys((WHOLE_LOOPS, WITHOUT_BARRIER, WITHOUT_HEADS, WITHOUT_PRODUCTS), answer), sound: "sound"})
    told = compiler.with_loops({"CXXFLAGS": "-g"}, probe)
    assert told["CXXFLAGS"] == f"-g {sound.removesuffix(compiler.OPENMP).strip()}"
    assert compiler.without_loops(told)["CXXFLAGS"] == "-g"


@LINUX_ONLY
@pytest.mark.processes
@pytest.mark.parametrize(("right", "wrong", "left_out"), [
    ("past.cap * tanhf(scores[i])", "scores[i]", compiler.NO_HEADS),
    ("first < n; first += MOST_ROWS", "first + 1 < n; first += MOST_ROWS", compiler.NO_PRODUCTS),
    ("const int before = team->passed", "return; const int before = team->passed", compiler.NO_BARRIER),
])
def test_a_part_that_computes_something_else_is_left_out_alone(right: str, wrong: str, left_out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real compiler."""
    if not defines(AVX2, "") or not defines(BARRIER, "") or (left_out == compiler.NO_HEADS and defines("__AVX512F__", "")):
        pytest.skip("no compiler, or one that has none of these parts to begin with")
    for name in HEADERS:
        (tmp_path / name).write_text((compiler.HEADERS / name).read_text(encoding="ascii").replace(right, wrong), encoding="ascii")
    monkeypatch.setattr(compiler, "HEADERS", tmp_path)
    told = compiler.with_loops({**os.environ, "CXXFLAGS": "-O1", "OMP_WAIT_POLICY": "passive"})  # which would hide how threads wait
    assert told["CXXFLAGS"] == f"-O1 {compiler.LOOPS} {left_out}"
    assert told["OMP_WAIT_POLICY"] == "passive"
    assert compiler.mark(told) == f"{compiler.MARK} {left_out.removeprefix('-DPADDOCK_')};"


@LINUX_ONLY
def test_loops_stand_beside_what_else_is_told() -> None:
    told = compiler.with_sound_tiles({"CXXFLAGS": "-g"}, Probe({"": "broken", compiler.WHOLE_TABLE: "sound"}))
    told = compiler.with_loops(told, Probe({WHOLE_LOOPS: "sound"}))
    assert told == {"CXXFLAGS": f"-g {compiler.WHOLE_TABLE} {compiler.LOOPS}", "CPLUS_INCLUDE_PATH": str(compiler.HEADERS)}
    assert compiler.has_loops(told)
    assert not compiler.has_loops({"CXXFLAGS": "-g"})


def test_remarks_do_not_make_another_version(tmp_path: Path) -> None:
    for name in HEADERS:
        shutil.copytree(compiler.HEADERS, tmp_path, dirs_exist_ok=True)
        text = (compiler.HEADERS / name).read_text(encoding="ascii")
        for change, same in [(f"// another remark\n{text}", True), (text.replace("#pragma once", "#pragma  once"), False)]:
            (tmp_path / name).write_text(change, encoding="ascii")
            assert (compiler.version_of(tmp_path) in compiler.MARK) is same


@pytest.mark.parametrize("loops", [compiler.LOOPS, WITHOUT_BARRIER])
def test_loops_are_taken_back(loops: str) -> None:
    assert compiler.without_loops({"CXXFLAGS": f"-g {loops}", "CC": "cc"}) == {"CXXFLAGS": "-g", "CC": "cc"}


WIDTHS = ["", "-mno-avx512fp16", "-mno-avx512vnni", "-mno-avx512f", "-mno-avx512f -U__AVXVNNI__", "-mno-avx2"]
AVX, AVX2, HALVES, AVX512, WHOLE = "__AVX__", "__AVX2__", "__AVX512FP16__", "__AVX512VL__", "__AVX512VNNI__"
VNNI = "__AVXVNNI__"
EIGHT, NARROW = "-mno-avx512f", "-mno-avx512f -U__AVXVNNI__"
BARRIER = "PADDOCK_BARRIER"
# Parts of the trial, in which the compiler takes less trouble: a third of its time
ALL_BUT_HEADS, ALL_BUT_PRODUCTS = f"-Og {compiler.NO_HEADS}", f"-Og {compiler.NO_PRODUCTS}"
WAITING_ONLY = f"{ALL_BUT_HEADS} {compiler.NO_PRODUCTS}"


@functools.cache
def defines(macro: str, flags: str) -> bool:
    """Whether the compiler here has these registers, with such flags, and the processor too."""
    environment = {**os.environ, "CPLUS_INCLUDE_PATH": str(compiler.HEADERS)}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "asks.cpp")
        program.write_text(f'#include "{BARRIER_HEADER}"\n#ifndef {macro}\n#error none\n#endif\nint main() {{}}', encoding="ascii")
        return compiler.look(compiler.compiler(os.environ), f"{flags} {compiler.OPENMP}", environment, program) == "sound"


def tried(flags: str, headers: Path, said: Mapping[str, str] = MappingProxyType({})) -> compiler.Found:
    here = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    environment = {**here, **said, "CPLUS_INCLUDE_PATH": str(headers)}
    return compiler.look(compiler.compiler(os.environ), f"{flags} {WHOLE_LOOPS}", environment, compiler.LOOPS_TRIAL)


@LINUX_ONLY
@pytest.mark.processes
@pytest.mark.parametrize("flags", [*WIDTHS, ALL_BUT_HEADS, ALL_BUT_PRODUCTS, WAITING_ONLY])
def test_the_loops_compute_as_they_should(flags: str) -> None:
    """The real compiler, and each kind of register that the processor here has."""
    if not defines(AVX, flags):
        pytest.skip("no compiler, or a processor without AVX")
    assert tried(flags, compiler.HEADERS) == "sound"


@LINUX_ONLY
@pytest.mark.processes
@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_threads_wait_as_somebody_said(name: str, tmp_path: Path) -> None:
    """By libgomp's own barrier, which knows of it: one of ours that lets all pass is not asked."""
    if not defines(BARRIER, ""):
        pytest.skip("no compiler, or no OpenMP of GCC")
    shutil.copytree(compiler.HEADERS, tmp_path, dirs_exist_ok=True)
    header = tmp_path / BARRIER_HEADER
    header.write_text(header.read_text(encoding="ascii").replace("const int before = team->passed", "return; const int before = team->passed"), encoding="ascii")
    assert tried(WAITING_ONLY, tmp_path) == "broken"
    assert tried(WAITING_ONLY, tmp_path, {name: {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}[name]}) == "sound"


@LINUX_ONLY
@pytest.mark.processes
@pytest.mark.parametrize(("macro", "flags", "right", "wrong"), [
    (AVX, "-mno-avx512f", "lanes = _mm256_max_ps", "lanes = _mm256_min_ps"),
    (AVX512, "", "_mm512_max_ps", "_mm512_min_ps"),
    (AVX512, "-mno-avx512fp16", "_mm512_fmadd_ps(b, c, a)", "_mm512_fmadd_ps(b, c, c)"),
    (HALVES, "", "_mm256_fmadd_ph(b, c, a)", "_mm256_fmadd_ph(b, c, b)"),
    (HALVES, "", "_mm256_storeu_ph(p, (r)[i])", "(void)(r)[i]"),
    (WHOLE, "", "shuffle_i64x2(pairs[i], pairs[i + 4], 0x88)", "shuffle_i64x2(pairs[i], pairs[i + 4], 0x44)"),
    (WHOLE, "", "HAS_SIGNS ? 0 : 128;", "HAS_SIGNS ? 0 : 127;"),
    (WHOLE, "", "(__mmask32)bits, low,", "(__mmask32)0, low,"),
    (WHOLE, "", "(1u << lanes) - 1", "(1u << LANES) - 1"),
    (WHOLE, "", "eight_halves(rows + 8, offset)", "eight_halves(rows, offset)"),
    (WHOLE, "", "_mm_unpacklo_epi64(first[i], second[i])", "_mm_unpacklo_epi64(first[i], first[i])"),
    (VNNI, EIGHT, "sums[c] = _mm256_dpbusd_avx_epi32(sums[c],", "sums[c] = _mm256_dpbusd_avx_epi32(sums[0],"),
    (VNNI, EIGHT, "constexpr bool HAS_SIGNS = false;\n#else", "constexpr bool HAS_SIGNS = true;\n#else"),
    (AVX2, NARROW, "permute2x128_si256(pairs[i], pairs[i + 4], 0x31)", "permute2x128_si256(pairs[i], pairs[i + 4], 0x20)"),
    (AVX2, NARROW, "HAS_SIGNS ? 0 : 128;", "1;"),
    (AVX2, NARROW, "above = 16, together = 4", "above = 16, together = 8"),
    (AVX2, NARROW, "above = 32, together = 2", "above = 32, together = 4"),
    (AVX2, NARROW, "_mm256_abs_epi8(signed_ones)", "_mm256_min_epu8(_mm256_abs_epi8(signed_ones), _mm256_set1_epi8(127))"),
    (AVX2, NARROW, "if (lanes == LANES) return", "return"),
    (AVX2, NARROW, "_mm_unpackhi_epi64(turned[i], turned[i])", "turned[i]"),
    (AVX2, NARROW, "(_mm256_and_si256(all, mine), mine)", "(all, mine)"),
    (AVX2, NARROW, "if constexpr (COLUMNS > 1) __asm__", "if constexpr (COLUMNS == 1) numbers = same(0); else __asm__"),
    (AVX2, NARROW, "past.mask ? single(past.mask[at]) : 0.0f", "0.0f"),
    (AVX2, NARROW, "_mm256_permute2f128_ps(low, high, 0x31)", "_mm256_permute2f128_ps(low, high, 0x20)"),
    (AVX2, NARROW, "? expf(found->largest - largest) : 1.0f", "? 1.0f : 1.0f"),
    (AVX2, NARROW, "scores[i] = -INFINITY;", "{}"),
    (AVX2, NARROW, "at < past.value_width; at += 8", "at < 0; at += 8"),
    (AVX2, NARROW, "past.cap * tanhf(scores[i])", "scores[i]"),
    (AVX2, NARROW, "head / shared * v->nb[2]", "0 * head / shared * v->nb[2]"),
    (AVX2, NARROW, "one.sum = one.sum * factor + expf(score - largest);", "one.sum = one.sum * factor;"),
    (AVX2, NARROW, "to = (end + rounded) / bunch * bunch", "to = end / bunch * bunch"),
    (AVX2, NARROW, "parts ? shared - 1 :", "parts ? shared :"),
    (AVX2, NARROW, "k->type == GGML_TYPE_F16 &&", ""),
    (AVX2, NARROW, "mask->ne[2] == 1", "true"),
    (AVX2, NARROW, "params->use_ref || bias > 0.0f", "params->use_ref"),
    (AVX2, NARROW, "+ batch * q->nb[3]", ""),
    (AVX2, NARROW, "batch / batches * v->nb[3]", "0"),
    (AVX2, NARROW, "batch % mask->ne[3] * mask->nb[3]", "0"),
    (AVX2, NARROW, "batch * dst->ne[2] * dst->ne[1]", "0"),
    (AVX2, NARROW, "one.sum == 0.0f ? 0.0f :", ""),
    (AVX2, NARROW, "past.key_width > past.value_width ? past.key_width :", ""),
    (AVX2, NARROW, "std::min(to - row, shared - row % shared)", "shared - row % shared"),
    (AVX2, NARROW, "in_batch / (shared * tokens) * shared + in_batch % shared", "in_batch / (shared * tokens) * shared"),
    (AVX2, NARROW, "permute2x128_si256(a, b, 0x31)", "permute2x128_si256(a, b, 0x20)"),
    (AVX2, NARROW, "if constexpr (Kind::above != 0) halves", "if constexpr (Kind::above == 7) halves"),
    (AVX2, NARROW, "_mm256_sign_epi8(other, weights)", "other"),
    (AVX2, NARROW, "Kind::Other::numbers + 32 * chunk;", "Kind::Other::numbers;"),
    (AVX2, NARROW, "same(sums[place + part])", "same(sums[part])"),
    (AVX2, NARROW, "found = plus_times(found, tiles[chunk].factors[1], least[place])", "{}"),
    (AVX2, NARROW, "together = FIFTH ? 4 : 8", "together = 8"),
    (AVX2, "", "times(halves(rows, offset + 2), -1.0f)", "times(halves(rows, offset), -1.0f)"),
    (AVX2, "", "bits(second, at + 6, 2)", "bits(first, at + 6, 2)"),
    (AVX2, "", "chunk < 4 ? _mm256_slli_epi16(fifths", "chunk < 3 ? _mm256_slli_epi16(fifths"),
    (AVX2, "", "room.factors[column * units + unit] * (float)sum_of_chunk(at, chunk)", "(float)sum_of_chunk(at, chunk)"),
    (AVX2, "", "plus_times(found[c], tile->factors[1], least[c * parts + at])", "found[c]"),
    (AVX2, NARROW, "above = 12, together = 4", "above = 12, together = 8"),
    (AVX2, "", "4, 6, 8, 12, 0, -1", "4, 6, 8, 11, 0, -1"),
    (AVX2, NARROW, "(eight_bytes(rows, offset), 23)", "(eight_bytes(rows, offset), 22)"),
    (WHOLE, "", "eight_bytes(rows + 8, offset)", "eight_bytes(rows, offset)"),
    (WHOLE, "", "HAS_SIGNS ? 0 : 128, together", "HAS_SIGNS ? 0 : 126, together"),
    (VNNI, EIGHT, "setzero_si256(), one, other_one), two, other_two)", "setzero_si256(), one, other_one), two, other_one)"),
    (AVX2, NARROW, "products_in_fours<true>(two, other_two)", "products_in_fours<true>(two, other_one)"),
    (AVX2, EIGHT, "rows[row + LANES / 2] + offset)", "rows[row] + offset)"),
    (AVX2, NARROW, "halves[0] = of_two[chunk % 2];", "halves[0] = of_two[0];"),
    (AVX2, EIGHT, "twice(other + 48)", "twice(other + 32)"),
    (AVX2, "", "bits(high, 16 + 2 * chunk, 2)", "bits(high, 2 * chunk, 2)"),
    (AVX2, "", "-49, -35, -22", "-49, -34, -22"),
    (AVX2, "", "chunk < 2 ? _mm256_slli_epi16(thirds", "chunk < 1 ? _mm256_slli_epi16(thirds"),
    (AVX2, "", "byte + part / 8 * 4, 4", "byte + part / 4 % 2 * 4, 4"),
    (AVX2, NARROW, "int above = 4, together = 4", "int above = 3, together = 4"),
    (AVX2, "", "expert * weights->nb[2]", "0 * weights->nb[2]"),
    (AVX2, "", "place % from->ne[1] + token", "place + token"),
    (AVX2, "", "place * to->nb[1] + token * to->nb[2]", "token * to->nb[2]"),
    (AVX2, "", "rows[first + row].row, stride", "rows[row].row, stride"),
    (AVX2, "", "count > 1 ? together.data() : rows[first].row", "together.data()"),
    (AVX2, "", "case GGML_TYPE_MXFP4: return what(MXFP4{})", "case GGML_TYPE_MXFP4: return what(Q4_0{})"),
    (AVX2, "", "if (other == GGML_TYPE_Q8_0) switch", "switch"),
    (AVX2, "", "above = 8, together = 8", "above = 7, together = 8"),
    (AVX2, "", "first < n; first += MOST_ROWS", "first + 1 < n; first += MOST_ROWS"),
    (AVX2, "", "first < n; first += ROUTED_ROWS", "first + 1 < n; first += ROUTED_ROWS"),
    (AVX2, EIGHT, "store(out, found, kept);", "store(out, plus_times(found, found, 1e-6f), kept);"),
    (AVX2, "", "(short)found[7]", "(short)found[0]"),
    (AVX2, "", "_mm_unpackhi_epi8(in[row], in[row + 4])", "_mm_unpackhi_epi8(in[row], in[row])"),
    (AVX2, "", "factors[c * units + unit]", "factors[c * units]"),
    (AVX2, "", "Kind::sums(at, &room.sums[column * parts + unit", "Kind::sums(at, &room.sums[column * parts + 0 * unit"),
    (AVX2, "", "(float *)out + (first + row) * out_stride", "(float *)out + row * out_stride"),
    (AVX2, "", "part < 2 ? _mm256_slli_epi16(high, 4 - 2 * part)", "part < 1 ? _mm256_slli_epi16(high, 4 - 2 * part)"),
    (AVX2, "", "return multiply<Kind, COLUMNS - 1>(columns,", "return multiply<Kind, 1>(columns,"),
    (BARRIER, "", "const int before = team->passed", "return; const int before = team->passed"),
    (BARRIER, "", "if (team->passed.load(std::memory_order_acquire) != before) return;", "return;"),
    (BARRIER, "", "if (team->asleep.load()) futex", "if (false) futex"),
    (AVX2, "", "(tiles - left) * (thread + 1) / threads", "(tiles - left) * thread / threads"),
    (BARRIER, "", "team->taken.store(0, std::memory_order_relaxed);", ""),
    (BARRIER, "", "me.divided = passed;", ""),
    (BARRIER, "", "left * (part + 1) / parts}", "left * part / parts}"),
    (BARRIER, "", "n > FEW_ROWS && n <= MOST_ROWS", "n > FEW_ROWS"),
    (AVX, "", "(int)paddock::nearest_border(end, rows)", "(int)end"),
    (AVX, "", "sizeof(Row) == 8>::type ggml_compute_forward_flash_attn_ext_tiled", "sizeof(Row) == 2>::type ggml_compute_forward_flash_attn_ext_tiled"),
    (AVX2, NARROW, "sizeof(Row) == 8>::type ggml_compute_forward_flash_attn_ext_f16", "sizeof(Row) == 2>::type ggml_compute_forward_flash_attn_ext_f16"),
    (AVX, "", "begin + ATTENTION_TILE < rows ? begin + ATTENTION_TILE : rows", "begin + ATTENTION_TILE"),
])
def test_loops_that_compute_something_else_are_found_out(macro: str, flags: str, right: str, wrong: str, tmp_path: Path) -> None:
    if not defines(macro, flags):
        pytest.skip("no compiler, or a processor without these registers")
    texts = {name: (compiler.HEADERS / name).read_text(encoding="ascii") for name in HEADERS}
    for name, text in texts.items():
        (tmp_path / name).write_text(text.replace(right, wrong), encoding="ascii")
    changed = {name for name, text in texts.items() if right in text}
    assert changed
    part = ALL_BUT_PRODUCTS if changed == {"paddock_heads.h"} else ALL_BUT_HEADS
    assert tried(f"{flags} {part}", tmp_path) == ("unknown" if right.endswith("futex") else "broken")  # the one waits for ever
