"""What a proof measures, on a tiny model that knows a text by heart and an adapter with random weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from modules.core.job import Cancelled
from modules.core.messages import Message
from modules.core.model import TemplateSource
from modules.training.evidence import Comparison, Preference
from modules.training.general_text import PASSAGES
from modules.training.proof import ANSWERS, WORST, Proving, prove
from modules.training.samples import ChatSample, Encoded, FeedbackSample, PairSample, Sample, TextSample
from modules.training.sequence_losses import BATCH_TOKENS, batch_losses, batches_of, learned_tokens
from modules.training.standing import Standing
from modules.training.verdict import judge
from modules.training.writing import Writer
from tests.tiny_models import TEMPLATE, TEXT, TinyFiles

SHORT = 24
CHATML = TemplateSource(text=TEMPLATE, origin="a test", bos_token="<|endoftext|>", eos_token="<|im_end|>")


class Watching:
    """A context that counts, and stops the work where it is told to."""

    directory = Path()
    secrets: dict[str, str] = {}  # noqa: RUF012 - what the protocol has

    def __init__(self, stop_at: int = 0) -> None:
        self.count = 0
        self.stop_at = stop_at
        self.phases: set[object] = set()

    def progress(self, done: float, total: float | None, unit: str, **metrics: float | int | str) -> None:
        self.count += 1
        self.phases.add(metrics.get("phase"))
        if self.count == self.stop_at:
            raise Cancelled

    def log(self, line: str) -> None:
        raise AssertionError(line)


@pytest.fixture(scope="module")
def tokenizer(tiny: TinyFiles) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny.folder)


@pytest.fixture(scope="module")
def base(tiny: TinyFiles) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(tiny.folder, dtype=torch.float32).eval()


@pytest.fixture
def model(tiny: TinyFiles, base: Any) -> Iterator[Any]:
    """The base model with the adapter on it; taken off again afterwards."""
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(base, str(tiny.adapter), is_trainable=True)
    yield adapted
    adapted.unload()


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tokens as a test needs: each takes milliseconds, and there are thousands."""
    monkeypatch.setattr("modules.training.proof.ANSWER_TOKENS", SHORT)


def chat(place: int, question: str, answer: str) -> ChatSample:
    return ChatSample(f"talk.jsonl, line {place}", (Message(role="user", content=question), Message(role="assistant", content=answer)))


def encoded(tokenizer: Any, sample: Sample) -> list[Encoded]:
    """Sequences of a sample, by the template's own text."""
    if isinstance(sample, TextSample):
        ids = tuple(tokenizer(sample.text)["input_ids"])
        return [Encoded(ids, ids, sample.where)]
    if isinstance(sample, PairSample):
        sides = (("chosen", sample.chosen), ("rejected", sample.rejected))
        pair = int(sample.where)
        return [_one(tokenizer, sample.messages, answer, sample.where, role, pair) for role, answer in sides]
    if isinstance(sample, FeedbackSample):
        return [_one(tokenizer, sample.messages, sample.answer, sample.where, "good" if sample.is_good else "bad", -1)]
    return [_one(tokenizer, sample.messages[:-1], sample.messages[-1], sample.where, "sample", -1)]


def _one(tokenizer: Any, messages: Sequence[Message], answer: Message, where: str, role: Any, pair: int) -> Encoded:
    before = [message.for_template() for message in messages]
    prompt = tokenizer.apply_chat_template(before, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*before, answer.for_template()], tokenize=False)
    first, ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, whole))
    return Encoded(tuple(ids), tuple([-100] * len(first) + ids[len(first) :]), where, role=role, pair=pair)


def proving(model: Any, tokenizer: Any, samples: Sequence[Sample], prompts: Sequence[str] = (), **more: Any) -> Proving:
    sequences = [sequence for sample in samples for sequence in encoded(tokenizer, sample)]
    return Proving(model, tokenizer, more.pop("template", CHATML), sequences, samples, prompts, more.pop("context", Watching()), **more)


CHATS = [chat(place, f"Question {place} of the little fox?", TEXT[4 * place : 4 * place + 30]) for place in range(12)]


def direct_loss(model: Any, sequence: Encoded) -> float:
    """By the library's own loss, one sequence at a time."""
    import torch

    with torch.no_grad():
        mean = model(input_ids=torch.tensor([sequence.token_ids]), labels=torch.tensor([sequence.labels])).loss
    return float(mean) * learned_tokens(sequence)


