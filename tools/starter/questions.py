"""Make a clean question look like typed ones: polite frames, casing, contractions, typos, punctuation.

Knows English typing habits. Knows nothing of intents or models.
"""

import random
from collections.abc import Mapping

from tools.starter.phrases import tidy

FRAMES = (
    "please tell me, {}", "can you tell me {}", "could you tell me {}", "hey, {}", "hi, {}", "hello, {}", "ok, {}",
    "so, {}", "well, {}", "quick question: {}", "i have a question: {}", "one more question: {}", "please, {}",
    "excuse me, {}", "sorry, {}", "i want to know {}", "i would like to know {}", "i wonder {}", "tell me, {}",
    "now {}", "and {}", "but {}", "{} please", "{}, please", "{} now", "{} here", "{} in paddock", "{} with paddock",
    "in paddock, {}", "dumb question, but {}", "can you explain {}", "could you please tell me {}", "do you know {}",
    "i am new here, {}", "as a beginner, {}", "{} thanks", "{}, thank you", "just asking, {}", "help, {}", "also, {}",
    "maybe you know {}", "i was wondering {}", "hello there, {}", "good morning, {}", "my question is {}", "{} then",
)
SHORTER = (("what is", "what's"), ("do not", "don't"), ("does not", "doesn't"), ("i am", "i'm"), ("it is", "it's"),
           ("cannot", "can't"), ("can not", "can't"), ("is not", "isn't"), ("you are", "you're"), ("how is", "how's"),
           ("i would", "i'd"), ("where is", "where's"), ("will not", "won't"), ("that is", "that's"))
SMALL_WORDS = frozenset(("the", "a", "an", "my", "this", "your", "please", "some", "of"))
PROPER: Mapping[str, str] = {
    "i": "I", "gguf": "GGUF", "lora": "LoRA", "loras": "LoRAs", "api": "API", "gpu": "GPU", "cpu": "CPU",
    "llm": "LLM", "llms": "LLMs", "json": "JSON", "paddock": "Paddock", "openai": "OpenAI", "python": "Python",
    "i'm": "I'm", "i'd": "I'd", "i've": "I've", "ram": "RAM", "english": "English", "vram": "VRAM",
    "q4_k_m": "Q4_K_M", "q8_0": "Q8_0", "q4": "Q4", "q8": "Q8", "german": "German", "french": "French",
}
ASKING = frozenset((
    "what", "what's", "whats", "which", "who", "whom", "where", "when", "why", "how", "is", "are", "am",
    "do", "does", "did", "can", "could", "will", "would", "may", "must", "should", "shall", "has",
    "have", "was", "were", "whose",
))
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def typed(question: str, rng: random.Random, framed: bool = True) -> str:
    """Return ``question`` as a person might type it."""
    text = question
    if framed and rng.random() < 0.33 and _can_be_framed(text):
        text = tidy(rng.choice(FRAMES).format(text))
    text = _contract(text, rng)
    words = text.split()
    if len(words) > 3 and rng.random() < 0.15:
        words = [word for word in words if word not in SMALL_WORDS or rng.random() < 0.4]
    if rng.random() < 0.14:
        at = rng.randrange(len(words))
        words[at] = _typo(words[at], rng)
    asking = any(word.strip(",:") in ASKING for word in words[:4])
    return _cased(words, rng) + _ending(asking, rng)


def _can_be_framed(text: str) -> bool:
    """Say whether a polite frame makes sense: not around 'thanks' or 'good night'."""
    words = text.split()
    return words[0] in ASKING or len(words) > 4


def _contract(text: str, rng: random.Random) -> str:
    padded = f" {text} "
    for long, short in SHORTER:
        draw = rng.random()
        if draw < 0.3:
            padded = padded.replace(f" {long} ", f" {short} ")
        elif draw < 0.5:
            padded = padded.replace(f" {short} ", f" {long} ")
        elif draw < 0.55:
            padded = padded.replace(f" {short} ", f" {short.replace(chr(39), '')} ")
    return padded.strip()


def _typo(word: str, rng: random.Random) -> str:
    """Swap, drop, double or replace one inner letter of a word with at least four letters."""
    if len(word) < 4 or not word.isalpha():
        return word
    at = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[:at] + word[at] + word[at:]
    return word[:at] + rng.choice(LETTERS) + word[at + 1 :]


def _cased(words: list[str], rng: random.Random) -> str:
    style = rng.random()
    if style < 0.35:
        return " ".join(words)
    if style > 0.98:
        return " ".join(words).upper()
    proper = [PROPER.get(word, word) for word in words]
    text = " ".join(proper)
    return text[:1].upper() + text[1:]


def _ending(asking: bool, rng: random.Random) -> str:
    marks, shares = (("?", "", "??", "."), (68, 26, 2, 4)) if asking else (("", ".", "!", "?"), (52, 28, 8, 12))
    return rng.choices(marks, shares)[0]
