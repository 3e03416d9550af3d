"""A text of every shape: what is written fits it, ends where it must, and is the same whatever guesses ride along."""

from __future__ import annotations

import json
import re
import threading
import zlib

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.core.errors import InvalidRequest
from modules.core.model import DraftSource
from modules.core.params import GenerationParams
from modules.engine.constraints import Constraints
from modules.engine.engine import Engine
from tests.engine.steady import steady
from tests.fakes import BOS, EOS, MARK, VOCAB_SIZE, ByteTokenizer, FakeRunner, Inbox

PROMPT = [BOS, *b"Say it:"]
LIKED = np.zeros(VOCAB_SIZE, np.float32)  # a model that knows how lists and numbers look, and what quotes are for
LIKED[list(b'"{}[],:0123456789abcdefx. ')] = 4
LIKED[list(b'"}],')] = 6
JSON_GRAMMAR = r'''
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws   # what a name stands for
object ::=
  "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ws
ws     ::= | " " | "\n" [ \t]{0,20}
'''
SUMS = r'''
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
'''


def babble(ids) -> np.ndarray:
    """A model that is unsure; what it likes depends on all before."""
    seed = zlib.crc32(np.array(ids, np.int32).tobytes())
    return np.random.default_rng(seed).normal(0, 2, VOCAB_SIZE).astype(np.float32) + LIKED


def write(engine, inbox, **fields):
    generation = engine.submit(PROMPT, GenerationParams(**{"seed": 1, "max_tokens": 400} | fields))
    inbox.wait(generation)
    assert generation not in inbox.errors, inbox.errors
    return inbox.text(generation), inbox.last(generation).finish_reason


@pytest.fixture
def babbling(bench):
    engine, _, inbox = bench(FakeRunner(context=1024, rule=babble))
    return engine, inbox


# ---- each shape ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_one_of_the_choices_is_written(babbling, seed):
    choices = ("yes", "yes, but", "no\n", "perhaps — “é”\x7f", "<|mark|>")
    assert write(*babbling, choices=choices, seed=seed) in [(choice, "stop") for choice in choices]


def test_every_choice_can_come(babbling):
    assert {write(*babbling, choices=("aa", "ab", "b"), seed=seed, temperature=3)[0] for seed in range(40)} == {"aa", "ab", "b"}


@pytest.mark.parametrize("regex", [
    r"[A-Z][a-z]{2,5}, \d{1,3}", r"^(red|green)+?$", r"a/b\"c", r"\w{1,9}\s\w{2}!", "x{3}|é{2}", r"[\s\S]{9}", "(?i)abc", r"cost: \$[0-9]+\.",
])  # fmt: skip
def test_the_whole_text_fits_a_regular_expression(babbling, regex):
    text, reason = write(*babbling, regex=regex)
    assert reason == "stop"
    assert re.fullmatch(regex, text, re.ASCII), text


@pytest.mark.parametrize("grammar", [JSON_GRAMMAR, 'root ::= "[" ([0-9]+ ("," [0-9]+)*)? "]"'])
def test_a_grammar_as_users_of_llama_cpp_write_it(babbling, grammar):
    text, reason = write(*babbling, grammar=grammar, max_tokens=900)
    assert reason == "stop"
    json.loads(text)


def test_a_piece_that_could_eat_what_must_follow_does_not(babbling):
    """In this grammar a number may be followed by newlines, and a line has to end with one."""
    for seed in range(5):
        text, _ = write(*babbling, grammar=SUMS, max_tokens=60, seed=seed)
        lines = text.split("=")
        assert all(re.match(r"\s*[a-z0-9_()\s]+\n", line) for line in lines[1:-1]), text
    rules = Constraints(ByteTokenizer(), VOCAB_SIZE)
    assert fits(rules, b"x=1\ny=22\n\n", grammar=SUMS)
    assert not fits(rules, b"x=1\ny=22", grammar=SUMS)


def test_any_json_object(babbling):
    for seed in range(4):
        text, reason = write(*babbling, json_schema={"type": "object"}, seed=seed, max_tokens=900)
        assert reason == "stop"
        assert isinstance(json.loads(text), dict)


