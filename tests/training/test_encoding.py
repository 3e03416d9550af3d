"""Samples to sequences: what is learned of chats, texts, pairs and judged answers, what is cut, dropped, refused, and what is counted."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modules.core.errors import InvalidRequest, UnsupportedFormat
from modules.core.messages import Message
from modules.core.model import TemplateSource
from modules.prompts.sandbox import CompiledTemplate
from modules.training.encoding import Encoder, refuse_if_empty
from modules.training.options import TrainingOptions
from modules.training.samples import (
    IGNORED,
    ChatSample,
    Encoded,
    FeedbackSample,
    PairSample,
    Sample,
    TextSample,
)
from modules.training.tokens import PlacedTokenizer, length_limit, load_tokenizer, pad_id
from tests.tiny_models import SPECIAL, TEMPLATE, write_tokenizer

CHAT = TemplateSource(text=TEMPLATE, origin="its own", bos_token=SPECIAL[0], eos_token=SPECIAL[2])


def said(role: Any, content: str, **more: Any) -> Message:
    return Message(role=role, content=content, **more)


def chat(*texts: str, unlearned: frozenset[int] = frozenset()) -> ChatSample:
    return ChatSample("talk, line 1", tuple(said("user" if place % 2 == 0 else "assistant", text) for place, text in enumerate(texts)), unlearned=unlearned)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokens")
    write_tokenizer(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def starter(starter_dir: Path) -> Any:
    return load_tokenizer(starter_dir)


def encoder(tokenizer: Any, template: TemplateSource | None = CHAT, limit: int = 512, **options: Any) -> Encoder:
    return Encoder(tokenizer, template, TrainingOptions(**options), limit)


def text_of(one: Encoded, used: Encoder, learned: bool = True) -> str:
    return b"".join(used.tokenizer.pieces.piece(token) for token, label in zip(one.token_ids, one.labels, strict=True) if not learned or label != IGNORED).decode()


# ---- chat --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("learn", "learned"), [
    ("assistant", "One<|im_end|>Two<|im_end|>"), ("completion", "Two<|im_end|>"),
])  # fmt: skip
def test_what_is_learned_of_a_chat(tiny: Any, learn: str, learned: str) -> None:
    used = encoder(tiny, learn=learn)
    (one,) = used.encode([chat("a", "One", "b", "Two", "never answered")])
    assert text_of(one, used) == learned
    assert text_of(one, used, learned=False).endswith("Two<|im_end|>")  # what comes after the last reply teaches nothing
    assert used.report.trained_tokens == sum(label != IGNORED for label in one.labels)
    assert used.report.trained_tokens + used.report.ignored_tokens == len(one.token_ids)


def test_everything_is_all_but_the_first_token(tiny: Any) -> None:
    used = encoder(tiny, learn="everything")
    (one,) = used.encode([chat("a", "One")])
    assert one.labels == (IGNORED, *one.token_ids[1:])
    assert text_of(one, used, learned=False) == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nOne<|im_end|>\n"


def test_replies_that_the_data_says_not_to_learn(tiny: Any) -> None:
    used = encoder(tiny)
    (one,) = used.encode([chat("a", "One", "b", "Two", unlearned=frozenset({1}))])
    assert text_of(one, used) == "Two<|im_end|>"
    assert not list(used.encode([chat("a", "One", unlearned=frozenset({1}))]))
    assert used.report.unlearned == 1


def test_empty_replies_are_not_learned(tiny: Any) -> None:
    used = encoder(tiny)
    (one,) = used.encode([chat("a", " ", "b", "Two")])
    assert text_of(one, used) == "Two<|im_end|>"
    assert not list(used.encode([chat("a", ""), chat("", "")]))
    assert (used.report.unlearned, used.report.empty) == (1, 1)


def test_a_token_over_the_border_of_a_reply_is_learned(tiny: Any, tmp_path: Path) -> None:
    """The header ends and the reply begins with a line break, and both are one token: the reply's first character stands in it."""
    values = json.loads((Path(tiny.name_or_path) / "tokenizer.json").read_text(encoding="utf-8"))
    values["model"]["vocab"]["ĊĊ"] = len(tiny)
    values["model"]["merges"].append(["Ċ", "Ċ"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_bytes((Path(tiny.name_or_path) / "tokenizer_config.json").read_bytes())
    used = encoder(load_tokenizer(tmp_path))
    (one,) = used.encode([chat("a", "\nOne")])
    assert len(tiny) in one.token_ids
    assert text_of(one, used) == "\n\nOne<|im_end|>"
    (plain,) = used.encode([chat("a", "One")])
    assert text_of(plain, used) == "One<|im_end|>"


def test_a_bos_written_twice_is_one(tiny: Any) -> None:
    source = CHAT.model_copy(update={"text": "{{ bos_token }}{{ bos_token }}" + TEMPLATE})
    used = encoder(tiny, source)
    (one,) = used.encode([chat("a", "One")])
    assert one.token_ids.count(tiny.bos_token_id) == 1 and one.token_ids[0] == tiny.bos_token_id
    assert text_of(one, used) == "One<|im_end|>"


def test_a_greeting_first_is_learned_behind_its_header(tiny: Any) -> None:
    used = encoder(tiny)
    (one,) = used.encode([ChatSample("x", (said("assistant", "Hello!"), said("user", "Hi"), said("assistant", "So?")))])
    assert text_of(one, used) == "Hello!<|im_end|>So?<|im_end|>"


def test_without_a_template_chats_are_refused_and_texts_are_not(tiny: Any) -> None:
    with pytest.raises(InvalidRequest, match="choose a prompt template"):
        list(encoder(tiny, None).encode([chat("a", "One")]))
    assert len(list(encoder(tiny, None).encode([TextSample("x", "A text.")]))) == 1


def test_a_template_that_changes_replies_is_named_with_the_sample(tiny: Any) -> None:
    source = TemplateSource(text=TEMPLATE.replace("message.content", "message.content | replace('z', 's')"), origin="odd template")
    used = encoder(tiny, source)
    assert len(list(used.encode([chat("x", "zoo"), chat("x", "dog")]))) == 1
    assert used.report.refused == 1
    assert used.report.problems == ["talk, line 1: The chat template (odd template) changes the text of message 2, so what is to be learned cannot be told "
                                    "from the rest. Choose a prompt template that fits the model."]  # fmt: skip


def test_a_prompt_template_gets_the_special_tokens_of_the_model(tiny: Any) -> None:
    used = encoder(tiny, TemplateSource(text="{{ bos_token }}{% for m in messages %}[{{ m.content }}]{{ eos_token }}{% endfor %}", origin="x"))
    (one,) = used.encode([chat("a", "One")])
    assert one.token_ids[-1] == tiny.eos_token_id and one.token_ids.count(tiny.bos_token_id) == 0  # this tokenizer adds none itself


def test_the_report_keeps_ten_problems(tiny: Any) -> None:
    source = TemplateSource(text=TEMPLATE + "{% if messages|length > 1 and messages[1].content == 'no' %}{{ raise_exception('no') }}{% endif %}", origin="picky")
    used = encoder(tiny, source)
    assert not list(used.encode([chat("a", "no")] * 12))
    assert used.report.refused == 12 and len(used.report.problems) == 10 and "refuses this conversation: no" in used.report.problems[0]
    with pytest.raises(InvalidRequest, match=r"Nothing would be trained: of 12 samples 12 do not go through the chat template\. talk, line 1"):
        refuse_if_empty(used.report)


# ---- length ------------------------------------------------------------------------------------------------------------


def test_long_chats_are_cut_or_dropped(tiny: Any) -> None:
    long = chat("a", "One " * 40)
    whole = encoder(tiny).whole(long)[0]
    used = encoder(tiny, limit=40)
    (one,) = used.encode([long])
    assert one.token_ids == whole.token_ids[:40] and one.labels == whole.labels[:40] and one.cut_tokens == len(whole.token_ids) - 40
    assert (used.report.cut, used.report.cut_tokens) == (1, one.cut_tokens)
    assert list(used.lengths) == [len(whole.token_ids)]
    strict = encoder(tiny, limit=40, too_long="drop")
    assert not list(strict.encode([long])) and strict.report.dropped == 1


def test_what_has_nothing_left_to_learn_is_dropped(tiny: Any) -> None:
    used = encoder(tiny, limit=40)
    assert not list(used.encode([chat("question " * 30, "One")]))
    assert (used.report.dropped, used.report.sequences) == (1, 0)
    with pytest.raises(InvalidRequest, match="1 are too long"):
        refuse_if_empty(used.report)


# ---- texts -------------------------------------------------------------------------------------------------------------


def test_a_short_text_is_one_sequence_with_its_end(tiny: Any) -> None:
    used = encoder(tiny)
    (one,) = used.encode([TextSample("x", "A red ball.")])
    assert one.token_ids[-1] == tiny.eos_token_id and one.labels == (IGNORED, *one.token_ids[1:])
    (open_end,) = encoder(tiny, add_eos=False).encode([TextSample("x", "A red ball.")])
    assert open_end.token_ids == one.token_ids[:-1]
    assert not list(used.encode([TextSample("x", " \n")])) and used.report.empty == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.integers(1, 150), limit=st.integers(12, 40), stride=st.integers(0, 9), wants_bos=st.booleans())
def test_pieces_of_a_long_text_learn_every_token_once(tiny: Any, starter: Any, words: int, limit: int, stride: int, wants_bos: bool) -> None:
    tokenizer = starter if wants_bos else tiny
    used = encoder(tokenizer, limit=limit, stride_tokens=stride)
    assert used.tokenizer.adds_bos is wants_bos
    text = " ".join(f"w{number}" for number in range(words))
    body = [*used.tokenizer.ids(text), tokenizer.eos_token_id]
    pieces = list(used.encode([TextSample("x", text)]))
    learned = [label for one in pieces for label in one.labels if label != IGNORED]
    assert learned == (body if wants_bos else body[1:])
    assert all(len(one.token_ids) <= limit for one in pieces)
    assert all(one.token_ids[0] == tokenizer.bos_token_id for one in pieces) or not wants_bos
    overlap, bos = max(1, stride), int(wants_bos)
    for before, after in pairwise(pieces):
        assert after.token_ids[bos : bos + overlap] == before.token_ids[-overlap:] and set(after.labels[: bos + overlap]) == {IGNORED}


def test_long_texts_become_pieces_also_where_long_conversations_are_dropped(tiny: Any) -> None:
    used = encoder(tiny, limit=20, too_long="drop")
    assert len(list(used.encode([TextSample("x", "A red ball. " * 30)]))) > 3 and not used.report.dropped


def test_a_text_that_begins_with_bos_gets_no_second(starter: Any) -> None:
    used = encoder(starter)
    (plain,), (marked,) = (list(used.encode([TextSample("x", text)])) for text in ("A ball.", "<s>A ball."))
    assert plain.token_ids[0] == marked.token_ids[0] == starter.bos_token_id and marked.token_ids.count(starter.bos_token_id) == 1


def test_a_stride_as_long_as_a_piece_is_refused(tiny: Any) -> None:
    with pytest.raises(InvalidRequest, match="set stride_tokens below 16"):
        encoder(tiny, limit=16, stride_tokens=16)


def test_a_very_long_text_is_read_in_parts(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "A bird sang in the morning and the rain came. " * 60
    whole = PlacedTokenizer(tiny).ids(text)
    monkeypatch.setattr("modules.training.tokens.CHUNK_CHARACTERS", 400)
    assert PlacedTokenizer(tiny).ids(text) == whole


# ---- preferences -------------------------------------------------------------------------------------------------------


def pair(chosen: str = "Good", rejected: str = "Bad bad", prompt: str = "Q") -> PairSample:
    return PairSample("pairs, line 1", (said("user", prompt),), said("assistant", chosen), said("assistant", rejected))


def test_pairs_follow_each_other_and_share_their_prompt(tiny: Any) -> None:
    used = encoder(tiny)
    found = list(used.encode([pair(), pair("Better", "Worse")]))
    assert [(one.role, one.pair) for one in found] == [("chosen", 0), ("rejected", 0), ("chosen", 1), ("rejected", 1)]
    assert [text_of(one, used) for one in found] == ["Good<|im_end|>", "Bad bad<|im_end|>", "Better<|im_end|>", "Worse<|im_end|>"]
    prompts = {one.token_ids[: next(place for place, label in enumerate(one.labels) if label != IGNORED)] for one in found[:2]}
    assert len(prompts) == 1


def test_a_pair_goes_as_a_whole(tiny: Any) -> None:
    used = encoder(tiny, limit=40, too_long="drop")
    found = list(used.encode([pair(rejected="long " * 40), pair()]))
    assert [(one.role, one.pair) for one in found] == [("chosen", 1), ("rejected", 1)] and used.report.dropped == 1


def test_judged_answers_keep_their_judgement(tiny: Any) -> None:
    used = encoder(tiny)
    samples: list[Sample] = [FeedbackSample("x", (said("user", "Q"),), said("assistant", text), is_good) for text, is_good in (("Yes", True), ("No", False), ("", True))]
    found = list(used.encode(samples))
    assert [(one.role, one.pair, text_of(one, used)) for one in found] == [("good", -1, "Yes<|im_end|>"), ("bad", -1, "No<|im_end|>")]
    assert used.report.empty == 1


# ---- tokens ------------------------------------------------------------------------------------------------------------


def test_new_tokens_are_added_once(starter_dir: Path) -> None:
    plain = load_tokenizer(starter_dir)
    tokenizer = load_tokenizer(starter_dir, ["<|laugh|>", "zorbly", "<|im_end|>", "zorbly"])
    assert len(tokenizer) == len(plain) + 2
    laugh, word = tokenizer.convert_tokens_to_ids(["<|laugh|>", "zorbly"])
    assert {laugh, word} == {len(plain), len(plain) + 1}
    assert tokenizer.encode("a zorbly<|laugh|>", add_special_tokens=False)[-2:] == [word, laugh]
    assert "zorbly" in tokenizer.decode([word, laugh], skip_special_tokens=True) and "laugh" not in tokenizer.decode([word, laugh], skip_special_tokens=True)


@pytest.mark.parametrize("token", ["", " x", "x\n", "y" * 65])
def test_new_tokens_that_cannot_be(starter_dir: Path, token: str) -> None:
    with pytest.raises(InvalidRequest, match="1 to 64 characters"):
        load_tokenizer(starter_dir, [token])


def test_a_folder_without_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormat, match="download tokenizer.json again"):
        load_tokenizer(tmp_path)


def test_padding_needs_no_token_of_its_own(tmp_path: Path, tiny: Any) -> None:
    assert pad_id(tiny) == tiny.pad_token_id
    bare = load_tokenizer(Path(tiny.name_or_path))
    bare.pad_token = None
    assert pad_id(bare) == bare.convert_tokens_to_ids("<|endoftext|>") and bare.pad_token_id is None


@pytest.mark.parametrize(("asked", "limit"), [(0, 1024), (100, 100), (4096, 1024)])
def test_the_limit_is_the_models(starter_dir: Path, asked: int, limit: int) -> None:
    assert length_limit(starter_dir, TrainingOptions(cutoff_tokens=asked)) == limit


def test_places_without_offsets_are_found_by_bytes(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer in Python tells no places; the bytes of its tokens do."""
    placed = PlacedTokenizer(tiny)
    text = "Ünïcödé 🙂 wörds<|im_end|>\n and  spaces"
    told = placed.place(text)
    monkeypatch.setattr(placed, "_backend", None)
    assert placed.place(text) == told
    assert b"".join(placed.pieces.piece(token) for token in told.ids).decode() == text


def test_all_tokens_of_a_letter_stand_at_the_letter(tiny: Any) -> None:
    placed = PlacedTokenizer(tiny).place("a🙂b")
    assert placed.ranges[0] == (0, 1) and placed.ranges[-1] == (2, 3) and set(placed.ranges[1:-1]) == {(1, 2)} and len(placed.ids) > 3


def test_the_work_for_a_long_conversation_grows_with_its_turns(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = []
    run = CompiledTemplate.run

    def counted(self: CompiledTemplate, context: Any, max_chars: int) -> Any:
        rendered.append(len(context["messages"]))
        return run(self, context, max_chars)

    used = encoder(tiny, limit=4096)
    list(used.encode([chat("a", "b")]))
    monkeypatch.setattr(CompiledTemplate, "run", counted)
    (one,) = used.encode([chat(*"ab" * 40)])
    assert text_of(one, used) == "b<|im_end|>" * 40
    assert len(rendered) == 2 * 40
