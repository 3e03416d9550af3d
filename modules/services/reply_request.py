"""From a conversation and its settings to the request that a reply is written from.

Everything that goes into a prompt of the chat comes together here: the path, the settings, the preset, the prompt template. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modules.core.generation import ChatPrompt, GenerationRequest
from modules.core.messages import Image
from modules.core.model import AdapterChoice
from modules.core.params import GenerationParams
from modules.services.characters import Casting
from modules.services.conversation_settings import ConversationSettings, Overflow
from modules.services.conversations import ConversationService
from modules.services.kept_prompts import KeptPrompt
from modules.services.presets import PresetService
from modules.services.prompt_material import PromptMaterial
from modules.services.storage import is_private
from modules.services.templates import TemplateService


@dataclass(frozen=True, slots=True)
class ReplyRequest:
    """What the engine is asked, the adapters of the conversation (None: those in use on the model), and what it does when it is too long."""

    request: GenerationRequest
    adapters: Sequence[AdapterChoice] | None
    overflow: Overflow
    left_out: int = 0  # stored messages that are not in it: there is no room for them
    first_left_out: tuple[dict[str, str], ...] = ()  # of those


class ReplyRequests:
    """Makes the requests of replies."""

    def __init__(self, conversations: ConversationService, presets: PresetService, templates: TemplateService, casting: Casting) -> None:
        self._conversations = conversations
        self._presets = presets
        self._templates = templates
        self._casting = casting

    async def make(self, owner: str, conversation_id: str, prompt_end_id: str, *, continues: bool, limit_characters: int | None = None) -> ReplyRequest:
        """The request for a reply to the message `prompt_end_id`, or for more of it where it is a reply that goes on.

        With `limit_characters` the oldest messages are missing where what follows them is longer, if they may be left out.

        Raises:
            AppError: a message, a preset or a template is not there, or cannot be used.
        """
        made, _ = await self.stored(owner, conversation_id, prompt_end_id, continues=continues, limit_characters=limit_characters)
        return made

    async def stored(
        self, owner: str, conversation_id: str, prompt_end_id: str, *, continues: bool, limit_characters: int | None = None
    ) -> tuple[ReplyRequest, PromptMaterial]:
        """The same with what it is made of.

        Raises:
            AppError: as above.
        """
        settings = await self._conversations.paths.settings(owner, conversation_id)
        material = await self._conversations.prompt_material(owner, prompt_end_id, _limit(settings, limit_characters))
        return await self._request(settings, material, (owner, conversation_id), continues=continues), material

    async def unsent(
        self, owner: str, conversation_id: str, text: str, images: Sequence[Image] = (), limit_characters: int | None = None
    ) -> tuple[ReplyRequest, PromptMaterial]:
        """The request that sending `text` and `images` now would make, and what it is made of.

        Raises:
            AppError: as above.
        """
        settings = await self._conversations.paths.settings(owner, conversation_id)
        material = await self._conversations.unsent_material(owner, conversation_id, text, images, _limit(settings, limit_characters))
        return await self._request(settings, material, (owner, conversation_id), continues=False), material

    def again(
        self, owner: str, conversation_id: str, kept: KeptPrompt, params: GenerationParams, adapters: Sequence[AdapterChoice]
    ) -> ReplyRequest:
        """The request of a reply that is written again from the prompt that was kept with it."""
        request = GenerationRequest(prompt=kept.prompt, params=params, person=owner, client=f"{owner}/{conversation_id}", keep_on_disk=not is_private(conversation_id))
        return ReplyRequest(request, adapters, kept.prompt.overflow, kept.left_out_count, kept.left_out)

    async def _request(self, settings: ConversationSettings, material: PromptMaterial, whose: tuple[str, str], *, continues: bool) -> ReplyRequest:
        stored = tuple(part.message for part in material.parts)
        messages, params = await self._casting.play(settings, stored, self._presets.merge(settings.preset, settings.params))
        template = await self._templates.source(settings.template) if settings.template else None
        request = GenerationRequest(
            prompt=ChatPrompt(
                messages=messages,
                template=template,
                template_variables={**await self._casting.variables(settings), **settings.template_variables},
                continue_final_message=continues,
                overflow="refuse" if settings.overflow == "refuse" else "drop_oldest",
                dialogue=await self._casting.dialogue(settings),
            ),
            params=params,
            person=whose[0],
            client="/".join(whose),
            keep_on_disk=not is_private(whose[1]),
        )
        return ReplyRequest(request, settings.adapters, settings.overflow, material.left_out, material.first_left_out)


def _limit(settings: ConversationSettings, limit_characters: int | None) -> int | None:
    """The limit, where the oldest messages matter to nothing but the prompt's beginning: not to a summary, to a character's lore, or to a refusal."""
    may_be_missing = settings.overflow == "drop_oldest" and not settings.summary.strip() and not settings.character
    return limit_characters if may_be_missing else None
