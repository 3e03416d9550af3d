"""A branch: the history up to a message as a conversation of its own. Knows no store; ids are made new there."""

from __future__ import annotations

from collections.abc import Sequence

from modules.services.conversation_files import TITLE_LIMIT
from modules.store.records import MessageRecord, NewConversation, NewMessage, StoredConversation

BRANCH_MARK = " (branch)"


def branched(found: StoredConversation, path: Sequence[MessageRecord]) -> NewConversation:
    """A copy of a path with the settings of its conversation. A summary goes along where all that it stands for does."""
    title = found.title.removesuffix(BRANCH_MARK)[: TITLE_LIMIT - len(BRANCH_MARK)] + BRANCH_MARK
    until = next((place for place, record in enumerate(path) if record.id == found.settings.get("summary_until")), None)
    settings = found.settings if until is not None else {**found.settings, "summary": "", "summary_until": ""}
    messages = tuple(_copy(record, place) for place, record in enumerate(path))
    return NewConversation(title, settings, messages, places_in_settings={} if until is None else {"summary_until": until})


def _copy(record: MessageRecord, place: int) -> NewMessage:
    return NewMessage(
        role=record.role,
        content=record.content,
        parent=place - 1 if place else None,
        created_s=record.created_s,
        model=record.model,
        status="stopped" if record.status == "streaming" else record.status,
        error=record.error,
        receipt=record.receipt,
        images=record.images,
        rating=record.rating,
        edited_from=record.edited_from,
        pinned=record.pinned,
        speaker=record.speaker,
        files=record.files,
        prompt=record.id if record.role == "assistant" else None,
    )
