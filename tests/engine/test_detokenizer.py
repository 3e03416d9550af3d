from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.core.messages import split_thinking
from modules.core.params import GenerationParams
from modules.engine.detokenizer import Detokenizer, PieceTable
from tests.fakes import BOS, EOS, MARK, ByteTokenizer, FakeRunner


def read(ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(PieceTable(ByteTokenizer()))
    return [*(detokenizer.feed(token_id) for token_id in ids), detokenizer.flush()]


@given(st.text())
def test_text_comes_back_and_no_character_is_split(text):
    raw = text.encode("utf-8", "surrogatepass")
    if "\ufffd" in raw.decode("utf-8", "replace"):
        return
    parts = read(list(raw))
    assert "".join(parts) == text
    assert all("\ufffd" not in part for part in parts)


@given(st.binary(max_size=40))
def test_any_bytes_give_what_decoding_at_once_gives(raw):
    assert "".join(read(list(raw))) == raw.decode("utf-8", "replace")


@given(st.lists(st.sampled_from([*"aé€😀".encode(), 0xFF, MARK, EOS]), max_size=30))
def test_special_tokens_add_nothing(ids):
    raw = bytes(token_id for token_id in ids if token_id < 256)
    assert "".join(read(ids)) == raw.decode("utf-8", "replace")


def test_a_broken_character_is_replaced_as_soon_as_that_is_certain():
    euro = list("€".encode())
    assert read([*euro[:2], ord("a")]) == ["", "", "\ufffda", ""]
    assert read(euro[:2]) == ["", "", "\ufffd"]


def test_special_tokens_stand_in_the_text_where_that_is_asked_for():
    names = Spelled("<|channel|>", "<|message|>", "<|end|>")
    detokenizer = Detokenizer(PieceTable(names), hides_special=False)
    ids = [names.ids["<|channel|>"], *b"final", names.ids["<|message|>"], *"é".encode(), names.ids["<|end|>"]]
    assert "".join(map(detokenizer.feed, ids)) + detokenizer.flush() == "<|channel|>final<|message|>é<|end|>"


def test_a_token_by_itself_is_shown_in_its_written_form():
    table = PieceTable(ByteTokenizer())
    assert (table.written(MARK), table.written(0xE2), table.written(65)) == ("<|mark|>", "\ufffd", "A")


class Spelled(ByteTokenizer):
    """Special tokens from 300 on, written as they are named."""

    def __init__(self, *names: str) -> None:
        self.ids = {name: 300 + place for place, name in enumerate(names)}
        self.names = {token_id: name for name, token_id in self.ids.items()}

    def piece(self, token_id: int) -> bytes:
        return self.names[token_id].encode() if token_id in self.names else super().piece(token_id)

    def read(self, *parts: str, shown: Sequence[str] = ()) -> str:
        """The text of special tokens, where a part names one, and of letters."""
        detokenizer = Detokenizer(PieceTable(self), shown=frozenset(self.ids[name] for name in shown))
        ids = [token_id for part in parts for token_id in ([self.ids[part]] if part in self.ids else part.encode())]
        return "".join([*(detokenizer.feed(token_id) for token_id in ids), detokenizer.flush()])


def test_special_tokens_that_fence_in_thinking_stay_in_the_text():
    text = Spelled("[THINK]", "[/THINK]", "[INST]").read("[THINK]", "hm", "[/THINK]", "Yes.", "[INST]")
    assert text == "[THINK]hm[/THINK]Yes."
    assert split_thinking(text) == ("hm", "Yes.", False)


def test_a_reply_in_channels_is_thinking_and_an_answer():
    harmony = Spelled("<|start|>", "<|channel|>", "<|message|>", "<|end|>")
    analysis = ("<|channel|>", "analysis", "<|message|>", "They greet €.", "<|end|>")
    again = ("<|start|>", "assistant", *analysis)
    final = ("<|start|>", "assistant", "<|channel|>", "final", "<|message|>", "Hello!")
    assert split_thinking(harmony.read(*analysis, *final)) == ("They greet €.", "Hello!", False)
    assert split_thinking(harmony.read(*analysis, *again, *final)) == ("They greet €.\n\nThey greet €.", "Hello!", False)
    assert split_thinking(harmony.read(*analysis)) == ("They greet €.", "", True)
    assert harmony.read("<|channel|>", "final", "<|message|>", "Hello!") == "Hello!"


CALLING = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|constrain|>")
HEADERS = (
    ("<|channel|>", "commentary to=functions.now ", "<|constrain|>", "json", "<|message|>", "{}"),
    ("<|channel|>", "analysis", "<|message|>", "Hm.", "<|end|>", "<|start|>", "assistant", "<|channel|>", "commentary to=functions.now", "<|message|>", "{}"),
    ("<|channel|>", "analysis", "<|message|>", "Hm.", "<|end|>", "<|start|>", "assistant to=functions.now", "<|channel|>", "commentary", "<|message|>", "{}"),
    (" to", "=functions.now", "<|channel|>", "commentary json", "<|message|>", "{}"),
)


@pytest.mark.parametrize("parts", HEADERS)
def test_a_channel_addressed_to_a_function_stays_in_the_text_where_there_are_tools(parts):
    harmony = Spelled(*CALLING)
    thought = split_thinking(harmony.read(*parts, shown=CALLING).lstrip())
    assert thought == ("Hm." if "Hm." in parts else "", "<|channel|>commentary to=functions.now<|message|>{}", False)
    assert "<|channel|>" not in harmony.read(*parts)


def test_what_only_looks_like_an_address_is_text():
    for text in (" to be", "to=b", "to", "t", " to=" + "b" * 400):
        assert Spelled(*CALLING).read(text, shown=CALLING) == text


def test_marks_of_calls_stay_in_the_text_where_there_are_tools():
    mistral = Spelled("[TOOL_CALLS]", "[ARGS]", "<eos>")
    parts = ("[TOOL_CALLS]", "now", "[ARGS]", "{}", "<eos>")
    assert mistral.read(*parts) == "now{}"
    assert mistral.read(*parts, shown=("[TOOL_CALLS]", "[ARGS]")) == "[TOOL_CALLS]now[ARGS]{}"


class Plain(Spelled):
    """The same as ordinary tokens, as Solar Open has them."""

    def is_special(self, token_id: int) -> bool:
        return token_id < 300 and super().is_special(token_id)


@pytest.mark.parametrize("kind", [Spelled, Plain])
def test_the_parts_of_a_reply_are_thinking_and_an_answer(kind):
    solar = kind("<|begin|>", "<|think|>", "<|end|>", "<|content|>", "<|tool_calls|>")
    thought = ("<|think|>", "They greet €.", "<|end|>")
    assert split_thinking(solar.read(*thought, "<|begin|>", "assistant", "<|content|>", "Hello!", "<|end|>")) == ("They greet €.", "Hello!", False)
    assert split_thinking(solar.read(*thought)) == ("They greet €.", "", True)
    assert solar.read("<|content|>", "Hello!") == "Hello!"
    called = solar.read(*thought, "<|begin|>", "assistant", "<|tool_calls|>", "weather()")
    assert split_thinking(called).answer == ("<|tool_calls|>" if kind is Plain else "") + "weather()"
    assert split_thinking(solar.read("Hello ", "<|think|>", "!")).answer == ("Hello <|think|>!" if kind is Plain else "Hello !")


def test_the_channel_of_thoughts_has_its_name_behind_its_tag():
    text = Spelled("<|channel>", "<channel|>", "<turn|>").read("<|channel>", "thought\nThey greet.\n", "<channel|>", "Hello!", "<turn|>")
    assert split_thinking(text) == ("They greet.", "Hello!", False)


def test_marks_of_channels_mean_nothing_where_none_was_opened():
    assert Spelled("<|start|>", "<|channel|>", "<|message|>").read("a", "<|start|>", "b", "<|message|>", "c") == "abc"


@pytest.mark.parametrize(("shown", "text"), [(False, "AAAA"), (True, "AAA<|mark|>A")])
def test_special_tokens_are_hidden_unless_they_are_asked_for(bench, shown, text):
    engine, _, inbox = bench(FakeRunner(rule=lambda ids: MARK if len(ids) == 5 else 65))
    generation = engine.submit([BOS, *b"a"], GenerationParams(temperature=0, max_tokens=5, show_special_tokens=shown))
    inbox.wait(generation)
    assert inbox.text(generation) == text