def test_losses_in_batches_are_those_of_each_sequence_alone(base: Any, tokenizer: Any) -> None:
    sequences = [sequence for sample in [*CHATS, TextSample("a", TEXT), TextSample("b", "fox")] for sequence in encoded(tokenizer, sample)]
    batches = batches_of(sequences)
    assert sorted(place for batch in batches for place in batch) == list(range(len(sequences)))
    assert max(map(len, batches)) > 1
    for batch in batches:
        rows = [sequences[place] for place in batch]
        assert max(len(row.token_ids) for row in rows) * len(rows) <= BATCH_TOKENS
        for row, found in zip(rows, batch_losses(base, rows, 0), strict=True):
            assert found.tokens == learned_tokens(row)
            assert found.total == pytest.approx(direct_loss(base, row), rel=1e-5)


def test_before_is_the_base_model_and_after_the_adapter(model: Any, base: Any, tokenizer: Any) -> None:
    run = proving(model, tokenizer, CHATS, prompts=("x",))
    proof = prove(run)
    tokens = sum(map(learned_tokens, run.held_out))
    after = sum(direct_loss(model, sequence) for sequence in run.held_out) / tokens
    with model.disable_adapter():
        before = sum(direct_loss(model, sequence) for sequence in run.held_out) / tokens
    assert proof.held_out is not None
    assert (proof.held_out.tokens, proof.held_out.sequences, proof.held_out.of_sequences) == (tokens, 12, 12)
    assert proof.held_out.before == pytest.approx(before, rel=1e-5)
    assert proof.held_out.after == pytest.approx(after, rel=1e-5)
    assert abs(before - after) > 0.1, "the adapter of this test must change something"
    assert proof.general.before == pytest.approx(_general(model, tokenizer, on=False), rel=1e-5)
    assert proof.general.after == pytest.approx(_general(model, tokenizer, on=True), rel=1e-5)


def _general(model: Any, tokenizer: Any, *, on: bool) -> float:
    pieces = []
    for passage in PASSAGES:
        ids = tokenizer(passage.text)["input_ids"]
        pieces += [Encoded(tuple(ids[at : at + 256]), tuple(ids[at : at + 256]), "") for at in range(0, len(ids), 256)]
    if on:
        total = sum(direct_loss(model, piece) for piece in pieces)
    else:
        with model.disable_adapter():
            total = sum(direct_loss(model, piece) for piece in pieces)
    return total / sum(map(learned_tokens, pieces))


def test_answers_are_greedy_and_of_both_models(model: Any, tokenizer: Any) -> None:
    import torch

    model.generation_config.repetition_penalty = 3.0  # what a model comes with plays no part
    proof = prove(proving(model, tokenizer, CHATS, prompts=("The little fox",)))
    model.generation_config.repetition_penalty = None
    assert [answer.prompt for answer in proof.answers] == ["The little fox"]
    ids = Writer(model, tokenizer, CHATML).chat_ids([Message(role="user", content="The little fox")])
    for text, off in ((proof.answers[0].adapter, False), (proof.answers[0].base, True)):
        made = list(ids)
        with torch.no_grad():
            for _ in range(SHORT):
                if off:
                    with model.disable_adapter():
                        logits = model(input_ids=torch.tensor([made])).logits
                else:
                    logits = model(input_ids=torch.tensor([made])).logits
                made.append(int(logits[0, -1].argmax()))
                if made[-1] == tokenizer.eos_token_id:
                    break
        written = tokenizer.decode([token for token in made[len(ids) :] if token != tokenizer.eos_token_id])
        assert text == written
    assert proof.answers[0].base != proof.answers[0].adapter


def test_held_out_prompts_are_asked_where_there_are_none_of_the_person(model: Any, tokenizer: Any) -> None:
    asked = [*CHATS, chat(99, CHATS[0].messages[0].content, "The same question again.")]
    proof = prove(proving(model, tokenizer, asked))
    prompts = [answer.prompt for answer in proof.answers]
    assert len(prompts) == ANSWERS
    assert len(set(prompts)) == ANSWERS
    assert {answer.prompt: answer.expected for answer in proof.answers}.items() <= {(s.messages[0].content, s.messages[1].content) for s in asked}


