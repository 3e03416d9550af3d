"""A draft model beside a model: loaded by the same loader, over the same vocabulary, and only where it can be of use.

Knows what any loaded model offers; knows no back end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from modules.core.errors import LoadFailed
from modules.core.model import DraftSource, LoadedModel, LoadOptions, ModelInfo, Tokenizer
from modules.loaders.spec import Progress

PADDING_TOKENS = 128  # models of one family pad their vocabularies to different sizes
SAMPLED_TOKENS = 2000  # of the vocabulary; other tokenizers differ nearly everywhere

LoadDraft = Callable[[Path, Progress], LoadedModel]


def could_draft(model: ModelInfo, others: Iterable[ModelInfo]) -> tuple[str, ...]:
    """Names of the models that could draft for one, smallest first, as far as headers tell."""
    found = [
        other
        for other in others
        if (other.format, other.problem) == (model.format, "")
        and 0 < other.size_bytes < model.size_bytes
        and 0 < other.vocab_size <= model.vocab_size + PADDING_TOKENS
        and other.vocab_size >= model.vocab_size - PADDING_TOKENS
    ]
    return tuple(other.name for other in sorted(found, key=lambda other: other.size_bytes))


def with_draft(model: LoadedModel, options: LoadOptions, load: LoadDraft, progress: Progress) -> LoadedModel:
    """The model with what the options want drafts from, or as it is, with a note, if it cannot take tokens back.

    Raises:
        LoadFailed: the draft model cannot be loaded, or is of no use here; the model is closed then.
    """
    if not options.draft_model and options.draft_lookup == "off":
        return model
    is_asked = options.drafts_widely
    if not model.runner.keeps_parts:
        if not is_asked:
            return model
        return replace(model, notes=(*model.notes, "Nothing is drafted: this architecture cannot take back a token that proved wrong."))
    if not is_asked:
        return replace(model, draft=DraftSource(None, options.draft_tokens, is_careful=True))
    if not options.draft_model:
        note = f"Up to {options.draft_tokens} tokens a step are drafted from what was written before."
        return replace(model, draft=DraftSource(None, options.draft_tokens), notes=(*model.notes, note))
    name = Path(options.draft_model).name
    try:
        draft = load(Path(options.draft_model), lambda stage, done: progress(f"Draft model: {stage[:1].lower()}{stage[1:]}", done))
    except BaseException as error:
        model.runner.close()
        if isinstance(error, LoadFailed):
            raise type(error)(f"The draft model: {error.message}", **error.details) from error
        raise
    problem = _problem(model, draft, name)
    if problem:
        draft.runner.close()
        model.runner.close()
        raise LoadFailed(f"{problem}; choose a smaller model of the same family, or leave draft_model empty.", field="draft_model")
    return replace(
        model,
        draft=DraftSource(draft.runner, options.draft_tokens),
        memory_bytes=model.memory_bytes + draft.memory_bytes,
        notes=(*model.notes, f"{name} drafts up to {options.draft_tokens} tokens a step.", *(f"Draft model: {note}" for note in draft.notes)),
    )


def _problem(model: LoadedModel, draft: LoadedModel, name: str) -> str:
    """Why one cannot draft for the other; empty if it can."""
    if not draft.runner.keeps_parts:
        return f"{name} cannot draft: its architecture cannot take back a token that proved wrong"
    ours, theirs = model.tokenizer, draft.tokenizer
    if abs(ours.vocab_size - theirs.vocab_size) > PADDING_TOKENS:
        return f"{name} cannot draft for {model.info.name}: its vocabulary has {theirs.vocab_size} tokens instead of {ours.vocab_size}"
    other = next((token_id for token_id in _sample(ours, theirs) if _differs(token_id, ours, theirs)), None)
    if other is None:
        return ""
    pieces = [tokenizer.piece(other).decode("utf-8", "replace") for tokenizer in (ours, theirs)]
    return f"{name} cannot draft for {model.info.name}: its vocabulary is another one (token {other} is “{pieces[1]}” instead of “{pieces[0]}”)"


def _sample(ours: Tokenizer, theirs: Tokenizer) -> list[int]:
    """Token ids of both vocabularies: all that end a text, and others evenly over the whole."""
    size = min(ours.vocab_size, theirs.vocab_size)
    ends = {token_id for token_id in ours.end_ids | theirs.end_ids if token_id < size}
    return sorted(ends | set(range(0, size, max(1, size // SAMPLED_TOKENS))))


def _differs(token_id: int, ours: Tokenizer, theirs: Tokenizer) -> bool:
    return ours.piece(token_id) != theirs.piece(token_id) or ours.is_special(token_id) != theirs.is_special(token_id)
