"""A data set of one's own conversations: which replies, what of them looks personal, what there is twice; then written as a file.

What a conversation teaches is in `conversation_material.py`. Reading the store and looking through texts run in threads.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from modules.core.errors import InvalidRequest, NotFound
from modules.core.messages import Message
from modules.services.conversation_material import CHOICE_TITLES, Choice, ConversationMaterial
from modules.services.dataset_views import ShownSample, shown_sample
from modules.services.datasets import DatasetService
from modules.services.storage import Storage, Stores
from modules.training.duplicates import Deduplicated, without_duplicates
from modules.training.personal import KIND_TITLES, Kind, Redactor, names_in
from modules.training.samples import ChatSample, FeedbackSample, PairSample, TextSample

SAMPLES_SHOWN = 10
EXAMPLES_SHOWN = 5
EXAMPLE_CHARS = 60
FILE_LIMIT_BYTES = 4 << 30
SUFFIX = ".jsonl"

OwnSample = ChatSample | PairSample | FeedbackSample
APART = ("pairs", "rated")  # what is learned in a way of its own, and so has a file of its own


@dataclass(frozen=True)
class SampleChoice:
    """Something that can be learned from: how many replies or pairs it has."""

    value: Choice
    title: str
    count: int


@dataclass(frozen=True)
class PersonalFinding:
    """What was found of one kind of personal data."""

    kind: Kind
    title: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class SamplesPreview:
    """What a data set would be: its first samples with the marks asked for, and everything personal that they have without marks."""

    samples: tuple[ShownSample, ...]
    findings: tuple[PersonalFinding, ...]
    exact: int  # left out as the same as an earlier one
    near: int  # or nearly the same
    count: int
    pairs: int  # of the count
    with_images: int  # replies or pairs left out, since texts alone are learned


@dataclass(frozen=True)
class _Gathered:
    samples: tuple[OwnSample, ...]
    exact: int
    near: int
    with_images: int


class ConversationSamples:
    """Makes data sets of an owner's conversations."""

    def __init__(self, storage: Storage, datasets: DatasetService) -> None:
        self._run = storage.run
        self._datasets = datasets

    async def choices(self, owner: str) -> tuple[SampleChoice, ...]:
        """What there is to learn from."""
        material = await self._material(owner)
        counts = {choice: sum(len(_ids(each, choice)) for each in material) for choice in CHOICE_TITLES}
        return tuple(SampleChoice(choice, title, counts[choice]) for choice, title in CHOICE_TITLES.items())

    async def preview(self, owner: str, choose: Sequence[str], redact: Sequence[str], names: Sequence[str] = ()) -> SamplesPreview:
        """What would be written; `names` are found besides those by which a person introduced themself.

        Raises:
            InvalidRequest: no such choice or kind, or choices that cannot stand in one file.
        """
        choices, kinds = _checked(choose, redact)
        material = await self._material(owner)
        return await asyncio.to_thread(_preview, material, choices, kinds, tuple(names))

    async def write(self, owner: str, name: str, choose: Sequence[str], redact: Sequence[str], names: Sequence[str] = ()) -> str:
        """Write the data set; its name, which ends with .jsonl.

        Raises:
            InvalidRequest: there is nothing to write, the name is none, or what `preview` says.
            Conflict: there is a data set of that name.
        """
        choices, kinds = _checked(choose, redact)
        material = await self._material(owner)
        text = await asyncio.to_thread(_written, material, choices, kinds, tuple(names))
        if not text:
            raise InvalidRequest("There is nothing to write: no reply is of the kind that was chosen. Choose another kind, or rate and edit replies first.", field="choose")
        return await self._datasets.upload(_file_name(name), _pieces(text), limit_bytes=FILE_LIMIT_BYTES, length=len(text))

    async def _material(self, owner: str) -> tuple[ConversationMaterial, ...]:
        return await self._run(lambda stores: tuple(_read(stores, owner)))


def _read(stores: Stores, owner: str) -> Iterable[ConversationMaterial]:
    """All conversations of an owner, oldest first."""
    for line in sorted(stores.conversations.list(owner), key=lambda line: line.id):
        try:
            yield ConversationMaterial(stores.messages.read_all(owner, line.id))
        except NotFound:  # deleted meanwhile
            continue


def _checked(choose: Sequence[str], redact: Sequence[str]) -> tuple[tuple[Choice, ...], tuple[Kind, ...]]:
    choices: tuple[Choice, ...] = tuple(choice for choice in CHOICE_TITLES if choice in choose)
    kinds: tuple[Kind, ...] = tuple(kind for kind in KIND_TITLES if kind in redact)
    for given, known, field in ((choose, get_args(Choice), "choose"), (redact, tuple(KIND_TITLES), "redact")):
        for value in given:
            if value not in known:
                raise InvalidRequest(f"“{value[:40]}” is unknown; use {', '.join(known)}.", field=field)
    if not choices:
        raise InvalidRequest("Nothing is chosen to learn from; choose at least one kind of replies, or preference pairs.", field="choose")
    if len(choices) > 1 and any(choice in APART for choice in choices):
        raise InvalidRequest("Preference pairs, single answers and replies are learned in different ways and cannot stand in one file; choose only one of these.", field="choose")
    return choices, kinds