def test_the_worst_items_lead_and_say_where_they_stood(model: Any, tokenizer: Any) -> None:
    proof = prove(proving(model, tokenizer, CHATS, prompts=("x",)))
    losses = [item.after for item in proof.worst]
    assert len(losses) == WORST
    assert losses == sorted(losses, key=lambda loss: -(loss or 0))
    everything = [direct_loss(model, sequence) / learned_tokens(sequence) for sample in CHATS for sequence in encoded(tokenizer, sample)]
    assert losses[0] == pytest.approx(max(everything), rel=1e-5)
    place = int(proof.worst[0].where.rpartition(" ")[2])
    assert TEXT[4 * place : 4 * place + 30] in proof.worst[0].answer
    assert f"Question {place} " in proof.worst[0].prompt


def test_plain_text_is_continued_not_asked(model: Any, tokenizer: Any) -> None:
    proof = prove(proving(model, tokenizer, [TextSample(f"book.txt, piece {n}", TEXT[n * 20 :]) for n in range(6)]))
    answer = next(answer for answer in proof.answers if TEXT.startswith(answer.prompt))
    assert TEXT.startswith(answer.prompt + answer.expected[:20])
    with_base = answer.prompt + answer.base
    assert with_base == TEXT[: len(with_base)], "the base model of this test knows its text by heart"
    assert "<|im_start|>" not in answer.prompt


def test_pairs(model: Any, tokenizer: Any) -> None:
    pairs = [
        PairSample(str(n), (Message(role="user", content=f"Question {n}?"),), Message(role="assistant", content=TEXT[5 * n : 5 * n + 25]),
                   Message(role="assistant", content="Zebra quiz, vexing jolt " + "x" * n))
        for n in range(7)
    ]  # fmt: skip
    run = proving(model, tokenizer, pairs, prompts=("x",))
    proof = prove(run)

    def means(on: bool) -> list[float]:
        if on:
            return [direct_loss(model, one) / learned_tokens(one) for one in run.held_out]
        with model.disable_adapter():
            return means(True)

    after, before = means(True), means(False)
    assert proof.preference is not None
    assert proof.preference.items == 7
    assert proof.preference.before == pytest.approx(sum(before[2 * n] < before[2 * n + 1] for n in range(7)) / 7)
    assert proof.preference.after == pytest.approx(sum(after[2 * n] < after[2 * n + 1] for n in range(7)) / 7)
    gains = [earlier - later for earlier, later in zip(before, after, strict=True)]
    assert proof.preference.moved == pytest.approx(sum(gains[2 * n] > gains[2 * n + 1] for n in range(7)) / 7)
    assert proof.held_out is not None
    assert proof.held_out.sequences == 7, "the loss is that of the better answers"


def test_single_answers_found_good_or_bad(model: Any, tokenizer: Any) -> None:
    said = [FeedbackSample(str(n), (Message(role="user", content="And?"),), Message(role="assistant", content=TEXT[n : n + 20]), n % 2 == 0) for n in range(9)]
    run = proving(model, tokenizer, said, prompts=("x",))
    proof = prove(run)
    assert proof.preference is not None
    assert (proof.preference.items, proof.preference.before) == (9, None)
    right = 0
    for one in run.held_out:
        after = direct_loss(model, one)
        with model.disable_adapter():
            right += (after < direct_loss(model, one)) == (one.role == "good")
    assert proof.preference.moved == pytest.approx(right / 9)


def test_numbers_that_are_none_are_red_and_still_json(model: Any, tokenizer: Any) -> None:
    import torch

    broken = next(parameter for name, parameter in model.named_parameters() if "lora_B" in name)
    with torch.no_grad():
        broken.fill_(math.nan)
    proof = prove(proving(model, tokenizer, CHATS[:6], prompts=("x",)))
    assert proof.verdict == "red"
    assert "not a number" in proof.sentence
    assert proof.held_out is not None
    assert proof.held_out.before is not None
    assert proof.held_out.after is None
    assert proof.worst[0].after is None

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    assert json.loads(proof.model_dump_json(), parse_constant=refuse)["held_out"]["after"] is None