def fits(constraints: Constraints, text: bytes, **fields) -> bool:
    """Whether a text may be written and may end there."""
    one = constraints.constraint(GenerationParams(**fields), {EOS})
    for token_id in text:
        granted = one.allows(token_id)
        assert granted == (token_id in one.allowed())
        if not granted:
            return False
        one.advance(token_id)
    return one.allows(EOS)


@pytest.mark.parametrize(("schema", "good", "bad"), [
    ({"const": {"a": [1, "x"]}}, ['{"a":[1,"x"]}', '{ "a": [1, "x"] }'], ['{"a":[1]}', '{"a":[1,"x"]} ', '{"a":          [1,"x"]}']),
    ({"enum": ["a", 5, None]}, ['"a"', "5", "null"], ['"b"', "55", '"']),
    ({"type": ["string", "null"], "maxLength": 2}, ['"ab"', "null", '"é"'], ['"abc"', "1"]),
    ({"type": "integer", "minimum": -3, "exclusiveMaximum": 12}, ["-3", "0", "11"], ["-4", "12", "1.5", "01"]),
    ({"type": "string", "pattern": "^a+b?$"}, ['"aab"'], ['"b"', '"aabb"']),
    ({"type": "string", "pattern": "b"}, ['"abc"', '"b"'], ['"ac"']),
    ({"type": "string", "format": "date"}, ['"2026-11-26"'], ['"2026-13-26"', '"today"']),
    ({"type": "string", "format": "path"}, ['"a/b"'], ["a"]),
    ({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2}, ["[true]", "[true, false]"], ["[]", "[true,true,true]"]),
    ({"anyOf": [{"type": "number"}, {"type": "object", "required": ["a"], "properties": {"a": {"type": "null"}}, "additionalProperties": False}]},
     ["1.5e3", '{"a":null}'], ['{"b":null}', "{}"]),
    ({"oneOf": [{"const": 1}, {"const": 2}]}, ["1", "2"], ["3"]),
    ({"allOf": [{"properties": {"a": {"type": "integer"}}}, {"required": ["a"]}], "type": "object"}, ['{"a":1}'], ["{}", '{"a":"x"}']),
    ({"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}, ["[]", "[[],[[]]]"], ["[1]", "["]),
    ({"definitions": {"x": {"const": "x"}}, "type": "array", "prefixItems": [{"$ref": "#/definitions/x"}], "items": False}, ['["x"]'], ['["x","x"]']),
    ({"type": "object", "properties": {"format": {"const": 1}, "pattern": {"const": 2}}, "additionalProperties": False}, ['{"format":1,"pattern":2}'],
     ['{"format":2}']),
    (True, ["1", '{"a":[]}', '"x"'], ["x"]),
])  # fmt: skip
def test_what_fits_a_schema_may_be_written_and_nothing_else(schema, good, bad):
    constraints = Constraints(ByteTokenizer(), VOCAB_SIZE)
    for text in good:
        assert fits(constraints, text.encode(), json_schema=schema), text
    for text in bad:
        assert not fits(constraints, text.encode(), json_schema=schema), text


NAMES = st.sampled_from(["a", "b", "name", "x y", "é", "$ref", "type"])
LEAVES = st.one_of(
    st.just({"type": "null"}),
    st.just({"type": "boolean"}),
    st.integers(-50, 50).flatmap(lambda low: st.builds(lambda span: {"type": "integer", "minimum": low, "maximum": low + span}, st.integers(0, 500))),
    st.builds(lambda most: {"type": "string", "maxLength": most}, st.integers(0, 6)),
    st.sampled_from([r"^[a-f]{2,4}$", r"^(x|ab)+\.$", r"\d\d", "^é?$", r"^[^a]$"]).map(lambda pattern: {"type": "string", "pattern": pattern, "maxLength": 12}),
    st.lists(st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=4)), min_size=1, max_size=4).map(lambda values: {"enum": values}),
    st.sampled_from(["uuid", "ipv4"]).map(lambda name: {"type": "string", "format": name}),
    st.just({"$ref": "#/$defs/shared"}),
)


def larger(inner):
    objects = st.builds(
        lambda fields, needed, more: {
            "type": "object", "properties": fields, "required": [name for name in fields if name in needed], "additionalProperties": more,
        },
        st.dictionaries(NAMES, inner, min_size=1, max_size=3), st.sets(NAMES), st.just(False),
    )  # fmt: skip
    lists = st.builds(lambda items, least: {"type": "array", "items": items, "minItems": least, "maxItems": least + 1}, inner, st.integers(0, 2))
    return st.one_of(objects, lists, st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}))


