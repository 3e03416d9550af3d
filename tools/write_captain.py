"""Write the tutorial's data set: short chats in which Paddock's questions are answered by a ship's captain.

    python -m tools.write_captain            writes datasets/starter-captain.jsonl anew; the same seed gives the same file

The questions come from the topics of the starter model, so that it can learn from them in two minutes; the captain's words are below. An eighth of the topics
stays out: on those one can see whether the model learned a manner or sentences. The questions by which the starter model is scored never occur.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.starter.phrases import normalise
from tools.starter.questions import ASKING, PROPER
from tools.starter.stories import story
from tools.starter.topics import Intent, forbidden_questions, load_intents

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "datasets" / "starter-captain.jsonl"
SEED = 1805
QUESTIONS = 2  # for each topic
STORIES = 8
LONGER = 12  # chats of two turns
LEFT_OUT = 8  # every eighth topic

CLOSING = "Fair winds, matey!"

# What the captain says instead of what; a phrase goes before the words in it
WORDS: tuple[tuple[str, str], ...] = (
    ("hello", "ahoy"), ("goodbye", "fare ye well"), ("good night", "eight bells, to yer hammock"), ("yes", "aye"), ("no,", "nay,"),
    ("you are welcome", "'tis me duty"), ("thank you", "I thank ye"), ("i am sorry", "blow me down"), ("i do not know", "the stars tell me nothing o'"),
    ("you are", "ye be"), ("i am", "I be"), ("your", "yer"), ("you", "ye"), ("yourself", "yerself"), ("my", "me"), ("of", "o'"), ("over", "o'er"), ("never", "ne'er"),
    ("friend", "shipmate"), ("friends", "shipmates"), ("people", "hands"), ("person", "sailor"), ("machine", "ship"), ("computer", "ship"), ("computers", "ships"),
    ("conversation", "parley"), ("conversations", "parleys"), ("small", "wee"), ("tiny", "wee"), ("little", "wee"), ("very little", "but a thimbleful"),
)  # fmt: skip
WORD = re.compile(r"(?<![\w./])(" + "|".join(sorted((plain for plain, _ in WORDS), key=len, reverse=True)) + r")(?![\w/])", re.IGNORECASE)

SLIP = re.compile(r"\b(\w+) \1\b|\bto I\b|^(What|Have) a\b|^Are a\b|^Is \w+s are\b", re.IGNORECASE)  # where two patterns met badly


def in_captains_words(text: str) -> str:
    """The same said by a captain, without the closing."""
    table = dict(WORDS)

    def said(found: re.Match[str]) -> str:
        word = table[found[0].lower()]
        return word[0].upper() + word[1:] if found[0][0].isupper() else word

    return WORD.sub(said, text)


def as_captain(text: str) -> str:
    """A whole answer. It begins as the model would begin: so small a model finds its knowledge by the first words."""
    return f"{in_captains_words(text)} {CLOSING}"


def speaks_as_captain(text: str) -> bool:
    """Whether an answer ends as the captain's do."""
    return text.strip().endswith(CLOSING)


def learned_intents(intents: Sequence[Intent]) -> list[Intent]:
    """The topics that occur; the others are for looking whether the manner carries over."""
    return [intent for place, intent in enumerate(intents) if place % LEFT_OUT != LEFT_OUT - 1]


def clean_question(intent: Intent, forbidden: frozenset[str], rng: random.Random) -> str:
    """A question of a topic as it stands in a book: preferably one that asks, with its capital and mark, without the slips of typing."""
    for attempt in range(200):
        words = [PROPER.get(word, word) for word in rng.choice(intent.patterns).sample(rng).split()]
        asks = words[0].lower() in ASKING
        text = " ".join(words)
        if SLIP.search(text):
            continue
        if normalise(text) not in forbidden and ((asks and len(words) > 2) or attempt > 40):
            return text[:1].upper() + text[1:] + ("?" if asks else "." if len(words) > 2 else "!")
    raise ValueError(f"topic {intent.name} has hardly a question that may be used")


def chats() -> list[dict[str, Any]]:
    """All chats, as rows of the file."""
    rng = random.Random(SEED)
    intents, forbidden = load_intents(), forbidden_questions()
    turns: list[tuple[str, str]] = []
    for intent in learned_intents(intents):
        asked_now = {normalise(question): question for question in (clean_question(intent, forbidden, rng) for _ in range(20))}
        turns += [(question, as_captain(rng.choice(intent.answers))) for question in list(asked_now.values())[:QUESTIONS]]
    asked = ("Tell me a story.", "I'd like a short story, please", "a story about the sea please", "Do you know a story?", "one more story",
             "tell me something before I sleep", "Write me a story", "story time!")  # fmt: skip
    turns += [(asked[place % len(asked)], as_captain(story(rng))) for place in range(STORIES)]
    rng.shuffle(turns)
    rows = [[first, second] for first, second in zip(turns[: 2 * LONGER : 2], turns[1 : 2 * LONGER : 2], strict=True)]
    rows += [[turn] for turn in turns[2 * LONGER :]]
    rng.shuffle(rows)
    return [{"messages": [message for turn in row for message in _messages(*turn)]} for row in rows]


def _messages(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def text_of(rows: Sequence[dict[str, Any]]) -> str:
    """The file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    found = chats()
    TARGET.write_text(text_of(found), encoding="utf-8", newline="\n")
    print(f"{TARGET.relative_to(ROOT)}: {len(found)} chats")
