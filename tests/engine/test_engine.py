from __future__ import annotations

import math
import threading
import time

import pytest

from modules.core.errors import Busy, ContextOverflow, InvalidRequest
from modules.core.params import GenerationParams
from modules.engine.engine import Engine
from modules.engine.events import PLACES_S
from tests.fakes import BOS, EOS, MARK, ByteTokenizer, FakeRunner, Inbox, solo

GREEDY = GenerationParams(temperature=0, max_tokens=20)


def writes(text: str, prompt: int):
    """A model that writes a text and then the end token."""
    raw = text.encode() if isinstance(text, str) else text

    def rule(ids):
        place = len(ids) - prompt
        return raw[place] if place < len(raw) else EOS

    return rule


def until(condition) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.002)


def prompt(text: str) -> list[int]:
    return [BOS, *text.encode()]


def test_many_at_once_are_interleaved_and_equal_to_solo(bench):
    engine, runner, inbox = bench(FakeRunner(slots=8))
    gate = runner.gate = threading.Semaphore(0)
    prompts = [prompt("x" * length) for length in (1, 40, 7, 90, 3, 66, 12, 30)]
    generations = [engine.submit(ids, GREEDY) for ids in prompts]
    gate.release(10_000)
    inbox.wait(*generations)
    for ids, generation in zip(prompts, generations, strict=True):
        assert inbox.ids(generation) == solo(ids, 20)
        assert inbox.last(generation).finish_reason == "length"
        usage = inbox.last(generation).usage
        assert (usage.prompt_tokens, usage.completion_tokens) == (len(ids), 20)
        assert usage.queue_s >= 0 <= usage.prefill_s
    assert max(len(rows) for rows in runner.batches) == 8
    assert len(set(inbox.order[:16])) > 4  # streams run side by side, not one after the other


def test_one_message_carries_the_news_of_all(bench):
    engine, runner, inbox = bench(FakeRunner(slots=4))
    gate = runner.gate = threading.Semaphore(0)
    generations = [engine.submit(prompt(str(number)), GREEDY) for number in range(4)]
    gate.release(10_000)
    inbox.wait(*generations)
    assert any(len({event.generation for event in events if event.delta}) == 4 for events in inbox.calls)
    assert len(inbox.calls) <= engine.counters().steps + 2


def test_an_end_token_ends_and_is_hidden(bench):
    engine, _, inbox = bench(FakeRunner(rule=writes("Grüße 😀", 3)))
    generation = engine.submit(prompt("ab"), GenerationParams(temperature=0))
    inbox.wait(generation)
    assert inbox.text(generation) == "Grüße 😀"
    assert inbox.last(generation).finish_reason == "stop"
    assert inbox.last(generation).stop_string is None
    assert all("\ufffd" not in delta.text for delta in inbox.deltas[generation])


def test_banned_end_tokens_do_not_end(bench):
    engine, _, inbox = bench(FakeRunner(rule=lambda ids: EOS))
    generation = engine.submit(prompt("ab"), GenerationParams(temperature=0, ban_eos=True, max_tokens=5))
    inbox.wait(generation)
    assert len(inbox.ids(generation)) == 5


def test_a_stop_string_cuts_and_is_reported(bench):
    engine, _, inbox = bench(FakeRunner(rule=writes("one\nUser: two", 2)))
    generation = engine.submit(prompt("a"), GenerationParams(temperature=0, stop=("never",)), stop=("\nUser:",))
    inbox.wait(generation)
    assert inbox.text(generation) == "one"
    assert inbox.last(generation).finish_reason == "stop"
    assert inbox.last(generation).stop_string == "\nUser:"
    assert "\n" not in "".join(delta.text for delta in inbox.deltas[generation])


def test_text_held_back_is_shown_at_the_end(bench):
    engine, _, inbox = bench(FakeRunner(rule=writes("one\nUs", 2)))
    generation = engine.submit(prompt("a"), GenerationParams(temperature=0), stop=("\nUser:",))
    inbox.wait(generation)
    assert inbox.text(generation) == "one\nUs"


def test_half_a_character_at_the_end_is_shown_as_replaced(bench):
    engine, _, inbox = bench(FakeRunner(rule=writes("a€".encode()[:3], 2)))
    generation = engine.submit(prompt("a"), GenerationParams(temperature=0))
    inbox.wait(generation)
    assert inbox.text(generation) == "a\ufffd"


