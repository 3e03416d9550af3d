"""What a text may look like: a grammar, a JSON schema, a regular expression or a list of choices, followed token by token.

The sampler uses a constraint so: it chooses a token as if there were none and asks `allows` for that one alone, which is nearly always granted; only if it
is refused, `allowed` is asked for all tokens that may come, and the sampler chooses once more among those. `accept` of the sampler advances it.
The work is llguidance's: it keeps a tree of all tokens and a parser that walks it. Knows a tokenizer; knows no logits.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from modules.core.errors import InvalidRequest
from modules.core.messages import THINKING_TAGS, split_thinking
from modules.core.text_shape import CallText
from modules.engine.call_shapes import write_calls, write_thought
from modules.engine.channel_shapes import MARKS as CHANNEL_MARKS
from modules.engine.channel_shapes import before_answer, opened_by
from modules.engine.native import DeepCalls, ask
from modules.engine.shapes import TITLES, shape_of, write_shape
from modules.engine.thinking import AfterThinking, closing_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence, Set

    from numpy.typing import NDArray

    from modules.core.model import Tokenizer
    from modules.core.params import GenerationParams

LONGEST_TAG = 24  # tokens of an opening tag and what may stand behind it
KEPT = 64  # compiled shapes of one model
NOT_TOLD = re.compile(r"\d+ \||[\^ ]+$|<non-verbose/>")
WHERE = re.compile(r"^at \d+\(\d+\): |failed to compile JSON schema: |\(in regex\): ")
REASON_LIMIT = 300  # characters of what the library says
# Bounds of the library: what one token may cost (about 14 ms of lexer, 10 ms of parser), and memory of one shape (1 to 2 kB a state)
STEP_LEXER_FUEL = 200_000
STEP_MAX_ITEMS = 200_000
MAX_ITEMS_IN_ROW = 8_000  # four for each property that may come next: some 2,000, which take 40 ms once
MAX_LEXER_STATES = 50_000


class Constraint(Protocol):
    """What the rest of one completion may be. One thread uses it; it belongs to one sampler."""

    @property
    def finished(self) -> bool:
        """Whether nothing but an end token can follow."""
        ...

    def allows(self, token_id: int) -> bool:
        """Whether this token may come next; end tokens are allowed where the text may end."""
        ...

    def allowed(self) -> NDArray[np.int64]:
        """All tokens that `allows` grants, ascending; with none of them the text is finished, complete or not."""
        ...

    def advance(self, token_id: int) -> None:
        """Take note of the token that was chosen, one that is allowed."""
        ...


class ShapedText:
    """A constraint over llguidance's matcher."""

    def __init__(self, matcher: Any, words: NDArray[np.bool_], end_ids: Set[int], name: str) -> None:
        self._matcher = matcher
        self._words = words  # which tokens can be part of a text
        self._ends = np.array(sorted(token_id for token_id in end_ids if 0 <= token_id < len(words)), np.int64)
        self._end_ids = end_ids
        self._name = name
        self._tokens = 0
        self.finished = False

    def allows(self, token_id: int) -> bool:
        """One token: a few microseconds."""
        if token_id in self._end_ids:
            return bool(ask(self._matcher.is_accepting))
        return not self.finished and bool(self._words[token_id]) and ask(self._matcher.validate_tokens, [token_id]) == 1

    def allowed(self) -> NDArray[np.int64]:
        """All tokens: walks the tree of tokens as far as the shape goes along.

        Raises:
            InvalidRequest: the shape has become too complex to follow.
        """
        ends = self._ends if ask(self._matcher.is_accepting) else self._ends[:0]
        if self.finished:
            return ends
        bits = np.frombuffer(ask(self._matcher.compute_bitmask), np.uint8)
        if self._matcher.is_error():
            self._end_or_raise()
            return ends
        allowed = np.unpackbits(bits, bitorder="little")[: len(self._words)].view(np.bool_) & self._words
        ids = allowed.nonzero()[0]
        self.finished = not len(ids)
        return np.union1d(ids, ends) if len(ends) else ids

    def advance(self, token_id: int) -> None:
        """Take note of a token of the text; an end token needs none.

        Raises:
            InvalidRequest: the shape has become too complex to follow.
        """
        self._tokens += 1
        if token_id in self._end_ids:
            self.finished = True
        elif not ask(self._matcher.consume_token, token_id):
            self._end_or_raise()
        elif self._matcher.is_stopped():
            self.finished = True

    def _end_or_raise(self) -> None:
        """After an error of the matcher: no way on is an end, everything else is a failure."""
        self.finished = True
        if not _at_an_end(self._matcher):
            raise InvalidRequest(
                f"The {TITLES[self._name]} became too complex to follow after {self._tokens} tokens ({_reason(self._matcher)}). Make it simpler.",
                field=self._name,
            )


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of a model as constraints see them."""

    trie: Any  # llguidance's tree of them
    words: NDArray[np.bool_]  # which can be part of a text
    pieces: Sequence[bytes]


class Constraints:
    """Makes the constraints of one model, each shape compiled once. Several threads may use it."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._vocabulary = functools.lru_cache(maxsize=1)(self._read_vocabulary)
        self._compiled = functools.lru_cache(maxsize=KEPT)(functools.partial(DeepCalls().make, self._compile))

    def constraint(
        self, params: GenerationParams, end_ids: Set[int], prompt_ids: Sequence[int] = (), calls: CallText | None = None, begun: str = ""
    ) -> Constraint | None:
        """What the parameters or calls of tools ask for; None where the text is free. After a prompt that opens thinking it holds for what follows that.

        `begun` is what the prompt has of the text already: the whole is to fit.

        Raises:
            InvalidRequest: the shape is not right, too large, or no text fits it, or none that begins so.
        """
        shape = ("tools", calls) if calls is not None and calls.frame is not None else shape_of(params)
        if shape is None:
            return None
        vocabulary = self._vocabulary()
        end = b"".join(vocabulary.pieces[token_id] for token_id in prompt_ids[-LONGEST_TAG:] if token_id < len(vocabulary.pieces))
        may_think = calls.thinking if calls is not None and shape[0] == "json_schema" else ()
        opened = () if begun or shape[0] == "tools" else self._opened(end, may_think)
        special = self._special(shape[1].marks if isinstance(shape[1], CallText) else CHANNEL_MARKS if len(opened) == 1 else opened)
        matcher, words = self._compiled(*shape, opened), vocabulary.words
        if special:
            words = words.copy()
            words[list(special.values())] = True

        def begin() -> ShapedText:
            return ShapedText(ask(matcher.deep_copy), words, end_ids, shape[0])

        if begun:
            return self._going_on(begin, shape[0], begun)
        closing = b"" if opened else closing_tag(end)
        return AfterThinking(begin(), vocabulary, closing) if closing else begin()

    def _opened(self, end: bytes, may_think: tuple[str, ...]) -> tuple[str, ...]:
        """What comes before the answer by the end of a prompt: what that has opened of a reply in channels, or the tags of thinking that may be opened."""
        if (channel := opened_by(end)) and len(self._special(CHANNEL_MARKS)) == len(CHANNEL_MARKS):
            return (channel,)
        is_over = bool(may_think) and end.rstrip().endswith(may_think[-1].encode())  # the prompt has an empty block: the model is not to think
        return () if closing_tag(end) or is_over else may_think

    def _before(self, opened: tuple[str, ...]) -> tuple[str, str]:
        """The same as a part of a rule, and the rules for it."""
        if len(opened) == 1:
            return before_answer(opened[0], self._special(CHANNEL_MARKS))
        return ("thought?", write_thought(opened[0], opened[1], self._special(opened))) if opened else ("", "")

    def _going_on(self, begin: Callable[[], ShapedText], name: str, begun: str) -> Constraint:
        """The same for who goes on with a reply: first with its thinking, where that is still open; words before a call of a tool are no part of it."""
        vocabulary, thought = self._vocabulary(), split_thinking(begun)
        closing = next((closing for opening, closing in THINKING_TAGS if thought.open and begun.lstrip().startswith(opening)), "")
        if closing:
            return AfterThinking(begin(), vocabulary, closing.encode())
        text = begin()
        for token_id in ask(vocabulary.trie.greedy_tokenize, begun if thought.open else thought.answer):
            if not text.allows(token_id):
                if name == "tools":
                    return begin()
                raise InvalidRequest(f"What the reply begins with does not fit the {TITLES[name]}. Change one of the two, or have it written anew.", field=name)
            text.advance(token_id)
        return text

    def _special(self, marks: Iterable[str]) -> dict[str, int]:
        """Which marks of calls or channels are special tokens of this model, and their ids."""
        found = {}
        for mark in marks:
            ids = self._tokenizer.encode(mark, add_special=False, parse_special=True)
            if len(ids) == 1 and self._tokenizer.is_special(ids[0]) and ids[0] < self._vocab_size:
                found[mark] = ids[0]
        return found

    def _compile(self, name: str, value: str | tuple[str, ...] | CallText, opened: tuple[str, ...]) -> Any:
        """The shape as a matcher at its beginning, behind what comes before an answer."""
        import llguidance

        text = write_calls(value, self._special(value.marks)) if isinstance(value, CallText) else write_shape(name, value, self._before(opened))
        trie = self._vocabulary().trie
        limits = llguidance.LLParserLimits(
            max_items_in_row=MAX_ITEMS_IN_ROW,
            step_lexer_fuel=STEP_LEXER_FUEL, step_max_items=STEP_MAX_ITEMS, max_lexer_states=MAX_LEXER_STATES, verbose_errors=False,
        )  # fmt: skip
        matcher = ask(functools.partial(llguidance.LLMatcher, trie, text, log_level=0, limits=limits))
        if not matcher.is_error():
            ask(matcher.compute_bitmask)  # whether anything can come first; changes nothing, and copies know it already
            if matcher.is_error() and _at_an_end(matcher):
                raise InvalidRequest(f"No text fits the {TITLES[name]}, or none that this model's vocabulary can write. Change it.", field=name)
        if name == "json_schema" and not matcher.is_error() and (inside := self._inside(matcher)).is_error():
            matcher = inside  # too many properties: better said now than in the middle of a reply
        if matcher.is_error():
            raise InvalidRequest(f"The {TITLES[name]} cannot be used: {_reason(matcher)}. Change it, or say in the prompt what you need.", field=name)
        return matcher

    def _inside(self, matcher: Any) -> Any:
        """A copy inside the object that a schema asks for; an equal one where it asks for none, or no single token opens it."""
        copy, pieces = ask(matcher.deep_copy), self._vocabulary().pieces
        if b"{" in pieces and ask(copy.validate_tokens, [pieces.index(b"{")]):
            ask(copy.consume_token, pieces.index(b"{"))
        return copy

    def _read_vocabulary(self) -> Vocabulary:
        """All tokens, once a model."""
        import llguidance

        known = range(min(self._vocab_size, self._tokenizer.vocab_size))
        special = [token_id for token_id in known if self._tokenizer.is_special(token_id) or token_id in self._tokenizer.end_ids]
        pieces = [self._tokenizer.piece(token_id) for token_id in known]
        pieces += [b""] * (self._vocab_size - len(pieces))
        words = np.array([bool(piece) for piece in pieces])
        words[special] = False
        trie = llguidance.LLTokenizer(cast("llguidance.TokenizerWrapper", _Words(pieces, special)))
        return Vocabulary(trie, words, pieces)


class _Words:
    """A vocabulary as llguidance wants it. It adds an end token of its own, so that those of the model stay ours to judge."""

    is_tokenizer_wrapper = True
    eos_token_id = None
    bos_token_id = None

    def __init__(self, tokens: list[bytes], special: list[int]) -> None:
        self.tokens = tokens
        self.special_token_ids = special

    def __call__(self, text: bytes) -> list[int]:
        return []  # how a text is cut into tokens is the model's choice


def _at_an_end(matcher: Any) -> bool:
    """Whether an error of the matcher says only that no token can come next."""
    return str(matcher.get_error()).startswith("NoExtension")


def _reason(matcher: Any) -> str:
    """What the library says, on one line: without the places in our own notation of the shape, which nobody wrote."""
    lines = (line.strip() for line in str(matcher.get_error()).splitlines())
    text = " ".join(line for line in lines if line and not NOT_TOLD.match(line))
    return WHERE.sub("", text)[:REASON_LIMIT].rstrip(" .") or "it gives no reason"
