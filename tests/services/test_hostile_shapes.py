"""Shapes that kill or hang other servers: each is refused with a sentence, or followed at a bounded cost, and the engine's process lives on."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from modules.core.errors import AppError, InvalidRequest
from modules.core.generation import GenerationRequest, TextPrompt
from modules.engine.client import EngineClient
from modules.services.presets import params_from

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]

OPTIONS = {"context_length": 512, "slots": 4, "threads": 1, "threads_batch": 1}
LONGEST_S = 20.0  # hundreds of times what the slowest of them takes on an idle machine


def nested(depth: int, inner: Any = True) -> Any:
    for _ in range(depth):
        inner = {"items": inner}
    return inner


def doubling(keyword: str, depth: int) -> dict[str, Any]:
    """A schema that is small and has 2^depth parts when its references are followed."""
    steps = {f"d{number}": {keyword: [{"$ref": f"#/$defs/d{number + 1}"}] * 2} for number in range(depth)}
    return {"$ref": "#/$defs/d0", "$defs": {**steps, f"d{depth}": {"type": "null"}}}


def otherwise(depth: int) -> dict[str, Any]:
    """A case, else another one, and so on."""
    case = {"if": {"properties": {"k": {"const": depth}}, "required": ["k"]}, "then": {"required": ["a"]}}
    return {**case, "else": otherwise(depth - 1)} if depth else case


def chained(count: int, step: Any) -> dict[str, Any]:
    """Definitions of which each names the next one, in a way."""
    names = [f"{number:x}" for number in range(count + 1)]
    steps = {name: step({"$ref": f"#/$defs/{after}"}) for name, after in pairwise(names)}
    return {"$ref": "#/$defs/0", "$defs": {**steps, names[-1]: {"type": "null"}}}


def grouped(rules: int, groups: int) -> str:
    """Rules of groups in each other, the innermost of which names the next rule."""
    lines = [f"r{number} ::= " + '("a"|' * groups + f"r{number + 1} | root" + ' "b")' * groups for number in range(rules)]
    return "\n".join(["root ::= r0", *lines, f'r{rules} ::= "z"'])


# Within every limit, and followed by calls within calls: with the stack of an ordinary thread the process ended
LONG_WAYS: dict[str, dict[str, Any]] = {
    "references in each other": {"json_schema": chained(1_500, lambda after: {"anyOf": [after]})},
    "references in lists in each other": {"json_schema": chained(100, lambda after: nested(58, after))},
    "rules in groups in rules": {"grammar": grouped(998, 3)},
    "rules in more groups in rules": {"grammar": grouped(600, 6)},
}
REFUSED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("100,000 parentheses", {"grammar": "root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000}, "at most 65536 characters"),
    ("30,000 parentheses", {"grammar": "root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000}, "more than 32 groups in each other"),
    ("10 MB of grammar", {"grammar": 'root ::= "' + "a" * 10_000_000 + '"'}, "at most 65536 characters"),
    ("repeats of repeats", {"grammar": 'root ::= (((("a"{2000}){2000}){2000}){2000})'}, "too large when its repeats are written out"),
    ("endless grammar", {"grammar": "root ::= root"}, "never comes to an end"),
    ("30,000 regex groups", {"regex": "(" * 4_000 + "a" + ")" * 4_000}, "more than 64 groups"),
    ("exponential regex", {"regex": "((((a{1000}){1000}){1000}){1000})"}, "too large when its repeats are written out"),
    ("a billion repeats", {"regex": "a{1000000000}"}, "too large when its repeats are written out"),
    ("regex that fits nothing", {"regex": r"[^\s\S]"}, "No text fits"),
    ("regex that looks ahead", {"regex": "(?=a)b"}, "look-around"),
    ("regex that is none", {"regex": "(a"}, "unclosed group"),
    ("schema too deep", {"json_schema": nested(100)}, "at most 64 objects and lists in each other"),
    ("schema far too deep", {"json_schema": '{"items":' * 6_000 + "{}" + "}" * 6_000}, "no JSON|at most 64"),
    ("10 MB of schema", {"json_schema": {"enum": ["x" * 10_000_000]}}, "at most 65536 characters"),
    ("schema that is only itself", {"json_schema": {"$ref": "#"}}, "No text fits"),
    ("schemas that are each other", {"json_schema": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}}, "No text fits"),
    ("schema of itself and more", {"json_schema": {"allOf": [{"$ref": "#"}]}}, "No text fits"),
    ("schema elsewhere", {"json_schema": {"$ref": "https://example.com/schema.json"}}, "example.com"),
    ("schema of a file", {"json_schema": {"$ref": "file:///etc/passwd"}}, "etc/passwd"),
    ("schema that nothing fits", {"json_schema": {"type": "string", "minLength": 5, "maxLength": 2}}, "Unsatisfiable"),
    ("schema of two types at once", {"json_schema": {"allOf": [{"type": "string"}, {"type": "number"}]}}, "Unsatisfiable"),
    ("schema false", {"json_schema": False}, "false"),
    ("schema with what cannot be kept to", {"json_schema": {"type": "array", "contains": {"const": 1}}}, "contains: "),
    ("schema with a condition", {"json_schema": {"if": {"minimum": 3}, "then": {"maximum": 5}}}, "if: "),
    ("names by a pattern that Python would try for ever", {"json_schema": {"type": "object", "propertyNames": {"pattern": "^(a+)+$"}, "properties": {"a" * 60 + "!": {}}, "required": ["a" * 60 + "!"]}}, "unsatisfiable"),
    ("too many names and patterns", {"json_schema": {"propertyNames": {"enum": [f"x{n}" for n in range(2_000)]}, "patternProperties": {f"^x{n}$": {} for n in range(900)}}}, "too many to compare"),
    ("schema with a huge pattern", {"json_schema": {"type": "string", "pattern": "((a{1000}){1000}){1000}"}}, "too large when its repeats are written out"),
    ("2^16 cases", {"json_schema": {"allOf": [
        {"anyOf": [{"properties": {f"a{i}": {"const": 1}}, "required": [f"a{i}"]}, {"properties": {f"b{i}": {"const": 1}}}]} for i in range(16)
    ]}}, "too large"),
    ("numbers", {"json_schema": {"type": "number", "minimum": 1e-300, "maximum": 1.7e308}}, "cannot be used"),
    ("half a character", {"json_schema": {"const": "\ud800"}}, "unicode"),
    ("too many choices", {"choices": [f"x{number}" for number in range(2_000)]}, "at most 1024"),
    ("too long choices", {"choices": ["x" * 70_000]}, "at most 65536"),
    ("an empty choice", {"choices": ["a", ""]}, "an empty text is no choice"),
    ("not JSON", {"json_schema": "{"}, "no JSON"),
    ("no schema", {"json_schema": "[1]"}, "a schema is a JSON object"),
    ("two shapes", {"regex": "a", "choices": ["b"]}, "one shape"),
)  # fmt: skip
FOLLOWED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("multiples of a large prime", {"json_schema": {"type": "integer", "multipleOf": 1_000_000_007}}),
    ("a regex of many ways", {"regex": ".{0,64}" * 60}),
    ("a text of any length", {"json_schema": {"type": "string", "maxLength": 1_000_000_000}}),
    ("a list of any length", {"json_schema": {"type": "array", "items": {"type": "null"}, "maxItems": 1_000_000, "minItems": 100_000}}),
    ("2^60 ways through references", {"json_schema": doubling("anyOf", 60)}),
    ("2^24 parts of one schema", {"json_schema": doubling("allOf", 24)}),
    ("2^24 names through references", {"json_schema": {"propertyNames": {"$ref": "#/$defs/d0"}, "type": "object", "$defs": doubling("anyOf", 24)["$defs"]}}),
    ("many lists of different values", {"json_schema": {"properties": {f"p{n}": {"type": "array", "items": {"enum": list("abcde")}, "uniqueItems": True} for n in range(500)}}}),
    ("1,000 different values", {"json_schema": {"type": "array", "items": {"enum": [f"x{n}" for n in range(1_000)]}, "uniqueItems": True}}),
    ("2^12 cases of what depends on what", {"json_schema": {"type": "object", "dependentRequired": {f"a{n}": [f"b{n}"] for n in range(12)}}}),
    ("cases in each other", {"json_schema": {"type": "object", "properties": {"k": {"enum": list(range(500))}}, **otherwise(25)}}),
    ("a number of 300 digits", {"json_schema": {"type": "integer", "minimum": 10**30}}),
    ("6,000 values", {"json_schema": {"enum": [f"x{number}" for number in range(6_000)]}}),
    ("a regex that backtracks elsewhere", {"regex": "(a*)*b|(x+x+)+y"}),
    ("a regex of a large automaton", {"regex": "(.*a.{100}b){10}"}),
    ("a grammar of two readings of everything", {"grammar": 'root ::= s\ns ::= s s | s s s | "a" | "b" | ""'}),
    ("a grammar that begins with itself", {"grammar": 'root ::= root "a" | "b"'}),
    ("a thousand rules in a row", {"grammar": "root ::= r0\n" + "\n".join(f'r{i} ::= r{i + 1} "a" | root "b"' for i in range(900)) + '\nr900 ::= "a"'}),
    ("comments", {"grammar": 'root ::= "a" ' + "# " * 30_000}),
    *LONG_WAYS.items(),
)  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(starter_gguf: Path) -> AsyncIterator[EngineClient]:
    client = await EngineClient.start(str(starter_gguf), "", OPTIONS, name="Starter")
    yield client
    await client.close()


def request(**fields: Any) -> GenerationRequest:
    return GenerationRequest(prompt=TextPrompt(text="Once upon a"), params=params_from({"max_tokens": 12, "seed": 1} | fields))


@pytest.mark.parametrize(("fields", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
async def test_it_is_refused_with_its_field_and_a_sentence(client: EngineClient, fields: dict[str, Any], words: str) -> None:
    begun_s = time.monotonic()
    with pytest.raises(InvalidRequest, match=words) as refused:
        await client.submit(request(**fields))
    assert refused.value.details["field"] in (*fields, "params")
    assert refused.value.message.endswith(".")
    assert len(refused.value.message) < 600
    assert time.monotonic() - begun_s < LONGEST_S
    assert client.alive


@pytest.mark.parametrize("fields", [row[1] for row in FOLLOWED], ids=[row[0] for row in FOLLOWED])
async def test_it_is_followed_or_ends_with_a_sentence(client: EngineClient, fields: dict[str, Any]) -> None:
    begun_s = time.monotonic()
    try:
        deltas = [delta async for delta in await client.submit(request(**fields))]
        assert deltas[-1].finish_reason in ("stop", "length")
    except AppError as error:
        assert error.message.endswith(".")
    assert time.monotonic() - begun_s < LONGEST_S
    assert client.alive


async def test_after_all_of_them_the_engine_answers_as_before(client: EngineClient) -> None:
    text = "".join([delta.text async for delta in await client.submit(request(json_schema={"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}, max_tokens=60))])
    assert isinstance(json.loads(text), dict)
    assert "".join([delta.text async for delta in await client.submit(request(temperature=0))])