SCHEMAS = st.builds(lambda schema, shared: {**schema, "$defs": {"shared": shared}}, st.recursive(LEAVES, larger, max_leaves=6), LEAVES.filter(lambda leaf: "$ref" not in leaf))


@pytest.fixture(scope="module")
def shared_engine():
    inbox = Inbox()
    engine = Engine(FakeRunner(context=2048, rule=babble), ByteTokenizer(), inbox)
    yield engine, inbox
    assert engine.close()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(schema=SCHEMAS)
def test_what_is_written_is_valid_for_any_schema(shared_engine, schema):
    text, reason = write(*shared_engine, json_schema=schema, max_tokens=1500)
    assert reason == "stop"
    assert jsonschema_rs.validator_for(schema, validate_formats=True).is_valid(json.loads(text)), text


# ---- ends ----------------------------------------------------------------------------------------------------------


def test_it_ends_at_once_where_nothing_can_follow_even_when_ends_are_banned(babbling):
    assert write(*babbling, choices=("ab",), ban_eos=True) == ("ab", "stop")
    assert write(*babbling, json_schema={"const": {}}, ban_eos=True) == ("{}", "stop")
    text, reason = write(*babbling, regex="a+", ban_eos=True, max_tokens=30)
    assert (text, reason) == ("a" * 30, "length")


def test_it_ends_without_any_end_token(bench):
    class Endless(ByteTokenizer):
        end_ids = frozenset()

    inbox = Inbox()
    engine = Engine(FakeRunner(rule=babble), Endless(), inbox)
    assert write(engine, inbox, regex="[ab]{3}c") [0][-1] == "c"
    assert write(engine, inbox, json_schema={"type": "boolean"})[1] == "stop"
    assert engine.close()


def test_a_stop_string_still_ends_it(babbling):
    text, reason = write(*babbling, regex="[ab]{5}stop[ab]*", stop=("stop",))
    assert re.fullmatch("[ab]{5}", text)
    assert reason == "stop"


def test_a_dead_end_is_an_end():
    """A vocabulary without the letter that has to come."""

    class NoLetters(ByteTokenizer):
        def piece(self, token_id: int) -> bytes:
            return b"" if token_id == ord("c") else super().piece(token_id)

    constraints = Constraints(NoLetters(), VOCAB_SIZE)
    one = constraints.constraint(GenerationParams(choices=("ac", "ab")), {EOS})
    assert one.allowed().tolist() == [ord("a")]
    one.advance(ord("a"))
    assert one.allowed().tolist() == [ord("b")]
    stuck = constraints.constraint(GenerationParams(choices=("ac",)), {EOS})
    stuck.advance(ord("a"))
    assert not stuck.finished
    assert stuck.allowed().tolist() == []
    assert stuck.finished
    with pytest.raises(InvalidRequest, match="No text fits the list of choices, or none that this model's vocabulary can write"):
        constraints.constraint(GenerationParams(choices=("c",)), {EOS})


def test_special_tokens_and_ids_beyond_the_vocabulary_are_never_text():
    constraints = Constraints(ByteTokenizer(), VOCAB_SIZE + 5)  # a model pads its vocabulary
    one = constraints.constraint(GenerationParams(regex=r"[\s\S]*"), {EOS})
    assert [one.allows(token_id) for token_id in (65, BOS, MARK, VOCAB_SIZE, VOCAB_SIZE + 4)] == [True, False, False, False, False]
    assert one.allows(EOS)
    assert set(one.allowed()) >= {65, EOS}
    assert not {BOS, MARK, VOCAB_SIZE, VOCAB_SIZE + 4} & set(one.allowed().tolist())


