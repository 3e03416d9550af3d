"""The ids that a reply is told with: all that was chosen, with what a stop string cut off and the token that ended it."""

from __future__ import annotations

import pytest

from modules.core.params import GenerationParams
from modules.engine.client_generation import joined
from tests.fakes import BOS, EOS, MARK, FakeRunner, Inbox

PROMPT = [BOS, *b"say"]
GREEDY = GenerationParams(temperature=0, max_tokens=20)


def writes(ids: list[int]):
    """A model that writes these ids, and then end tokens."""

    def rule(known: list[int]) -> int:
        place = len(known) - len(PROMPT)
        return ids[place] if place < len(ids) else EOS

    return rule


def told(inbox: Inbox, generation: object) -> tuple[list[int], int, str]:
    """What is told of a reply, as a slow reader gets it; how many tokens count; its text."""
    whole = joined(inbox.deltas[generation])
    assert whole.usage is not None
    return list(whole.written_ids), whole.usage.completion_tokens, whole.text


@pytest.mark.parametrize(
    ("ids", "params", "expected"),
    [
        ([*b"hello"], {}, ([*b"hello", EOS], 5, "hello")),  # the end token is told, though it is neither text nor counted
        ([*b"hello"], {"max_tokens": 3}, ([*b"hel"], 3, "hel")),
        ([*b"hello you"], {"stop": ("lo y",)}, ([*b"hello y"], 7, "hel")),  # what was cut off is told
        ([*b"hello", MARK, *b"more"], {"stop": ("<|mark|>",)}, ([*b"hello", MARK], 5, "hello")),
        ([*b"hello"], {"ban_eos": True, "max_tokens": 5}, ([*b"hello"], 5, "hello")),
        ([*b"hello"], {"choices": ("hell",)}, ([*b"hell"], 4, "hell")),  # its shape ended it, and no token was chosen for that
    ],
)  # fmt: skip
def test_all_that_was_chosen_is_told(bench, ids, params, expected):
    engine, _, inbox = bench(FakeRunner(rule=writes(ids)))
    generation = engine.submit(PROMPT, GREEDY.model_copy(update=params))
    inbox.wait(generation)
    assert told(inbox, generation) == expected


def test_prompt_and_ids_go_on_from_there(bench):
    engine, _, inbox = bench()
    long = engine.submit(PROMPT, GREEDY)
    inbox.wait(long)
    short = engine.submit(PROMPT, GREEDY.model_copy(update={"max_tokens": 8}))
    inbox.wait(short)
    rest = engine.submit([*PROMPT, *told(inbox, short)[0]], GREEDY.model_copy(update={"max_tokens": 12}))
    inbox.wait(rest)
    assert told(inbox, short)[0] + told(inbox, rest)[0] == told(inbox, long)[0]
