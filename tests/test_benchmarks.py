"""What benchmarks/engine.py reads out of streams, and how it judges: figures that are wrong here would be believed."""

from __future__ import annotations

import json

import pytest

from benchmarks.measures import Row, Turns
from benchmarks.step_times import LABELS, Stopwatch, WatchedRunner, _originals, _restore
from benchmarks.streams import RefusalError, Stream
from modules.core.params import GenerationParams
from modules.engine.engine import Engine
from tests.fakes import ByteTokenizer, FakeRunner, Inbox


class Heard(Stream):
    """A stream whose reads are known."""

    def __init__(self, *reads: tuple[float, bytes], asked: int = 0) -> None:
        self.sent_s, self.reads, self._asked = 1.0, list(reads), asked


def event(text: str, **more: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"text": text}], **more}).encode() + b"\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_an_event_is_there_when_its_last_byte_is():
    first, second, last = event("a"), event("b"), event("", usage={"completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}})
    raw = HEAD + chunk(first + second[:9]) + chunk(second[9:]) + chunk(last + b"data: [DONE]\n\n") + b"0\r\n\r\n"
    cut = raw.index(second[9:]) + 4  # in the middle of the second event's second chunk
    reply = Heard((2.0, raw[:cut]), (3.5, raw[cut:]), (3.6, b"")).reply()
    assert reply.pieces == ((2.0, "a"), (3.5, "b")) and reply.text == "ab"
    assert reply.first_s == 1.0 and reply.whole_s == 2.5 and reply.tokens == 2 and reply.cached_tokens == 3
    assert reply.tokens_per_s == pytest.approx(1 / 1.5)
    assert reply.longest_gap_s(2.0, 3.0) == 1.5 and reply.longest_gap_s(3.6, 4.0) == 0.0


def test_a_stream_that_was_left_says_what_came_so_far():
    raw = HEAD + chunk(event("a")) + chunk(event("b"))
    assert Heard((2.0, raw[:-12])).reply().text == "a"


def test_without_chunks_and_without_counts_what_was_asked_for_counts():
    body = event("a") + b'data: {"choices": [{"text": " b", "finish_reason": "length"}]}\r\n\r\n'
    reply = Heard((2.0, b"HTTP/1.1 200 OK\r\n\r\n" + body), asked=7).reply()
    assert reply.tokens == 7 and reply.text == "a b"


@pytest.mark.parametrize("raw", [b"HTTP/1.1 400 Bad\r\n\r\nno", HEAD + chunk(b'data: {"error": {"message": "no"}}\n\n'), b""])
def test_a_refusal_is_no_reply(raw: bytes):
    with pytest.raises(RefusalError):
        Heard((2.0, raw)).reply()


@pytest.mark.parametrize(
    ("lower", "ratio", "word"), [(False, 0.96, "no"), (False, 0.98, "yes"), (False, 1.0, "moonshot"), (True, 1.01, "moonshot"), (True, 0.9, "moonshot")]
)
def test_ratios_are_of_pairs_and_judged_by_their_median(lower: bool, ratio: float, word: str):
    row = Row("one", "m", "speed", "tokens/s", bar=0.97 if not lower else 2.0, moonshot=1.0 if not lower else 1.5, lower=lower)
    row.ours, row.theirs = [ratio * 10, 1.0, 300 * ratio], [10.0, 100.0, 100.0]  # the least and the largest ratio do not count
    assert sorted(row.ratios)[1] == pytest.approx(ratio) and row.reached == word


def test_turns_alternate_and_the_first_does_not_count():
    class Idle:
        def __init__(self, name: str) -> None:
            self.name = name

        def cpu_s(self) -> float:
            return 0.0

    order: list[tuple[str, int]] = []

    def measure(contestant: Idle, number: int) -> list[float]:
        order.append((contestant.name, number))
        return [float(number)]

    found = Turns(2).take([Idle("a"), Idle("b")], measure)
    assert order == [("b", -1), ("a", -1), ("a", 0), ("b", 0), ("b", 1), ("a", 1)]
    assert found == [[[0.0], [1.0]], [[0.0], [1.0]]]


def test_the_profile_of_a_step_finds_all_its_parts(capsys: pytest.CaptureFixture[str]) -> None:
    watch, original, inbox = Stopwatch(), _originals(), Inbox()
    try:
        watch.put_around_parts()
        engine = Engine(WatchedRunner(FakeRunner(), watch), ByteTokenizer(), inbox)
        generations = [engine.submit(list(b"Once"), GenerationParams(max_tokens=40, ban_eos=True)) for _ in range(2)]
        inbox.wait(*generations)
        engine.close()
    finally:
        _restore(original)
    assert not capsys.readouterr().err, "a part has another name now"
    assert {label for label, calls in watch.calls.items() if calls} == {*LABELS} - {"drafting"}
    assert watch.calls["planning"] >= 2 * watch.calls["model"]  # the step that is the last one again counts too
    assert all(function is kind.__dict__.get(name) for kind, name, function in original if function is not None)
