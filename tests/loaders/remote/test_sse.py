"""Events come out whole, however the bytes were cut; pieces become text, thinking, log-probabilities and counts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.core.messages import split_thinking
from modules.engine.client_generation import joined
from modules.loaders.remote.pieces import PieceError, PieceReader, ToldError
from modules.loaders.remote.sse import LINE_LIMIT_BYTES, EventError, EventParser
from tests.openai_upstream import chunk, story

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1, max_size=30)


@given(events=st.lists(TEXT, max_size=6), cuts=st.lists(st.integers(1, 9), min_size=1, max_size=8), end=st.sampled_from(["\n", "\r\n"]))
def test_events_do_not_depend_on_how_bytes_are_cut(events, cuts, end):
    raw = "".join(f": comment{end}event: x{end}data: {event}{end}{end}" for event in events).encode()
    parser, found, at, turn = EventParser(), [], 0, 0
    while at < len(raw):
        size = cuts[turn % len(cuts)]
        found += parser.feed(raw[at : at + size])
        at, turn = at + size, turn + 1
    assert found == events
    assert list(parser.end()) == []


def test_data_of_several_lines_is_one_event_and_the_last_needs_no_empty_line():
    parser = EventParser()
    assert list(parser.feed(b"data: a\ndata:b\n\ndata: c")) == ["a\nb"]
    assert list(parser.end()) == ["c"]


def test_an_endless_line_is_refused():
    parser = EventParser()
    with pytest.raises(EventError):
        for _ in range(9):
            list(parser.feed(b"x" * (LINE_LIMIT_BYTES // 8)))


def texts(*pieces) -> tuple[str, PieceReader]:
    reader = PieceReader()
    found = [reader.read(json.dumps(piece)) for piece in pieces]
    return "".join(delta.text for delta in found if delta is not None), reader


def test_a_whole_reply():
    text, reader = texts(*story())
    assert text == "Once upon a time"
    last = reader.last(0.5, 2.0)
    assert (last.finish_reason, last.usage.prompt_tokens, last.usage.reused_tokens, last.usage.completion_tokens) == ("stop", 7, 3, 4)
    assert last.usage.tokens_per_s == 1.5


@given(before=TEXT.filter(str.strip), words=st.lists(TEXT, min_size=1, max_size=4), cut=st.integers(0, 30), echoes=st.booleans())
def test_a_continued_reply_is_not_sent_twice(before, words, cut, echoes):
    text, shown = "".join(words), before.rstrip()
    if not echoes and (text.startswith(shown) or shown.startswith(text)):
        return  # nobody could tell
    pieces = [shown[:cut], shown[cut:], *words] if echoes else words
    reader = PieceReader(before)
    found = [reader.read(json.dumps(chunk(piece))) for piece in pieces if piece]
    assert "".join(delta.text for delta in found if delta) + reader.last(0, 0).text == text


def test_a_reply_that_ends_before_its_echo_is_complete_is_kept():
    reader = PieceReader("A long beginning")
    assert reader.read(json.dumps(chunk("A lo"))) is None
    assert reader.last(0, 0).text == "A lo"


def test_pieces_put_together_are_all_counted():
    reader = PieceReader()
    deltas = [reader.read(json.dumps(chunk(word))) for word in "abc"]
    assert joined([*deltas, reader.last(0, 0)]).tokens == 3


def test_without_the_servers_count_pieces_are_counted():
    _, reader = texts(chunk("a"), chunk("b"))
    assert not reader.finished
    assert reader.last(0, 0, "cancelled").usage.completion_tokens == 2


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
@given(thoughts=st.lists(TEXT, min_size=1, max_size=4), words=st.lists(TEXT, min_size=1, max_size=4))
def test_thinking_sent_apart_is_shown_as_thinking(field, thoughts, words):
    pieces = [{"choices": [{"delta": {field: thought}}]} for thought in thoughts] + [chunk(word) for word in words]
    text, _ = texts(*pieces)
    thought = split_thinking(text)
    if "</think>" not in "".join(thoughts):
        assert (thought.thinking, thought.answer, thought.open) == ("".join(thoughts), "".join(words), False)


def test_logprobs_in_both_shapes():
    row = {"token": "a", "logprob": -0.5, "id": 3, "top_logprobs": [{"token": "b", "logprob": -1.5}]}
    reader = PieceReader()
    chat = reader.read(json.dumps({"choices": [{"delta": {"content": "a"}, "logprobs": {"content": [row]}}]}))
    plain = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"b": -1.5}]}
    text = reader.read(json.dumps({"choices": [{"text": "a", "logprobs": plain}]}))
    for delta, token_id in ((chat, 3), (text, -1)):
        (entry,) = delta.logprobs
        assert (entry.text, entry.logprob, entry.token_id) == ("a", -0.5, token_id)
        assert [(top.text, top.logprob) for top in entry.top] == [("b", -1.5)]


def call(index, arguments, **more):
    entry = {"index": index, "id": f"id{index}", "function": {"name": "f", "arguments": arguments}, **more}
    return {"choices": [{"delta": {"tool_calls": [{key: value for key, value in entry.items() if value is not None}]}}]}


@pytest.mark.parametrize(("sent", "wanted"), [
    ([call(0, ""), {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}}]}], ["{}"]),  # OpenAI
    ([call(0, "{"), call(0, "}"), call(1, "{}")], ["{}", "{}"]),  # id and name with every piece
    ([call(None, "{}", id=None), call(None, {"a": 1}, id=None)], ["{}", '{"a": 1}']),  # whole calls, no numbers, no ids, objects
    ([call(3, "{}")], ["{}"]),
    ([call(0, "{}", function="f"), call(0, "{}", function={"arguments": "{}"}), call([1], None)], [""]),  # nothing to begin a call with
])  # fmt: skip
def test_calls_of_tools_are_put_together(sent, wanted):
    reader = PieceReader()
    pieces = [piece for event in sent if (delta := reader.read(json.dumps(event))) for piece in delta.calls]
    arguments = [""] * len(wanted)
    for piece in pieces:
        arguments[piece.index] += piece.arguments
    assert arguments == wanted
    begun = [piece for piece in pieces if piece.id]
    assert [(piece.index, piece.name) for piece in begun] == [(index, "f") for index in range(len(wanted))]


@pytest.mark.parametrize("data", ["", "{", "[]", "3", '{"choices": ["x"]}', "[" * 100_000])
def test_what_is_no_piece_is_refused(data):
    with pytest.raises(PieceError):
        PieceReader().read(data)


@pytest.mark.parametrize("error", [{"message": "out of memory"}, "out of memory"])
def test_an_error_in_the_middle_is_told(error):
    with pytest.raises(ToldError, match="out of memory"):
        PieceReader().read(json.dumps({"error": error}))


def parts(inner):
    names = ["choices", "delta", "content", "logprobs", "tokens", "top_logprobs", "usage", "finish_reason", "text", "prompt_tokens", "prompt_tokens_details", "tool_calls", "function", "name", "index"]
    return st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(names), inner, max_size=5)


@given(value=st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | TEXT, parts))
def test_no_answer_of_a_server_breaks_the_reader(value):
    reader = PieceReader()
    try:
        reader.read(json.dumps(value))
    except (PieceError, ToldError):
        return
    reader.last(0, 0)


@given(logprobs=st.recursive(st.none() | st.floats(-9, 9) | TEXT, parts))
def test_no_logprobs_of_a_server_break_the_reader(logprobs):
    PieceReader().read(json.dumps({"choices": [{"text": "a", "logprobs": logprobs}]}))
