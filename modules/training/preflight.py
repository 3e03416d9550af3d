"""The look before a run: everything is encoded as the run would, counted, shown token by token, and two steps are tried.

The work function of the job “examine”. What it knows is written to examination.json as soon as it is known, so that the page shows the
samples while two steps are tried; if these fail the rest stands, with the reason.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from modules.core.errors import AppError, InvalidRequest
from modules.core.files import write_atomic
from modules.core.job import JobContext
from modules.core.messages import THINKING_TAGS
from modules.loaders.folder_header import read_folder_header
from modules.prompts.doctor import examine as examine_template
from modules.prompts.ending import derive_ending
from modules.training.advice import Figures, advice_of
from modules.training.data import Data, load_data
from modules.training.duplicates import without_duplicates
from modules.training.encoding import Encoder, refuse_if_empty
from modules.training.examination import Counts, Examination, ShownSample, TemplateFinding
from modules.training.feed import Feed
from modules.training.packing import MicroBatch
from modules.training.probe import Probe, probe
from modules.training.samples import (
    IGNORED,
    ChatSample,
    Encoded,
    FeedbackSample,
    PairSample,
    Sample,
    TextSample,
)
from modules.training.spec import EXAMINATION, ExamineArgs, TrainArgs
from modules.training.token_view import bars_of, pieces_of
from modules.training.tokens import length_limit, load_tokenizer

FIRST_SAMPLES = 6
MOST_SHOWN = 10
LIMIT_BYTES = 300_000
PROGRESS_SAMPLES = 20


@dataclass
class _Look:
    """What is gathered on the way."""

    args: TrainArgs
    encoder: Encoder
    data: Data
    held_out_sequences: int = 0
    encoded: list[Encoded] = field(default_factory=list)
    learned: array[int] = field(default_factory=lambda: array("l"))  # tokens of each sequence
    first: list[Sample] = field(default_factory=list)
    longest: tuple[int, Sample | None] = (0, None)
    cut: Sample | None = None
    thinks: bool = False


def examine(args: ExamineArgs, context: JobContext) -> Mapping[str, Any]:
    """Look at a run's data as the model would see it.

    Raises:
        AppError: the data or the tokenizer cannot be read.
        Cancelled: the person asked to stop.
    """
    run = args.run
    context.progress(0, None, "samples", phase="Reading the data")
    data = load_data(run)
    tokenizer = load_tokenizer(run.base_path, run.options.new_tokens)
    look = _Look(run, Encoder(tokenizer, run.template, run.options, length_limit(run.base_path, run.options)), data)
    refusal = _encode(look, context)
    if not run.options.drop_duplicates:
        context.progress(0, None, "samples", phase="Looking for duplicates")
        kept = without_duplicates([*data.train, *data.held_out])
        look.data = Data(data.train, data.held_out, data.digest, kept.exact, kept.near)
    examination = _judged(look, refusal, None)
    _write(context.directory, examination)
    if args.probe and examination.verdict != "red":
        examination = _judged(look, "", _probed(look, context))
        _write(context.directory, examination)
    return {"verdict": examination.verdict, "sentence": examination.sentence, "steps": examination.steps}


def _encode(look: _Look, context: JobContext) -> str:
    """Make all sequences; a sentence if nothing can come of them."""
    samples = look.data.train
    try:
        for place, sample in enumerate(samples):
            if place % PROGRESS_SAMPLES == 0:
                context.progress(place, len(samples), "samples", phase="Reading the samples as tokens")
            _note(look, sample)
        refuse_if_empty(look.encoder.report)
        _check_roles(look)
        Feed(look.encoded, look.args.options)
    except InvalidRequest as error:
        return error.message
    held_out = Encoder(look.encoder.tokenizer.plain, look.args.template, look.args.options, look.encoder.limit_tokens)
    for place, sample in enumerate(look.data.held_out):
        if place % PROGRESS_SAMPLES == 0:
            context.progress(place, len(look.data.held_out), "samples", phase="Reading the held-out samples")
        look.held_out_sequences += sum(1 for _ in held_out.encode([sample]))
    return ""


def _note(look: _Look, sample: Sample) -> None:
    known = len(look.encoder.lengths)
    for one in look.encoder.encode([sample]):
        look.encoded.append(one)
        look.learned.append(sum(label != IGNORED for label in one.labels))
        if one.cut_tokens and look.cut is None:
            look.cut = sample
    length = max(look.encoder.lengths[known:], default=0)
    if length > look.longest[0]:
        look.longest = (length, sample)
    if len(look.first) < FIRST_SAMPLES:
        look.first.append(sample)
    look.thinks = look.thinks or any(opening in text for text in _replies(sample) for opening, _ in THINKING_TAGS)


def _replies(sample: Sample) -> tuple[str, ...]:
    if isinstance(sample, ChatSample):
        return tuple(message.content for message in sample.messages if message.role == "assistant")
    if isinstance(sample, PairSample):
        return (sample.chosen.content,)
    return (sample.answer.content,) if isinstance(sample, FeedbackSample) else ()


def _check_roles(look: _Look) -> None:
    """Refuse data that the chosen way of learning preferences cannot use, before an hour is spent on it."""
    roles = {one.role for one in look.encoded}
    if look.args.options.preference != "kto" and roles & {"good", "bad"}:
        raise InvalidRequest(
            f"{look.args.options.preference.upper()} learns from pairs of a better and a worse answer, and this data set has single answers; "
            "set preference to kto.",
            field="preference",
        )


def _probed(look: _Look, context: JobContext) -> Probe:
    try:
        return probe(look.args, look.encoded, context)
    except AppError as error:
        return Probe(problem=error.message)


# ---- judging -----------------------------------------------------------------------------------------------------------


def _judged(look: _Look, refusal: str, tried: Probe | None) -> Examination:
    report, options = look.encoder.report, look.args.options
    counts = Counts(
        **{name: value for name, value in asdict(report).items() if name in Counts.model_fields},
        exact=look.data.exact, near=look.data.near, held_out=len(look.data.held_out), held_out_sequences=look.held_out_sequences,
    )  # fmt: skip
    feed = Feed(look.encoded, options) if not refusal else None
    plan = feed.first_epoch() if feed else []
    padding = _padding_share(look.encoded, plan)
    findings, opens_thinking = _template_findings(look)
    steps = feed.steps if feed else 0
    advice = () if refusal else advice_of(Figures(
        options=options, counts=counts, limit_tokens=look.encoder.limit_tokens, known_tokens=_known_tokens(look.args.base_path), steps=steps,
        padding_share=padding, typical_learned=median(look.learned), prefers=any(one.role != "sample" for one in look.encoded),
        has_own_held_out=look.args.held_out is not None, findings=findings, opens_thinking="" if look.thinks else opens_thinking,
        cannot_stop=_is_chat(look) and not look.encoder.writer.closing.text, unseen_tokens=_unseen(look), problems=report.problems, probe=tried,
    ))  # fmt: skip
    warns = any(one.warns for one in advice)
    return Examination(
        verdict="red" if refusal else "amber" if warns else "green",
        sentence=refusal or f"{_count(counts.trained_tokens, 'token')} of {_count(counts.samples, 'sample')} will be learned in {_count(steps, 'step')}{', but look at the advice' if warns else ''}.",
        advice=tuple(one.sentence for one in advice),
        counts=counts,
        limit_tokens=look.encoder.limit_tokens,
        longest_tokens=max(look.encoder.lengths, default=0),
        padding_share=round(padding, 4),
        lengths=bars_of(look.encoder.lengths),
        samples=_shown(look),
        template=look.args.template.origin if look.args.template is not None and _is_chat(look) else "",
        findings=findings,
        steps_per_epoch=round(len(plan) / feed.per_step, 2) if feed else 0,
        steps=steps,
        problems=tuple(report.problems),
        probe=tried,
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _is_chat(look: _Look) -> bool:
    return look.args.template is not None and not isinstance(look.data.train[0], TextSample)


def _known_tokens(path: Path) -> int:
    return read_folder_header(path).number("max_position_embeddings", "n_positions", "seq_length", "max_sequence_length")


def _padding_share(encoded: Sequence[Encoded], plan: Sequence[MicroBatch]) -> float:
    """How much of the rows' cells hold no token."""
    cells = real = 0
    for micro_batch in plan:
        lengths = [sum(len(encoded[place].token_ids) for place in row) for row in micro_batch]
        cells += len(lengths) * max(lengths)
        real += sum(lengths)
    return 1 - real / cells if cells else 0.0


