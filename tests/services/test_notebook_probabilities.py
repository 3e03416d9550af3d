"""Where the tokens of a text stand in it."""

from __future__ import annotations

from modules.core.generation import TokenLogprob
from modules.services.notebook_exchange import as_text, gone_on
from modules.services.notebook_probabilities import placed
from modules.services.notebook_shelf import name_of
from modules.store.records import MessageRecord


def token(text: str, part: bytes = b"") -> TokenLogprob:
    return TokenLogprob(1, text, -0.5, (), part)


def pieces(text: str, *tokens: TokenLogprob) -> list[str]:
    return [text[row["start"] : row["stop"]] for row in placed(text, tokens)]


def test_a_mark_of_the_beginning_takes_no_place() -> None:
    assert pieces("Once upon", token("<s>"), token("Once"), token(" upon")) == ["", "Once", " upon"]


def test_a_space_that_the_tokenizer_put_before_the_text_takes_no_place() -> None:
    assert pieces("Once upon", token(" Once"), token(" upon")) == ["Once", " upon"]
    assert pieces("Once", token(" "), token("Once")) == ["", "Once"]


def test_a_character_of_several_tokens_belongs_to_the_first() -> None:
    horse = "🐎".encode()
    assert pieces("a🐎b", token("a"), token("�", horse[:2]), token("�", horse[2:]), token("b")) == ["a", "🐎", "", "b"]


def test_a_conversation_becomes_a_text_up_to_a_message() -> None:
    messages = [
        MessageRecord(number, "c", None, role, text, 1.0, 1.0, speaker=speaker)
        for number, role, text, speaker in (("1", "user", "Hello", ""), ("2", "assistant", "Hi.\nThere", ""), ("3", "user", "More", "Ann"))
    ]
    assert as_text(messages) == "User: Hello\n\nAssistant: Hi.\nThere\n\nAnn: More"
    assert as_text(messages, "2") == "User: Hello\n\nAssistant: Hi.\nThere"


def test_a_notebook_is_called_by_its_first_words_without_marks() -> None:
    assert name_of("", "\n---\n## *A plan for the garden*\nOnce upon") == "A plan for the garden"
    assert name_of("", "* - \n") == "Untitled"
    assert name_of("Mine", "Once") == "Mine"


def test_a_thinking_block_that_the_prompt_opened_is_not_opened_twice() -> None:
    assert gone_on("Q<a>", "<think>Hm</think>So") == "Q<a><think>Hm</think>So"
    assert gone_on("Q<a><think>\n", "<think>Hm</think>So") == "Q<a><think>\nHm</think>So"