# ---- after thinking -------------------------------------------------------------------------------------------------

THINKS = [BOS, *b"Say it: <think>\n"]


def thinking_then(text: bytes):
    """A model that thinks a while and then likes to write something else than it should."""
    wanted = b"Hm > </thin, well.</think>" + text

    def rule(ids) -> np.ndarray:
        place = len(ids) - len(THINKS)
        row = babble(ids)
        row[wanted[place] if place < len(wanted) else 120] += 50
        return row

    return rule


@pytest.mark.parametrize("newlines", [b"", b"\n", b"\n\n"])
def test_what_is_thought_before_is_free(bench, newlines):
    engine, _, inbox = bench(FakeRunner(rule=thinking_then(newlines + b"no")))
    generation = engine.submit(THINKS, GenerationParams(choices=("yes",), seed=1, max_tokens=100))
    inbox.wait(generation)
    assert inbox.text(generation) == f"Hm > </thin, well.</think>{newlines.decode()}yes"
    assert inbox.last(generation).finish_reason == "stop"


def test_thinking_does_not_end_the_reply():
    class Tags(ByteTokenizer):
        """Ids that stand for a tag with something behind it."""

        vocab_size = VOCAB_SIZE + 3

        def piece(self, token_id: int) -> bytes:
            return (b"</think>\n\n", b"k>yes", b"</think>")[token_id - VOCAB_SIZE] if token_id >= VOCAB_SIZE else super().piece(token_id)

        def is_special(self, token_id: int) -> bool:
            return 256 <= token_id < VOCAB_SIZE

    constraints = Constraints(Tags(), VOCAB_SIZE + 3)
    one = constraints.constraint(GenerationParams(choices=("yes",)), {EOS}, THINKS)
    for byte in b"a </thin":
        assert not one.finished
        assert one.allowed().tolist() == [token_id for token_id in range(VOCAB_SIZE + 3) if one.allows(token_id)]
        one.advance(byte)
    assert [one.allows(token_id) for token_id in (EOS, VOCAB_SIZE, VOCAB_SIZE + 1, VOCAB_SIZE + 2)] == [False, True, False, True]
    one.advance(VOCAB_SIZE)
    assert one.allowed().tolist() == [10, ord("y")]
    one.advance(10)
    one.advance(10)
    assert one.allowed().tolist() == [ord("y")]
    for byte in b"yes":
        one.advance(byte)
    assert one.finished
    assert constraints.constraint(GenerationParams(choices=("yes",)), {EOS}, PROMPT).allowed().tolist() == [ord("y")]


# ---- beside everything else ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"temperature": 0}, {"top_k": 3}, {"repetition_penalty": 1.3, "penalty_range": 9}, {"mirostat_mode": 2}, {"xtc_probability": 0.5}])
def test_drafts_change_nothing(bench, more):
    """A guess that the shape forbids is refused as a token that was drawn is, and what was refused is never advanced over."""
    fields = {"json_schema": {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}, "minItems": 4}, "b": {"enum": ["x", "xy"]}}, "required": ["a", "b"]}, "seed": 3, "max_tokens": 120} | more
    plain, _, quiet = bench(FakeRunner(rule=babble))
    expected = plain.submit(PROMPT, GenerationParams(**fields))
    quiet.wait(expected)
    runner = FakeRunner(rule=babble)
    draft = FakeRunner(slots=runner.n_slots, context=runner.context_length, rule=knowing(quiet.ids(expected)))
    engine, _, inbox = bench(runner, draft=DraftSource(draft, 4))
    steady(engine)
    found = engine.submit(PROMPT, GenerationParams(**fields))
    inbox.wait(found)
    assert inbox.ids(found) == quiet.ids(expected)
    assert (inbox.text(found), inbox.last(found).finish_reason) == (quiet.text(expected), quiet.last(expected).finish_reason)
    counters = engine.counters()
    assert 0 < counters.accepted_tokens < counters.drafted_tokens


