"""Fields of a chat request that let a character of the server speak, under the names that TextGen's clients know. What a character does to a prompt is a service's business."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field

from modules.core.dialogue import COMMAND, COMMAND_LIMIT
from modules.core.generation import ChatPrompt
from modules.core.params import GenerationParams
from modules.services.app import App
from modules.services.conversation_settings import ConversationSettings


class RoleFields(BaseModel):
    """Who speaks, and how the conversation is told."""

    character: str = Field("", max_length=100, description="A character of the page: its card goes into the prompt, as it does there.")
    mode: Literal["instruct", "chat", "chat-instruct"] = Field("instruct", description="chat-instruct tells the whole conversation as one instruction; the others send its turns.")
    chat_instruct_command: str = Field("", max_length=COMMAND_LIMIT, description="That instruction, with {{prompt}} for the conversation; empty is the usual one.")

    def role(self) -> ConversationSettings | None:
        """The same as settings of a conversation; None where nobody in particular speaks."""
        instructs = self.mode == "chat-instruct"
        if not self.character and not instructs:
            return None
        return ConversationSettings(character=self.character, mode="chat-instruct" if instructs else "instruct", command=self.chat_instruct_command or COMMAND)


async def in_role(app: App, settings: ConversationSettings, prompt: ChatPrompt, params: GenerationParams) -> tuple[ChatPrompt, GenerationParams]:
    """A prompt and its parameters as the character wants them.

    Raises:
        NotFound: there is no such character.
    """
    messages, params = await app.casting.play(settings, prompt.messages, params)
    named: Mapping[str, Any] = await app.casting.variables(settings)
    more = {"messages": messages, "template_variables": {**named, **prompt.template_variables}, "dialogue": await app.casting.dialogue(settings)}
    return prompt.model_copy(update=more), params
