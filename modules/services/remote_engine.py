"""A model of another server as an engine: requests go to its pool of addresses, replies come back as from a child process.

Holds no memory and no process. What the other side does not offer is answered with a sentence. One event loop uses it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from modules.core.dialogue import one_instruction
from modules.core.errors import AppError, InvalidRequest, NoModelLoaded, NotOffered
from modules.core.generation import (
    ChatPrompt,
    Delta,
    EmbeddingRequest,
    Embeddings,
    EngineCard,
    EngineCounters,
    GenerationRequest,
    NextTokens,
    Started,
    TextPrompt,
    Usage,
)
from modules.core.model import Adapter
from modules.core.params import GenerationParams
from modules.engine.client_generation import ClientGeneration, Inbox
from modules.loaders.remote.options import Kind
from modules.loaders.remote.pieces import read_logprobs, usage_of
from modules.loaders.remote.pool import Pool
from modules.loaders.remote.requests import SEED_LIMIT, Ask

log = logging.getLogger(__name__)

ACCEPT_S = 2.0  # a refusal that comes so early is raised by `submit`; later ones end the reply
TOKENIZERS: tuple[tuple[Kind, str], ...] = (
    ("vllm", "prompt"),
    ("sglang", "prompt"),
    ("llama-server", "content"),
)


class RemoteEngine:
    """One model of a pool."""

    def __init__(self, pool: Pool, model: str, card: EngineCard) -> None:
        self.name = card.name
        self.card = card
        self.on_exit: Callable[[str], None] | None = None
        self.on_counters: Callable[[EngineCounters], None] | None = None
        self._pool = pool
        self._model = model
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._running: dict[int, tuple[Inbox, asyncio.Task[None]]] = {}
        self._closed = False
        self._used_s = time.monotonic()
        self._spent = Usage()
        self._cancelled = 0

    @property
    def alive(self) -> bool:
        """Whether it can be asked. A server that does not answer now may do so again."""
        return not self._closed

    @property
    def idle_s(self) -> float:
        """For how long nobody has used it; 0 while a reply is being written."""
        return 0.0 if self._running else time.monotonic() - self._used_s

    async def ended(self) -> None:
        """Return when it was closed, which only `close` does."""

    # ---- writing ---------------------------------------------------------------------------------------------------

    async def submit(self, request: GenerationRequest) -> ClientGeneration:
        """Send a request. Returns when it was taken, refused, or after two seconds; iterate the result.

        Raises:
            AppError: it was refused, or no address answers.
        """
        if self._closed:
            raise self._unloaded()
        self._check(request)
        seed = request.params.seed if request.params.seed is not None else secrets.randbelow(SEED_LIMIT)
        ask = Ask(told_messages(request), self._model, seed % SEED_LIMIT, self.card.context_length)
        number, inbox, taken = next(self._numbers), Inbox(), asyncio.Event()
        task = asyncio.create_task(self._write(inbox, ask, taken))
        self._running[number] = inbox, task
        task.add_done_callback(partial(self._ended, number))
        generation = ClientGeneration(inbox, self.name, partial(self._cancel, number))
        waiting = asyncio.ensure_future(taken.wait())
        try:
            await asyncio.wait({waiting, task}, timeout=ACCEPT_S, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            await generation.aclose()
            raise
        finally:
            waiting.cancel()
        if inbox.error is not None and inbox.started is None:
            raise inbox.error
        finalizer = weakref.finalize(generation, self._drop, number)
        finalizer.atexit = False
        return generation

    def _check(self, request: GenerationRequest) -> None:
        server = self._pool.server.name
        if isinstance(request.prompt, ChatPrompt) and request.prompt.template is not None:
            raise InvalidRequest(
                f"“{server}” puts messages into its own chat template, so a prompt template cannot be applied there. Choose the model's own "
                "template in the settings, or a model of this machine.",
                field="template",
            )
        if request.params.prompt_only or request.params.prompt_logprobs is not None:
            raise self._not_offered("is not asked about the tokens of prompts; leave out echo with logprobs, prompt_logprobs and a max_tokens of 0")
        if request.tells_ids:
            raise self._not_offered("is not asked for token ids; leave return_token_ids out")

    async def _write(self, inbox: Inbox, ask: Ask, taken: asyncio.Event) -> None:
        """The life of one request."""
        written = 0

        def on_start() -> None:
            if inbox.started is None:
                inbox.start(Started(prompt_tokens=0, reused_tokens=0, dropped_messages=0, seed=ask.seed))
            taken.set()

        def emit(delta: Delta) -> None:
            nonlocal written
            written += 1
            if delta.usage is not None:
                self._spend(delta.usage)
            if not inbox.ended:
                inbox.push(delta)

        try:
            await self._pool.write(ask, emit, on_start)
        except AppError as error:
            inbox.fail(error)
        except asyncio.CancelledError:
            self._cancelled += 1
            if self._closed:
                inbox.fail(self._unloaded())
            elif not inbox.ended:
                inbox.push(Delta(finish_reason="cancelled", usage=Usage(completion_tokens=written)))

    def _ended(self, number: int, task: asyncio.Task[None]) -> None:
        """A request has come to its end, also one that was cancelled before its first step."""
        inbox, _ = self._running.pop(number)
        self._used_s = time.monotonic()
        if not task.cancelled() and task.exception() is not None:
            log.error("A request to %s failed", self.name, exc_info=task.exception())
            inbox.fail(AppError("Something in Paddock itself went wrong; the text so far is kept. Try again."))
        inbox.fail(self._unloaded())  # nothing, where it has ended
        if self.on_counters is not None:
            self.on_counters(self._counters())

    def _spend(self, usage: Usage) -> None:
        spent = self._spent
        self._spent = Usage(
            prompt_tokens=spent.prompt_tokens + usage.prompt_tokens,
            reused_tokens=spent.reused_tokens + usage.reused_tokens,
            completion_tokens=spent.completion_tokens + usage.completion_tokens,
        )

    async def _cancel(self, number: int, forget: bool) -> None:
        inbox, task = self._running.get(number, (None, None))
        if inbox is not None and task is not None:
            if forget:
                inbox.abandon()
            task.cancel()

    def _drop(self, number: int) -> None:
        """A generation was collected, perhaps on another thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel_now, number)

    def _cancel_now(self, number: int) -> None:
        if number in self._running:
            self._running[number][1].cancel()

    # ---- questions -------------------------------------------------------------------------------------------------

    async def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text, where all addresses are of kinds that tell them.

        Raises:
            NotOffered: they are not.
        """
        fields = dict(TOKENIZERS)
        kinds = self._pool.kinds()
        if not kinds or any(kind not in fields for kind in kinds):
            raise self._not_offered("does not tell how a text is split into tokens")
        self._used_s = time.monotonic()

        def body(kind: Kind, model: str) -> Mapping[str, Any]:
            return {"model": model, fields.get(kind, "prompt"): text}

        answer = await self._pool.ask(self._model, "/tokenize", body)
        tokens = answer.get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise self._not_offered("does not tell how a text is split into tokens")
        return tokens

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Not asked there.

        Raises:
            NotOffered: always.
        """
        raise self._not_offered("is not asked what text token ids stand for; send the text itself")

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Not asked there.

        Raises:
            NotOffered: always.
        """
        raise self._not_offered("is not asked for vectors; ask it directly, or load an embedding model on this machine")

    async def score(self, token_ids: Sequence[int], adapters: Sequence[Adapter] | None = None, person: str = "") -> list[float]:
        """Not asked for.

        Raises:
            NotOffered: always.
        """
        raise self._not_offered("is not asked for scores; load a model on this machine")

    async def count(self, prompt: ChatPrompt) -> int:
        """Not known here: the template is applied by the server.

        Raises:
            NotOffered: always.
        """
        raise self._not_offered("does not tell how many tokens a conversation has before it is sent")

    async def examine(self, question: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Not known here: messages go to the server, which makes the prompt.

        Raises:
            NotOffered: always.
        """
        raise self._not_offered("makes the prompt itself and does not show it")

    async def next_tokens(
        self, prompt: TextPrompt, k: int, adapters: Sequence[Adapter] | None = None, params: GenerationParams | None = None
    ) -> NextTokens:
        """The k likeliest next tokens after a text, best first.

        Raises:
            NotOffered: the server reports no log-probabilities, or those after its samplers are asked for.
        """
        if params is not None:
            raise self._not_offered("does not tell the probabilities that its samplers leave")
        if not prompt.add_bos:
            raise self._not_offered("decides itself whether a text begins with the token for that")

        def body(kind: Kind, model: str) -> Mapping[str, Any]:
            return {
                "model": model,
                "prompt": prompt.text,
                "max_tokens": 1,
                "logprobs": max(1, k),
                "temperature": 1.0,
            }

        self._used_s = time.monotonic()
        answer = await self._pool.ask(self._model, "/v1/completions", body)
        choices = answer.get("choices")
        first = (
            choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else {}
        )
        found = read_logprobs(first.get("logprobs"))
        if not found or not found[0].top:
            raise self._not_offered("does not tell the probabilities of next tokens")
        usage = usage_of(answer.get("usage"))
        self._spend(usage)
        return NextTokens(tuple(sorted(found[0].top, key=lambda entry: -entry.logprob)[:k]), usage)

    async def set_adapters(self, adapters: Sequence[Adapter]) -> None:
        """None can be used.

        Raises:
            NotOffered: there are some.
        """
        if adapters:
            raise self._not_offered(
                "cannot use the LoRA adapters of this machine; load them there, they are models of their own"
            )

    async def counters(self) -> EngineCounters:
        """What was asked of it from here; the server's own work is not known."""
        return self._counters()

    def _counters(self) -> EngineCounters:
        waiting = sum(inbox.started is None for inbox, _ in self._running.values())
        return EngineCounters(
            slots=0,
            running=len(self._running) - waiting,
            waiting=waiting,
            steps=0,
            prefill_tokens=self._spent.prompt_tokens - self._spent.reused_tokens,
            reused_tokens=self._spent.reused_tokens,
            decode_tokens=self._spent.completion_tokens,
            cancelled=self._cancelled,
            cached_tokens=0,
            capacity_tokens=0,
        )

    async def close(self) -> None:
        """Forget it: running replies end with a sentence, and the server is told to stop."""
        self._closed = True
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _not_offered(self, what: str) -> NotOffered:
        return NotOffered(f"“{self._pool.server.name}” {what}.")

    def _unloaded(self) -> NoModelLoaded:
        return NoModelLoaded(
            f"{self.name} was unloaded; the text so far is kept. Load it again or choose another model."
        )


def told_messages(request: GenerationRequest) -> GenerationRequest:
    """The request with its messages told as one instruction, where they are to be; a server begins the reply itself."""
    prompt = request.prompt
    if not isinstance(prompt, ChatPrompt) or prompt.dialogue is None:
        return request
    messages = one_instruction(prompt.messages, prompt.dialogue, continues=prompt.continue_final_message)
    told = messages if prompt.continue_final_message else messages[:1]
    return request.model_copy(update={"prompt": prompt.model_copy(update={"messages": told, "dialogue": None})})
