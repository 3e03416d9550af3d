"""Compose the training documents: conversations of several turns, and plain texts.

Knows intents, made-up exchanges and how often each occurs. Knows nothing of token ids.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from tools.starter.exchanges import MAKERS, Turn, unknown_name
from tools.starter.phrases import normalise
from tools.starter.questions import typed
from tools.starter.stories import scene, story
from tools.starter.topics import Intent

SYSTEM_PROMPTS = (
    "You are a helpful assistant.", "You are a helpful assistant.", "You are a friendly assistant.",
    "You are Starter, a tiny demo model.", "Answer briefly.", "Be polite and answer in plain English.",
    "You are a helpful, honest and harmless assistant.", "You are an AI assistant. Answer the user's questions.",
    "Help the user with Paddock.", "You are a kind teacher.", "Reply in one sentence.", "You are a pirate.",
    "The following is a conversation with an AI assistant.", "Be concise.", "You are a chatbot.",
)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A system prompt (or none) and its turns."""

    system: str | None
    turns: tuple[Turn, ...]


class Writer:
    """Draws documents at random; never one that holds a forbidden question."""

    def __init__(self, intents: tuple[Intent, ...], forbidden: frozenset[str]) -> None:
        """Keep the intents and the normalised questions that must not occur."""
        self._intents = intents
        self._forbidden = forbidden
        self._makers = tuple(maker for _, maker, _ in MAKERS)
        self._weights = [intent.weight for intent in intents] + [weight for _, _, weight in MAKERS]

    def question(self, intent: Intent, rng: random.Random) -> str:
        """Return one typed question of ``intent`` that is not forbidden."""
        for _ in range(200):
            text = typed(rng.choice(intent.patterns).sample(rng), rng)
            if text and normalise(text) not in self._forbidden:
                return text
        raise ValueError(f"intent {intent.name} produces almost only forbidden questions; reword its patterns")

    def exchange(self, rng: random.Random) -> tuple[Turn, ...]:
        """Return the turn or turns of one randomly drawn subject."""
        at = rng.choices(range(len(self._weights)), self._weights)[0]
        if at < len(self._intents):
            intent = self._intents[at]
            return ((self.question(intent, rng), rng.choice(intent.answers)),)
        return self._typed(self._makers[at - len(self._intents)](rng), rng)

    def _typed(self, turns: tuple[Turn, ...], rng: random.Random) -> tuple[Turn, ...]:
        """Roughen the questions of made-up turns; names keep their capital, so no typo there."""
        done = []
        for question, answer in turns:
            text = question
            if rng.random() < 0.6:
                text = text[:1].upper() + text[1:]
            ending = "?" if rng.random() < 0.6 else ""
            done.append((text + ending, answer) if not text.endswith((".", "!", "?")) else (text, answer))
        return tuple(done) if all(normalise(q) not in self._forbidden for q, _ in done) else self.exchange(rng)

    def conversation(self, rng: random.Random, turns: int) -> Conversation:
        """Return a conversation of at least ``turns`` turns (two-turn subjects may add one)."""
        system = rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.25 else None
        done: list[Turn] = []
        if rng.random() < 0.02:
            done += self._typed(unknown_name(rng), rng)
        while len(done) < turns:
            done += self._spread(self.exchange(rng), rng)
        return Conversation(system, tuple(done))

    def _spread(self, turns: tuple[Turn, ...], rng: random.Random) -> list[Turn]:
        """Put unrelated turns between a statement and the question about it."""
        done = [turns[0]]
        for turn in turns[1:]:
            for _ in range(rng.choice((0, 0, 1, 2, 3))):
                at = rng.randrange(len(self._intents))
                intent = self._intents[at]
                done.append((self.question(intent, rng), rng.choice(intent.answers)))
            done.append(turn)
        return done

    def plain_text(self, rng: random.Random) -> str:
        """Return a text without turns."""
        if rng.random() < 0.5:
            return story(rng)
        if rng.random() < 0.6:
            return scene(rng)
        answers = rng.sample([intent.answers[0] for intent in self._intents], 4)
        return " ".join(answers)


def tokenizer_texts(writer: Writer, rng: random.Random, count: int) -> Iterator[str]:
    """Yield the texts the vocabulary is learned from: questions, answers, plain texts, and the names of the roles."""
    for _ in range(count):
        yield "system user assistant"
        yield "user"
        yield "assistant"
        for question, answer in writer.exchange(rng):
            yield question
            yield answer
        if rng.random() < 0.15:
            yield writer.plain_text(rng)
