"""What a wanted shape costs for each token: asking whether one may come, noting it, and finding all that may.

    python benchmarks/constraints.py MODEL.gguf [MODEL.gguf ...]

The model's vocabulary alone is used. A JSON text under a schema of five properties, and one under a regular expression, are followed token by token again and
again; all tokens are asked for at each place too, which a sampler does only where the model's own choice is refused. Medians in µs, and what nine in ten and
99 in a hundred take at most.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from modules.core.params import GenerationParams  # noqa: E402
from modules.engine.constraints import Constraints  # noqa: E402
from modules.loaders.registry import find_loader  # noqa: E402

TIMES = 20
TEXTS = {"name": "Rosinante, mare of the north", "age": 12, "kind": "mule", "weight": 312.5, "notes": ["shy", "likes apples", "fond of rain"]}
SCHEMA = {
    "type": "object", "required": list(TEXTS), "additionalProperties": False,
    "properties": {
        "name": {"type": "string"}, "age": {"type": "integer"}, "kind": {"enum": ["horse", "donkey", "mule"]}, "weight": {"type": "number"},
        "notes": {"type": "array", "items": {"type": "string"}},
    },
}  # fmt: skip
SHAPES: dict[str, tuple[dict[str, Any], str]] = {
    "schema": ({"json_schema": json.dumps(SCHEMA)}, json.dumps(TEXTS)),
    "regex": ({"regex": r"[A-Z][a-z]+( [a-z]+){3,12}\."}, "Rosinante was a mare of the north and liked apples."),
}


def timed(function: Callable[[], Any], times: list[float]) -> Any:
    """What it returns; its µs go to the list."""
    begun_s = time.perf_counter()
    found = function()
    times.append(1e6 * (time.perf_counter() - begun_s))
    return found


def longest_tokens(pieces: dict[bytes, int], text: bytes) -> list[int]:
    """A text in the longest tokens that a vocabulary has, from its beginning on."""
    ids, longest = [], max(map(len, pieces))
    while text:
        length = next(length for length in range(min(longest, len(text)), 0, -1) if text[:length] in pieces)
        ids.append(pieces[text[:length]])
        text = text[length:]
    return ids


def told(name: str, times: list[float]) -> None:
    """A line of figures."""
    middle, most, nearly_all = np.percentile(times, [50, 90, 99])
    print(f"  {name:34} {middle:9.1f} {most:9.1f} {nearly_all:9.1f}")


def measure(path: Path) -> None:
    """All shapes over the vocabulary of a model."""
    spec = find_loader(path)
    model = spec.load(path, spec.options(slots=1, context_length=512), lambda stage, done: None)
    constraints, ends = Constraints(model.tokenizer, model.runner.vocab_size), frozenset(model.tokenizer.end_ids)
    pieces = {model.tokenizer.piece(token_id): token_id for token_id in range(model.runner.vocab_size) if token_id not in ends}
    print(f"{path.name}, {model.runner.vocab_size} tokens; µs: median, 90 %, 99 %")
    for name, (fields, text) in SHAPES.items():
        params = GenerationParams(**fields)
        ids = longest_tokens(pieces, text.encode())
        compiled: list[float] = []
        make = partial(constraints.constraint, params, ends)
        timed(make, compiled)
        asked: list[float] = []
        noted: list[float] = []
        masks: list[float] = []
        for _ in range(TIMES):
            constraint = timed(make, compiled)
            for token_id in ids:
                timed(constraint.allowed, masks)
                assert timed(partial(constraint.allows, token_id), asked), f"{text} has another shape"
                timed(partial(constraint.advance, token_id), noted)
        print(f"  {name}: {len(ids)} tokens; made in {compiled[0] / 1e3:.0f} ms with the vocabulary, again in {np.median(compiled[1:]) / 1e3:.2f} ms")
        told("one token asked for", asked)
        told("taken note of", noted)
        told("all that may come", masks)
    model.runner.close()


def main() -> None:
    """Every model that is named."""
    for name in sys.argv[1:]:
        measure(Path(name))


if __name__ == "__main__":
    main()