def test_a_stop_string_that_is_a_special_token_is_known_by_its_id(bench):
    engine, _, inbox = bench(FakeRunner(rule=lambda ids: MARK if len(ids) == 5 else 65))
    generation = engine.submit(prompt("a"), GenerationParams(temperature=0), stop=("<|mark|>",))
    inbox.wait(generation)
    assert inbox.text(generation) == "AAA"
    assert inbox.last(generation).stop_string == "<|mark|>"


@pytest.mark.parametrize(("end", "written"), [(MARK, "<|mark|>"), (EOS, "</s>")])
def test_text_held_back_is_shown_when_a_special_stop_ends_the_reply(bench, end, written):
    raw = [*b"code ```", end]
    engine, _, inbox = bench(FakeRunner(rule=lambda ids: raw[len(ids) - 2]))
    generation = engine.submit(prompt("a"), GenerationParams(temperature=0, stop=("```\n\n",)), stop=(written,))
    inbox.wait(generation)
    assert inbox.text(generation) == "code ```"
    last = inbox.last(generation)
    assert (last.finish_reason, last.stop_string, last.usage.completion_tokens) == ("stop", written, 8)


class ClumsyTokenizer(ByteTokenizer):
    """Token 3 is the end of a word and half a character."""

    def piece(self, token_id: int) -> bytes:
        return b"D\xe2" if token_id == 3 else super().piece(token_id)


def test_nothing_is_shown_after_a_stop_string_in_the_text():
    raw, inbox = [*b"one EN", 3], Inbox()
    engine = Engine(FakeRunner(rule=lambda ids: raw[len(ids) - 2]), ClumsyTokenizer(), inbox)
    generation = engine.submit(prompt("a"), GenerationParams(temperature=0), stop=("END",))
    inbox.wait(generation)
    assert (inbox.text(generation), inbox.last(generation).stop_string) == ("one ", "END")
    assert engine.close()


def test_max_tokens_zero_fills_the_context(bench):
    engine, _, inbox = bench(FakeRunner(context=64))
    generation = engine.submit(prompt("a" * 10), GenerationParams(temperature=0))
    inbox.wait(generation)
    assert len(inbox.ids(generation)) == 64 - 11
    assert inbox.last(generation).finish_reason == "length"


def test_log_probabilities_of_each_token(bench):
    engine, _, inbox = bench()
    generation = engine.submit(prompt("a"), GREEDY.model_copy(update={"logprobs": 2}))
    inbox.wait(generation)
    found = [entry for delta in inbox.deltas[generation] for entry in delta.logprobs]
    assert [entry.token_id for entry in found] == inbox.ids(generation)
    others = math.log(math.exp(20) + 258) - 20
    assert found[0].logprob == pytest.approx(-others, abs=1e-5)
    assert found[0].text == chr(found[0].token_id)
    assert found[0].top[0].token_id == found[0].token_id
    assert found[0].top[1].logprob == pytest.approx(-20 - others, abs=1e-4)


def test_the_seed_is_reported_and_repeats_the_text(bench):
    engine, runner, inbox = bench()
    runner.rule = lambda ids: 300 % 259  # the same weak preference everywhere
    warm = GenerationParams(temperature=5, max_tokens=15)
    first = engine.submit(prompt("a"), warm)
    inbox.wait(first)
    again = engine.submit(prompt("a"), warm.model_copy(update={"seed": inbox.started[first].seed}))
    inbox.wait(again)
    assert inbox.ids(again) == inbox.ids(first)


def test_the_next_turn_reuses_the_prefix_and_says_so(bench):
    engine, _, inbox = bench()
    first = engine.submit(prompt("hello there"), GREEDY)
    inbox.wait(first)
    turn = [*prompt("hello there"), *inbox.ids(first), *b" and more"]
    second = engine.submit(turn, GREEDY)
    inbox.wait(second)
    assert inbox.started[second].reused_tokens == len(prompt("hello there")) + 19
    assert inbox.last(second).usage.reused_tokens == engine.counters().reused_tokens == len(prompt("hello there")) + 19
    assert inbox.ids(second) == solo(turn, 20)


def test_the_longest_pause_between_two_tokens_is_told(bench):
    engine, runner, inbox = bench()
    gate = runner.gate = threading.Semaphore(0)
    held = engine.submit(prompt("hello"), GenerationParams(temperature=0, max_tokens=4))
    for step in range(4):
        assert runner.entered.acquire(timeout=10)
        if step == 2:
            time.sleep(0.1)  # inside the step that writes the third token
        gate.release()
    inbox.wait(held)
    usage = inbox.last(held).usage
    assert 0.1 <= usage.longest_gap_s <= usage.decode_s
    runner.gate = None
    one = engine.submit(prompt("hello"), GenerationParams(temperature=0, max_tokens=1))
    inbox.wait(one)
    assert inbox.last(one).usage.longest_gap_s == 0