def _ids(material: ConversationMaterial, choice: Choice) -> tuple[Any, ...]:
    return material.pairs() if choice == "pairs" else material.replies(choice)


def _gathered(material: Iterable[ConversationMaterial], choices: Sequence[Choice]) -> _Gathered:
    """The samples of all conversations, without duplicates."""
    samples: list[OwnSample] = []
    with_images = 0
    for each in material:
        if "pairs" in choices:
            pairs = each.pairs()
            samples += each.pair_samples(pairs)
            with_images += sum(each.has_images(better) for better, _ in pairs)
        elif "rated" in choices:
            rated = each.replies("rated")
            samples += each.feedback_samples(rated)
            with_images += sum(map(each.has_images, rated))
        else:
            wanted = {message_id for choice in choices for message_id in each.replies(choice)}
            samples += each.samples(wanted)
            with_images += sum(map(each.has_images, wanted))
    kept: Deduplicated = without_duplicates(samples)
    own = tuple(sample for sample in kept.samples if not isinstance(sample, TextSample))
    return _Gathered(own, kept.exact, kept.near, with_images)


def _preview(material: Sequence[ConversationMaterial], choices: Sequence[Choice], kinds: Sequence[Kind], names: tuple[str, ...]) -> SamplesPreview:
    found = _gathered(material, choices)
    return SamplesPreview(
        samples=tuple(shown_sample(_redacted(sample, kinds, names)) for sample in found.samples[:SAMPLES_SHOWN]),
        findings=_findings(found.samples, names),
        exact=found.exact,
        near=found.near,
        count=len(found.samples),
        pairs=sum(isinstance(sample, PairSample) for sample in found.samples),
        with_images=found.with_images,
    )


def _written(material: Sequence[ConversationMaterial], choices: Sequence[Choice], kinds: Sequence[Kind], names: tuple[str, ...]) -> bytes:
    rows = (_row(_redacted(sample, kinds, names)) for sample in _gathered(material, choices).samples)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


# ---- personal data -------------------------------------------------------------------------------------------------


def _messages(sample: OwnSample) -> tuple[Message, ...]:
    answers = (sample.chosen, sample.rejected) if isinstance(sample, PairSample) else (sample.answer,) if isinstance(sample, FeedbackSample) else ()
    return (*sample.messages, *answers)


def _names(sample: OwnSample, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names given, and those that the person said in this conversation: a model that introduces itself is nobody."""
    said = (name for message in sample.messages if message.role == "user" for name in names_in(message.content))
    return tuple(dict.fromkeys((*names, *said)))


def _findings(samples: Iterable[OwnSample], names: tuple[str, ...]) -> tuple[PersonalFinding, ...]:
    counts: dict[Kind, int] = {}
    examples: dict[Kind, dict[str, None]] = {}
    for sample in samples:
        redactor = Redactor(tuple(KIND_TITLES), _names(sample, names))
        for message in _messages(sample):
            for finding in redactor.find(message.content):
                counts[finding.kind] = counts.get(finding.kind, 0) + 1
                shown = examples.setdefault(finding.kind, {})
                if len(shown) < EXAMPLES_SHOWN:
                    shown[_short(message.content[finding.start : finding.end])] = None
    return tuple(PersonalFinding(kind, title, counts[kind], tuple(examples[kind])) for kind, title in KIND_TITLES.items() if kind in counts)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= EXAMPLE_CHARS else text[: EXAMPLE_CHARS - 1] + "…"


def _redacted(sample: OwnSample, kinds: Sequence[Kind], names: tuple[str, ...]) -> OwnSample:
    """The sample with marks, which are the same in all its messages."""
    if not kinds:
        return sample
    redactor = Redactor(kinds, _names(sample, names))

    def marked(message: Message) -> Message:
        return message.model_copy(update={"content": redactor.redacted(message.content)})

    messages = tuple(map(marked, sample.messages))
    if isinstance(sample, PairSample):
        return replace(sample, messages=messages, chosen=marked(sample.chosen), rejected=marked(sample.rejected))
    if isinstance(sample, FeedbackSample):
        return replace(sample, messages=messages, answer=marked(sample.answer))
    return replace(sample, messages=messages)


# ---- the file ------------------------------------------------------------------------------------------------------


def _row(sample: OwnSample) -> Mapping[str, Any]:
    """A line of the file: OpenAI's messages, where a weight of 0 means not to be learned; or a preference pair; or an answer with its mark."""
    messages = _plain(sample.messages)
    if isinstance(sample, PairSample):
        return {"prompt": messages, "chosen": _plain([sample.chosen]), "rejected": _plain([sample.rejected])}
    if isinstance(sample, FeedbackSample):
        return {"prompt": messages, "completion": _plain([sample.answer]), "label": sample.is_good}
    return {"messages": [{**message, "weight": 0} if place in sample.unlearned else message for place, message in enumerate(messages)]}


def _plain(messages: Iterable[Message]) -> list[dict[str, Any]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _file_name(name: str) -> str:
    stem = name.strip()
    for suffix in (SUFFIX, ".json"):
        stem = stem.removesuffix(suffix)
    return stem + SUFFIX


async def _pieces(text: bytes) -> AsyncIterator[bytes]:
    yield text
