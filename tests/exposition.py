"""A strict reader of Prometheus's text format 0.0.4, for tests: whatever the format does not allow fails."""

from __future__ import annotations

import itertools
import math
import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(,|\})')
HEAD = re.compile(rf"# (HELP|TYPE) ({NAME}) (.+)")
SAMPLE = re.compile(rf"({NAME})(\{{(?:[^\n]*)\}})? (\S+)")
NUMBER = re.compile(r"[+-]?Inf|NaN|[+-]?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?")
SUFFIXES = ("_bucket", "_sum", "_count")

Labels = frozenset[tuple[str, str]]
Samples = dict[tuple[str, Labels], float]


def labelled(name: str, **labels: str) -> tuple[str, Labels]:
    """The key of a sample."""
    return name, frozenset(labels.items())


def read_exposition(text: str) -> Samples:
    """All samples by name and labels."""
    assert text.endswith("\n")
    samples: Samples = {}
    kinds: dict[str, str] = {}
    helped: set[str] = set()
    family = ""
    for line in text.removesuffix("\n").split("\n"):
        head = HEAD.fullmatch(line)
        if head:
            family = _head(head, kinds, helped, family)
            continue
        match = SAMPLE.fullmatch(line)
        assert match, f"no line of the format: {line!r}"
        key = match[1], _labels(match[2] or "{}")
        assert _family(match[1], kinds) == family, f"outside of its family: {line!r}"
        assert key not in samples, f"twice: {line!r}"
        assert NUMBER.fullmatch(match[3]), f"no number: {line!r}"
        samples[key] = float(match[3])
    for name, kind in kinds.items():
        _check(name, kind, samples)
    return samples


def _head(head: re.Match[str], kinds: dict[str, str], helped: set[str], family: str) -> str:
    word, name, rest = head.groups()
    if word == "HELP":
        assert name not in helped, f"two HELP lines for {name}"
        helped.add(name)
        return name
    assert name == family, f"TYPE of {name} without HELP before it"
    assert name not in kinds, f"two TYPE lines for {name}"
    assert rest in ("counter", "gauge", "histogram")
    kinds[name] = rest
    return name


def _family(name: str, kinds: dict[str, str]) -> str:
    if name in kinds:
        assert kinds[name] != "histogram"
        return name
    base = next(name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix))
    assert kinds[base] == "histogram"
    return base


def _labels(text: str) -> Labels:
    found: dict[str, str] = {}
    place, end = 1, text == "{}"
    while not end:
        match = LABEL.match(text, place)
        assert match, f"no labels: {text!r}"
        assert match[1] not in found, f"a label twice: {text!r}"
        found[match[1]] = re.sub(r"\\(.)", lambda escaped: "\n" if escaped[1] == "n" else escaped[1], match[2])
        place, end = match.end(), match[3] == "}"
    assert place == len(text) or text == "{}"
    return frozenset(found.items())


def _check(name: str, kind: str, samples: Samples) -> None:
    own = {key: value for key, value in samples.items() if key[0] == name or (kind == "histogram" and key[0].removeprefix(name) in SUFFIXES)}
    assert own, f"{name} has no samples"
    if kind == "counter":
        assert name.endswith("_total")
        assert all(value >= 0 for value in own.values())
    if kind == "histogram":
        for labels in {frozenset(pair for pair in key[1] if pair[0] != "le") for key in own}:
            _check_histogram(name, labels, own)


def _check_histogram(name: str, labels: Labels, samples: Samples) -> None:
    bounds: dict[float, float] = {}
    for (sample, own), value in samples.items():
        le = dict(own).get("le")
        if sample == f"{name}_bucket" and own - {("le", le)} == labels:
            assert le is not None
            bounds[float(le)] = value
    assert list(bounds) == sorted(bounds), "bounds are not in order"
    assert all(first <= second for first, second in itertools.pairwise(bounds.values())), "buckets are not cumulative"
    assert bounds[math.inf] == samples[f"{name}_count", labels]
    assert samples[f"{name}_sum", labels] >= 0