def _template_findings(look: _Look) -> tuple[tuple[TemplateFinding, ...], str]:
    """What there is to say about the template with this tokenizer, and the thinking tag that it opens replies with."""
    if not _is_chat(look):
        return (), ""
    tokens = look.encoder.tokenizer
    try:
        template = look.encoder.writer.template
        ending = derive_ending(template.render, eos_token=tokens.eos_token, extra_stop=template.source.stop)
        found = examine_template(template.render, tokens.pieces, ending, bos_token=tokens.bos_token)
    except AppError as error:
        return (TemplateFinding(level="problem", sentence=error.message),), ""
    return tuple(TemplateFinding(level=one.level, sentence=one.sentence) for one in found), ending.starts_thinking


def _unseen(look: _Look) -> tuple[str, ...]:
    new = {int(look.encoder.tokenizer.plain.convert_tokens_to_ids(token)): token for token in look.args.options.new_tokens}
    if new:
        seen = set[int]().union(*(one.token_ids for one in look.encoded))
        return tuple(token for number, token in new.items() if number not in seen)
    return ()


# ---- what is shown -----------------------------------------------------------------------------------------------------


def _shown(look: _Look) -> tuple[ShownSample, ...]:
    """The first samples, the longest and one that is cut."""
    chosen: list[tuple[Any, Sample]] = [("first", sample) for sample in look.first]
    chosen += [(why, sample) for why, sample in (("longest", look.longest[1]), ("cut", look.cut)) if sample is not None and sample not in look.first]
    found: list[ShownSample] = []
    for why, sample in chosen:
        try:
            sequences = look.encoder.whole(sample)
        except InvalidRequest:
            continue
        if why != "first":
            sequences = (max(sequences, key=lambda one: len(one.token_ids)),)
        for one in sequences[:2]:
            tokens = pieces_of(one, look.encoder.limit_tokens, look.encoder.tokenizer.pieces.piece)
            found.append(ShownSample(where=one.where, why=why, role=one.role, count=len(one.token_ids), tokens=tokens))
    return tuple(found[:FIRST_SAMPLES] + found[FIRST_SAMPLES:][-(MOST_SHOWN - FIRST_SAMPLES) :])


def _write(directory: Path, examination: Examination) -> None:
    """Write it down; where it is too long, with fewer samples."""
    values = examination.model_dump(mode="json", by_alias=True)
    text = json.dumps(values, ensure_ascii=False)
    while len(text.encode()) > LIMIT_BYTES and values["samples"]:
        values["samples"].pop(len(values["samples"]) // 2)
        text = json.dumps(values, ensure_ascii=False)
    write_atomic(directory / EXAMINATION, text)