def test_without_held_out_data_only_the_general_text_is_measured(model: Any, tokenizer: Any) -> None:
    proof = prove(proving(model, tokenizer, [], prompts=("The little fox",)))
    assert proof.held_out is None
    assert proof.worst == ()
    assert len(proof.answers) == 1
    assert proof.verdict != "green"
    assert "no held-out data" in proof.sentence or proof.verdict == "red"


def test_bad_answers_alone_are_held_out_data_too() -> None:
    colour, sentence = judge(None, Comparison(before=2, after=2, tokens=9, sequences=2, of_sequences=2), Preference(items=2, moved=0.5), ())
    assert colour == "amber"
    assert sentence.startswith("The preference for better answers has not clearly grown. Of 2 held-out items"), sentence


def test_the_lowest_loss_of_a_run_is_no_fall_where_the_base_model_had_less() -> None:
    standing = Standing()
    assert not standing.looked(2.0)
    standing.step = 5
    assert standing.looked(2.5) and not standing.has_fallen
    standing.step = 10
    assert standing.looked(1.5) and standing.has_fallen


@pytest.mark.parametrize("stop_at", [1, 3, 8, 60])
def test_a_stop_ends_it_and_leaves_the_model_as_it_was(model: Any, tokenizer: Any, stop_at: int) -> None:
    import torch

    model.train()
    ids = torch.tensor([tokenizer("The little fox")["input_ids"]])
    expected = model(input_ids=ids).logits.detach()
    context = Watching(stop_at)
    with pytest.raises(Cancelled):
        prove(proving(model, tokenizer, CHATS, context=context))
    assert context.count == stop_at, "nothing went on after the stop"
    assert context.phases == {"proof"}
    assert model.training
    assert torch.equal(model(input_ids=ids).logits, expected), "the adapter acts again"


def test_prompts_that_cannot_be_asked_are_told(model: Any, tokenizer: Any) -> None:
    refusing = CHATML.model_copy(update={"text": "{{ raise_exception('no system text, please') }}"})
    assert any("no system text" in note for note in prove(proving(model, tokenizer, CHATS[:5], prompts=("x",), template=refusing)).notes)
    long = prove(proving(model, tokenizer, CHATS[:5], prompts=("word " * 300, "Hello")))
    assert [answer.prompt for answer in long.answers] == ["Hello"]
    assert any("tokens; the limit is 232" in note for note in long.notes)


def test_held_out_data_beyond_the_bound_is_sampled_from_all_of_it(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.training.proof.HELD_OUT_TOKENS", 200)
    run = proving(model, tokenizer, CHATS, prompts=("x",))
    proof = prove(run)
    assert proof.held_out is not None
    assert 1 < proof.held_out.sequences < proof.held_out.of_sequences == 12
    measured = sorted(int(item.where.rpartition(" ")[2]) for item in proof.worst)
    assert measured[0] < 6 <= measured[-1]


def test_it_stays_small_whatever_the_texts(model: Any, tokenizer: Any) -> None:
    import torch

    stretched = [Encoded(*(2 * (tuple(tokenizer("\U0001d4d0" * 40)["input_ids"]),)), "\U0001d4d1" * 400) for _ in range(12)]
    samples = [chat(place, f"{place} " + "\U0001d4d0\u4e00" * 12, "\u4e00" * 3000) for place in range(12)]
    torch.manual_seed(0)
    proof = prove(Proving(model, tokenizer, CHATML, stretched, samples, (), Watching()))
    assert len(proof.answers) == ANSWERS
    worst_case = proof.model_copy(update={
        "answers": tuple(answer.model_copy(update={"base": "\U0001d4d0" * 1200, "adapter": "\U0001d4d0" * 1200, "prompt": "\U0001d4d0" * 600}) for answer in proof.answers),
    })  # fmt: skip
    assert max(len(answer.expected) for answer in proof.answers) <= 600
    assert len(worst_case.model_dump_json().encode()) <= 200_000


def test_a_template_that_ends_turns_in_words(base: Any, tokenizer: Any) -> None:
    in_words = CHATML.model_copy(update={"stop": (" old tree",)})
    writer = Writer(base, tokenizer, in_words)
    ids = writer.text_ids("The little fox found a red ball")
    written = writer.write(ids, 60, lambda: None)
    assert written.text == " under the"
    assert not written.is_cut
    assert writer.write(ids, 3, lambda: None).is_cut
    assert writer.write(ids, 60, lambda: None, chat=False).text.startswith(" under the old tree. She took")
