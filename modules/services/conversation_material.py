"""What one conversation has to teach: replies that were kept, liked or edited, pairs of a better and a worse version, answers with thumbs.

A person's choice is in the tree: the path shown, thumbs, and versions written by hand. Pure; knows no files and no other conversation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Literal

from modules.core.messages import Message, split_thinking, without_thinking
from modules.services.conversation_prompt import prompt_messages
from modules.services.conversation_settings import stored_settings
from modules.store.records import MessageRecord, StoredConversation
from modules.store.tree import MessageTree
from modules.training.samples import ChatSample, FeedbackSample, PairSample

Choice = Literal["chosen", "liked", "edited", "pairs", "rated"]
CHOICE_TITLES: Mapping[Choice, str] = MappingProxyType({
    "chosen": "Replies as the conversations show them, without those with a thumb down",
    "liked": "Replies with a thumb up",
    "edited": "Replies that were edited",
    "pairs": "Preference pairs: edited over original, thumb up over thumb down, shown over thumb down",
    "rated": "Single answers marked good or bad by their thumbs (for KTO)",
})
GOOD, BAD = 1, -1


class ConversationMaterial:
    """One conversation, all its versions."""

    def __init__(self, conversation: StoredConversation) -> None:
        self._title = conversation.title
        self._system_prompt = stored_settings(conversation.settings).system_prompt
        self._records = {record.id: record for record in conversation.messages}
        self._order = {message_id: place for place, message_id in enumerate(self._records)}
        self._tree = MessageTree((record.id, record.parent_id) for record in conversation.messages)
        head_id = conversation.head_id if conversation.head_id in self._tree else self._tree.newest_leaf()
        self._shown = frozenset(self._tree.path(head_id))
        self._edited_again = {record.edited_from for record in conversation.messages if record.rating != BAD}

    # ---- replies ---------------------------------------------------------------------------------------------------

    def replies(self, choice: Choice) -> tuple[str, ...]:
        """Ids of the replies of one choice, oldest first."""
        return tuple(record.id for record in self._records.values() if self._is_of(choice, record) and self._can_be_learned(record))

    def _is_of(self, choice: Choice, record: MessageRecord) -> bool:
        if choice == "chosen":
            return self._is_chosen(record)
        return self._is_edited(record) if choice == "edited" else record.rating == GOOD or (choice == "rated" and record.rating == BAD)

    def _is_chosen(self, record: MessageRecord) -> bool:
        is_whole = record.status == "complete" and (record.receipt or {}).get("finish_reason") != "length"
        return record.id in self._shown and record.rating != BAD and (is_whole or record.rating == GOOD)

    def _is_edited(self, record: MessageRecord) -> bool:
        return record.edited_from is not None and record.id not in self._edited_again and record.rating != BAD

    def _can_be_learned(self, record: MessageRecord) -> bool:
        """Whether it is a reply with an answer, to a question."""
        parent = self._records.get(record.parent_id or "")
        is_reply = record.role == "assistant" and record.status in ("complete", "stopped") and parent is not None and parent.role == "user"
        return is_reply and bool(without_thinking(record.content).strip())

    def has_images(self, message_id: str) -> bool:
        """Whether a reply, or what comes before it, has images or documents: messages are learned from their own text, so it must be left out."""
        return any(self._records[each].images or self._records[each].files for each in self._tree.path(message_id))

    def samples(self, wanted: Collection[str]) -> Iterator[ChatSample]:
        """Conversations in which each of these replies is learned exactly once.

        One sample has as many of them as stand on one path; other replies on it are there to be read, not to be learned. A reply that
        begins with thinking has a sample of its own, since earlier thoughts are never shown to a model.
        """
        left = {each for each in wanted if not self.has_images(each)}
        made: list[tuple[int, ChatSample]] = []
        for message_id in sorted(left, key=lambda each: (-len(self._tree.path(each)), self._order[each])):
            if message_id not in left:
                continue
            path = self._tree.path(message_id)
            learned = {each for each in path if each in left and (each == message_id or not self._thinks(each))}
            left -= learned
            made.append((self._order[message_id], self._sample(path, learned)))
        yield from (sample for _, sample in sorted(made, key=lambda each: each[0]))

    def _thinks(self, message_id: str) -> bool:
        return bool(split_thinking(self._records[message_id].content).thinking.strip())

    def _sample(self, path: list[str], learned: Collection[str]) -> ChatSample:
        records = [self._records[each] for each in path]
        messages = tuple(_trimmed(message) for message in prompt_messages(records, self._system_prompt, {}))
        # Replies are never joined with others, and of those on a path only the ones without an answer are left out.
        replies = (record.id for record in records if record.role == "assistant" and without_thinking(record.content).strip())
        unlearned = {place for place, message in enumerate(messages) if message.role == "assistant" and next(replies) not in learned}
        return ChatSample(self._where(path[-1]), messages, unlearned=frozenset(unlearned))

    def _where(self, message_id: str) -> str:
        return f"{self._title}, message {len(self._tree.path(message_id))}"

    # ---- pairs and single answers -----------------------------------------------------------------------------------------------------

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Ids of replies to the same question of which the first was preferred to the second, oldest first."""
        found: dict[tuple[str, str], None] = {}
        for record in self._records.values():
            if self._can_be_learned(record):
                found.update(dict.fromkeys((record.id, worse) for worse in self._worse(record)))
        return tuple(found)

    def _worse(self, better: MessageRecord) -> Iterator[str]:
        versions = [self._records[each] for each in self._tree.versions(better.id)]
        original = self._original(better) if self._is_edited(better) else None
        for other in versions:
            is_rejected = other.rating == BAD and (better.rating == GOOD or self._is_chosen(better) or self._is_edited(better))
            is_original = other is original and other.rating <= better.rating
            if (is_rejected or is_original) and self._can_be_learned(other) and other.content.strip() != better.content.strip():
                yield other.id

    def _original(self, record: MessageRecord) -> MessageRecord | None:
        """What an edit began from, through all edits between."""
        seen = {record.id}
        while record.edited_from in self._records and record.edited_from not in seen:
            record = self._records[record.edited_from]
            seen.add(record.id)
        return record if record.edited_from is None else None

    def pair_samples(self, pairs: Iterable[tuple[str, str]]) -> Iterator[PairSample]:
        """The pairs with what comes before them; those with images are left out."""
        for better, worse in pairs:
            if self.has_images(better):
                continue
            yield PairSample(self._where(better), self._before(better), self._answer(better), self._answer(worse))

    def feedback_samples(self, rated: Iterable[str]) -> Iterator[FeedbackSample]:
        """Each of these replies by itself, with its thumb; those with images are left out."""
        for message_id in rated:
            if not self.has_images(message_id):
                yield FeedbackSample(self._where(message_id), self._before(message_id), self._answer(message_id), self._records[message_id].rating == GOOD)

    def _before(self, message_id: str) -> tuple[Message, ...]:
        path = [self._records[each] for each in self._tree.path(message_id)[:-1]]
        return tuple(_trimmed(message) for message in prompt_messages(path, self._system_prompt, {}))

    def _answer(self, message_id: str) -> Message:
        return Message(role="assistant", content=self._records[message_id].content.strip())


def _trimmed(message: Message) -> Message:
    return message.model_copy(update={"content": message.content.strip()})