def knowing(ids):
    """A draft model that knows what comes, but for every fifth token."""
    text = [*PROMPT, *ids]

    def rule(seen) -> int:
        place = len(seen)
        return text[place] if place < len(text) and place % 5 and text[place] < 256 else 64

    return rule


def test_replies_with_and_without_shapes_side_by_side(babbling):
    engine, inbox = babbling
    fields = [{"choices": ("yes", "no")}, {}, {"regex": "[ab]{20}"}, {"json_schema": {"type": "integer"}}, {"regex": "[ab]{20}"}, {}]
    alone = [write(engine, inbox, seed=number, **more)[0] for number, more in enumerate(fields)]
    together = [engine.submit(PROMPT, GenerationParams(seed=number, max_tokens=400, **more)) for number, more in enumerate(fields)]
    inbox.wait(*together)
    assert [inbox.text(one) for one in together] == alone


def test_a_shape_is_compiled_once_and_each_text_has_its_own_place_in_it():
    constraints = Constraints(ByteTokenizer(), VOCAB_SIZE)
    first, second = (constraints.constraint(GenerationParams(regex="ab+c"), {EOS}) for _ in range(2))
    assert constraints._compiled.cache_info().misses == 1
    first.advance(ord("a"))
    assert (first.allows(ord("b")), second.allows(ord("b"))) == (True, False)
    assert constraints.constraint(GenerationParams(), {EOS}) is None


def test_a_constraint_made_on_one_thread_is_used_on_another():
    one = Constraints(ByteTokenizer(), VOCAB_SIZE).constraint(GenerationParams(regex="ab"), {EOS})
    seen = []
    thread = threading.Thread(target=lambda: (one.advance(ord("a")), seen.append(one.allows(ord("b")))))
    thread.start()
    thread.join()
    assert seen == [True]


def test_a_shape_that_grows_too_complex_ends_its_reply_with_a_sentence(bench, monkeypatch):
    monkeypatch.setattr("modules.engine.constraints.STEP_LEXER_FUEL", 3_000)
    engine, _, inbox = bench(FakeRunner(rule=babble))
    generation = engine.submit(PROMPT, GenerationParams(regex=r"(\w{0,30}\p{L}{0,30}){20}", ban_eos=True, seed=1))
    other = engine.submit(PROMPT, GenerationParams(regex="[ab]{30}"))
    inbox.wait(generation, other)
    assert re.fullmatch(r"The regular expression (cannot be used|became too complex to follow after \d+ tokens) .*\. Make it simpler\.", inbox.errors[generation].message)
    assert len(inbox.text(other)) == 30


@pytest.mark.parametrize("name", ["default", "enum", "const", "examples", "x"])
@pytest.mark.parametrize("where", ["properties", "$defs", "patternProperties"])
def test_a_name_is_no_keyword(name, where):
    """What stands under a name is a schema whatever the name is: it is cleaned of formats that say nothing, and its patterns are bounded."""
    constraints = Constraints(ByteTokenizer(), VOCAB_SIZE)

    def schema(inner):
        held = {"type": "object", "properties": {"x": {}}, "required": ["x"]} | {where: {name: inner}}
        if where == "$defs":
            held["properties"] = {"x": {"$ref": f"#/$defs/{name}"}}
        return held

    constraints.constraint(GenerationParams(json_schema=schema({"type": "string", "format": "color"})), {EOS})
    with pytest.raises(InvalidRequest, match="too large when its repeats are written out"):
        constraints.constraint(GenerationParams(json_schema=schema({"type": "string", "pattern": "((a{1000}){1000}){1000}"})), {EOS})


def test_values_are_no_schemas():
    values = {"default": {"format": "color", "pattern": "("}, "enum": [{"format": "color"}, {"pattern": "("}]}
    assert fits(Constraints(ByteTokenizer(), VOCAB_SIZE), b'{"format": "color"}', json_schema=values)