# ---- stop ----------------------------------------------------------------------------------------------------------


def test_cancel_in_mid_prefill_frees_the_slot_before_the_next_step(bench):
    engine, runner, inbox = bench(FakeRunner(slots=1, context=1024, batch=64))
    gate = runner.gate = threading.Semaphore(0)
    reading = engine.submit(prompt("x" * 900), GREEDY)
    waiting = engine.submit(prompt("next"), GREEDY)
    for _ in range(3):
        assert runner.entered.acquire(timeout=10)
        gate.release()
    assert runner.entered.acquire(timeout=10)  # inside the fourth of fifteen prefill steps
    reading.cancel()
    steps = engine.counters().steps
    gate.release()
    inbox.wait(reading)
    assert inbox.last(reading).finish_reason == "cancelled"
    assert engine.counters().steps == steps + 1
    assert engine.counters().cancelled == 1
    assert runner.entered.acquire(timeout=10)  # the very next step works for the one that waited
    gate.release(1000)
    inbox.wait(waiting)
    assert runner.batches[steps + 1][0].token_ids[-4:] == list(b"next")
    assert inbox.ids(waiting) == solo(prompt("next"), 20)


def test_cancel_while_writing_keeps_the_text_so_far_and_disturbs_nobody(bench):
    engine, runner, inbox = bench(FakeRunner(slots=2, context=2048))
    gate = runner.gate = threading.Semaphore(0)
    stopped = engine.submit(prompt("a"), GenerationParams(temperature=0))
    other = engine.submit(prompt("b"), GREEDY)
    for _ in range(6):
        assert runner.entered.acquire(timeout=10)
        gate.release()
    assert runner.entered.acquire(timeout=10)
    stopped.cancel()
    stopped.cancel()
    gate.release(10_000)
    inbox.wait(stopped, other)
    assert inbox.ids(stopped) == solo(prompt("a"), 6)[: len(inbox.ids(stopped))]
    assert 5 <= len(inbox.ids(stopped)) <= 6
    assert inbox.ids(other) == solo(prompt("b"), 20)
    assert engine.counters().running == 0


def test_a_step_that_ends_between_the_flag_and_the_command_of_a_cancel_harms_nobody(bench):
    engine, runner, inbox = bench(FakeRunner(slots=2, context=2048))
    gate = runner.gate = threading.Semaphore(0)
    stopped = engine.submit(prompt("a"), GenerationParams(temperature=0))
    other = engine.submit(prompt("b"), GREEDY)
    gate.release(6)
    until(lambda: engine.counters().steps == 6)
    send, stopped.send = stopped.send, None
    stopped.cancel()  # the flag alone
    gate.release(10_000)
    inbox.wait(stopped, other)
    send(stopped)  # and the command, too late
    engine.call(lambda: None)
    assert stopped not in inbox.errors
    assert inbox.last(stopped).finish_reason == "cancelled"
    assert inbox.ids(other) == solo(prompt("b"), 20)
    assert (engine.counters().cancelled, engine.counters().running) == (1, 0)


def test_one_who_waits_can_be_cancelled(bench):
    engine, runner, inbox = bench(FakeRunner(slots=1))
    gate = runner.gate = threading.Semaphore(0)
    first, second, third = (engine.submit(prompt(name), GREEDY) for name in "abc")
    second.cancel()
    gate.release(1000)
    inbox.wait(first, second, third)
    assert inbox.ids(second) == []
    assert inbox.ids(third) == solo(prompt("c"), 20)


# ---- queue ---------------------------------------------------------------------------------------------------------


def test_a_full_queue_says_busy_with_place_and_limit(bench):
    engine, runner, inbox = bench(FakeRunner(slots=1), queue_limit=2, name="Tiny")
    gate = runner.gate = threading.Semaphore(0)
    accepted = [engine.submit(prompt(str(number)), GREEDY) for number in range(3)]
    with pytest.raises(Busy, match="Tiny is busy: 2 requests are waiting and the queue holds 2, so this one would be at place 3"):
        engine.submit(prompt("more"), GREEDY)
    gate.release(1000)
    inbox.wait(*accepted)
    inbox.wait(engine.submit(prompt("more"), GREEDY))


