"""What a person chose once for all conversations, kept in one small file of the state folder, by owner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from modules.core.errors import InvalidRequest
from modules.core.files import dump_yaml, read_choices, write_atomic
from modules.core.settings import validation_sentence

FILE_NAME = "chat-preferences.yaml"
ALL = "all"  # whose choices they are on a server that several people share


class ChatPreferences(BaseModel, frozen=True, extra="forbid"):
    """Choices of one person; the sentences are those of the page."""

    begin_as_last: bool = Field(True, title="New chats begin as the last one", description="With its settings and its character, otherwise with the defaults.")
    title_from_exchange: bool = Field(
        True, title="Titles from the first exchange", description="The model writes one after its first reply. Otherwise your first words are the title."
    )


class ChatPreferenceService:
    """Reads and writes the file; one that is broken counts as empty."""

    def __init__(self, state_dir: Path, *, one_for_all: bool = False) -> None:
        """`one_for_all`: the choices are the server's, whoever asks."""
        self._path = state_dir / FILE_NAME
        self._one_for_all = one_for_all

    def read(self, owner: str) -> ChatPreferences:
        """The choices of an owner; what was never chosen is as the page begins."""
        try:
            return ChatPreferences.model_validate(self._stored().get(self._whose(owner), {}))
        except ValidationError:
            return ChatPreferences()

    def change(self, owner: str, values: Mapping[str, Any]) -> ChatPreferences:
        """Store the named choices, leave the others; the choices as they are then.

        Raises:
            InvalidRequest: an unknown name, or no yes or no.
        """
        try:
            chosen = ChatPreferences.model_validate({**self.read(owner).model_dump(), **values})
        except ValidationError as error:
            where = error.errors()[0]["loc"]
            raise InvalidRequest(validation_sentence(error), field=str(where[0]) if where else "preferences") from error
        write_atomic(self._path, dump_yaml({**self._stored(), self._whose(owner): chosen.model_dump()}), mode=0o600)
        return chosen

    def _whose(self, owner: str) -> str:
        return ALL if self._one_for_all else owner

    def _stored(self) -> dict[str, Any]:
        return read_choices(self._path)
