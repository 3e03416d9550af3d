"""What a replay is compared with."""

from __future__ import annotations

from typing import Any

import pytest

from modules.core.errors import InvalidRequest
from modules.services.replay import original_of
from modules.store.records import MessageRecord

RECEIPT: dict[str, Any] = {"seed": 5, "params": {"temperature": 0.5}, "prompt_hash": "a"}


def reply(receipt: dict[str, Any] | None, text: str = "One two three") -> MessageRecord:
    return MessageRecord("reply", "talk", "question", "assistant", text, 0.0, 0.0, model="pony", receipt=receipt)


def test_a_difference_is_named_by_its_place() -> None:
    original = original_of(reply(RECEIPT))
    assert (original.params.seed, original.params.temperature) == (5, 0.5)
    told = original.compared("One too", "horse", {"prompt_hash": "b"})
    assert told == {"of": "reply", "same_model": False, "same_prompt": False, "same_text": False, "differs_at": 5}
    assert original.texts("One too", 5) == {"before": "One t", "was": "wo three", "now": "oo"}
    assert original.compared("One two", "pony", RECEIPT)["differs_at"] == 7, "it ended earlier"
    assert original.compared("One two three", "pony", RECEIPT)["same_text"]


def test_of_a_continued_reply_the_first_part_is_written_again() -> None:
    original = original_of(reply({"seed": 9, "params": {}, "earlier": [RECEIPT, {"seed": 8, "params": {}}]}))
    assert original.params.seed == 5
    assert original.compared("One two", "pony", RECEIPT)["same_text"]
    assert original.compared("One too", "pony", RECEIPT)["differs_at"] == 5


@pytest.mark.parametrize("receipt", [None, {"seed": 5}, {"params": {}}, {"seed": 5, "params": {"warmth": 3}}, {"seed": -1, "params": {}}])
def test_a_receipt_that_says_too_little_is_refused(receipt: dict[str, Any] | None) -> None:
    with pytest.raises(InvalidRequest, match="written again"):
        original_of(reply(receipt))