def test_those_who_wait_hear_their_place(bench):
    engine, runner, inbox = bench(FakeRunner(slots=1))
    gate = runner.gate = threading.Semaphore(0)
    first = engine.submit(prompt("a"), GREEDY)
    assert runner.entered.acquire(timeout=10)  # both others come while this step runs
    second, third = (engine.submit(prompt(name), GREEDY) for name in "bc")
    time.sleep(PLACES_S + 0.05)  # places are told at most so often
    gate.release()
    inbox.wait_for(lambda: inbox.places[third] == [2] and inbox.places[second] == [1])
    time.sleep(PLACES_S + 0.05)
    gate.release(19)
    inbox.wait(first)
    time.sleep(PLACES_S + 0.05)
    gate.release(1000)
    inbox.wait(second, third)
    assert inbox.places[third][:2] == [2, 1]
    assert inbox.places[first] == []


def test_clients_take_turns(bench):
    engine, runner, inbox = bench(FakeRunner(slots=1))
    gate = runner.gate = threading.Semaphore(0)
    greedy = [engine.submit(prompt(f"g{number}"), GREEDY, client="greedy") for number in range(4)]
    modest = engine.submit(prompt("m"), GREEDY, client="modest")
    gate.release(1000)
    inbox.wait(*greedy, modest)
    order = list(dict.fromkeys(inbox.order))
    assert order.index(modest) <= 2


# ---- wrong prompts -------------------------------------------------------------------------------------------------


def test_prompts_beyond_the_limits_are_refused_with_a_sentence(bench):
    engine, _, _ = bench(FakeRunner(context=32), name="Tiny")
    with pytest.raises(ContextOverflow, match="32 tokens; the context of Tiny holds 32") as caught:
        engine.submit([1] * 32, GREEDY)
    assert caught.value.details["limit"] == 32
    with pytest.raises(InvalidRequest, match="empty"):
        engine.submit([], GREEDY)
    for wrong in (-1, 259, 10**12):
        with pytest.raises(InvalidRequest, match=f"Token id {wrong} is not in the vocabulary"):
            engine.submit([1, wrong], GREEDY)
    assert engine.counters().waiting == engine.counters().running == 0


# ---- between steps -------------------------------------------------------------------------------------------------


def test_next_tokens_by_a_probe_that_reuses_the_cache(bench):
    engine, _, inbox = bench()
    first = engine.submit(prompt("once upon a time"), GREEDY)
    inbox.wait(first)
    probe = engine.submit(prompt("once upon a time"), GenerationParams(), probe=3)
    inbox.wait(probe)
    found = inbox.last(probe).logprobs
    assert len(found) == 3
    assert found[0].token_id == solo(prompt("once upon a time"), 1)[0]
    assert found[0].logprob > found[1].logprob
    assert inbox.last(probe).usage.reused_tokens == len(prompt("once upon a time")) - 1
    assert inbox.ids(probe) == []


def test_a_call_sees_empty_slots_and_running_replies_continue_exactly(bench):
    engine, runner, inbox = bench(FakeRunner(context=2048))
    gate = runner.gate = threading.Semaphore(0)
    generation = engine.submit(prompt("abc"), GenerationParams(temperature=0, max_tokens=50))
    gate.release(10)
    until(lambda: engine.counters().steps == 10)
    threading.Timer(0.05, gate.release, (1,)).start()
    held = engine.call(lambda: (threading.current_thread().name, [list(slot) for slot in runner.slots]))
    assert held == ("engine", [[], [], [], []])
    gate.release(1000)
    inbox.wait(generation)
    assert inbox.ids(generation) == solo(prompt("abc"), 50)


def test_an_error_inside_a_call_reaches_its_caller(bench):
    engine, _, inbox = bench()
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 / 0)
    inbox.wait(engine.submit(prompt("still there"), GREEDY))


def test_score(bench):
    engine, _, inbox = bench(FakeRunner(slots=2, context=64, capacity=64))
    inbox.wait(engine.submit(prompt("x" * 30), GREEDY))
    assert engine.score([5, 6, 7]) == [-6.0, -7.0]
    assert engine.score([5]) == []
    with pytest.raises(ContextOverflow):
        engine.score([1] * 65)
    again = engine.submit(prompt("x" * 30), GREEDY)
    inbox.wait(again)
    assert inbox.ids(again) == solo(prompt("x" * 30), 20)


def test_pause_holds_and_goes_on(bench):
    engine, _, inbox = bench()
    engine.pause()
    generation = engine.submit(prompt("a"), GREEDY)
    engine.call(lambda: None)
    assert engine.counters().steps == 0
    assert engine.counters().waiting == 1
    engine.pause(False)
    inbox.wait(generation)
