"""Renders chat templates in a child process with limits on time, memory and size: templates come from strangers.

Knows processes and nothing of Jinja. A template that breaks a limit costs its child; the next rendering starts a new one.
On Linux and macOS the child's memory is bounded; on Windows time and size are.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.core.errors import AppError, ContextOverflow, EngineCrashed, InvalidRequest, error_from
from modules.prompts.ending import Ending, derive_ending
from modules.prompts.template import MAX_RENDERED_CHARS, Rendered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from modules.core.messages import Message
    from modules.core.model import TemplateSource

logger = logging.getLogger(__name__)

TIMEOUT_S = 2.0
MEMORY_BYTES = 512 * 1024 * 1024
START_LIMIT_S = 60.0
CLOSE_S = 1.0
ROOT = Path(__file__).resolve().parents[2]
KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "SYSTEMROOT", "LD_LIBRARY_PATH")


class ChildEnded(Exception):  # noqa: N818 - between the classes of this module
    """The child closed its output; `code` is its exit status."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"exit status {code}")
        self.code = code


class _Child:
    """One render process and the thread that reads its replies."""

    def __init__(self, memory_bytes: int, max_chars: int) -> None:
        environment = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
        environment |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "modules.prompts.render_process", str(memory_bytes), str(max_chars)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=environment, bufsize=-1
        )
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()  # an empty line is the end
        self._reader = threading.Thread(target=self._read, name="template replies", daemon=True)
        self._reader.start()
        try:
            self.reply(START_LIMIT_S)
        except (ChildEnded, queue.Empty) as error:
            self.kill()
            reason = str(error) or f"no answer within {START_LIMIT_S:g} s, the limit"
            raise EngineCrashed(f"The process that renders chat templates did not start: {reason}. See the log.") from error

    def _read(self) -> None:
        pipe = self._process.stdout
        assert pipe is not None
        with pipe:
            for line in pipe:
                self._lines.put(line)
        self._lines.put(b"")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, line: bytes) -> None:
        """Hand over one request."""
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write(line)
            pipe.flush()
        except OSError as error:
            raise ChildEnded(self._process.wait(START_LIMIT_S)) from error

    def reply(self, timeout_s: float) -> dict[str, Any]:
        """The next reply.

        Raises:
            queue.Empty: not in time.
            ChildEnded: there will be none.
        """
        line = self._lines.get(timeout=timeout_s)
        if not line:
            raise ChildEnded(self._process.wait(START_LIMIT_S))
        return dict(json.loads(line))

    def kill(self) -> None:
        """End the process and wait for it."""
        self._process.kill()
        self._process.wait()
        self._reader.join()  # sees the end of the output now
        if self._process.stdin is not None:
            with suppress(OSError):  # what was not yet written to a dead process
                self._process.stdin.close()


class TemplateRenderer:
    """Renders templates in a warm child process. For many threads; they take turns."""

    def __init__(
        self, *, timeout_s: float = TIMEOUT_S, memory_bytes: int = MEMORY_BYTES, max_chars: int = MAX_RENDERED_CHARS
    ) -> None:
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._max_chars = max_chars
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def __enter__(self) -> TemplateRenderer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def render(
        self,
        source: TemplateSource,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> Rendered:
        """The prompt of a conversation: `Template.render` within the limits.

        Raises:
            InvalidRequest: the template is broken, refuses the conversation, or broke a limit.
            ContextOverflow: the conversation or the prompt has too many characters.
        """
        self._check_size(messages)
        reply = self._ask(
            source,
            {
                "kind": "render",
                "messages": [message.model_dump(mode="json") for message in messages],
                "tools": [dict(tool) for tool in tools],
                "add_generation_prompt": add_generation_prompt,
                "continue_final_message": continue_final_message,
                "variables": dict(variables or {}),
            },
        )
        return Rendered(reply["text"], tuple((start, end) for start, end in reply["spans"]), tuple(reply["notes"]))

    def options(self, source: TemplateSource) -> tuple[str, ...]:
        """Variables a person may set for this template; also the check whether it compiles.

        Raises:
            InvalidRequest: the template is not valid (with the line), or broke a limit.
        """
        return tuple(self._ask(source, {"kind": "options"})["variables"])

    def takes_tools(self, source: TemplateSource) -> bool:
        """Whether the template writes tools into the prompt."""
        return bool(self._ask(source, {"kind": "options"})["tools"])

    def ending(self, source: TemplateSource) -> Ending:
        """How replies end under this template.

        Raises:
            InvalidRequest: as `render`.
        """
        render = partial(self.render, source)
        return derive_ending(render, eos_token=source.eos_token, extra_stop=source.stop, variables=self.options(source))

    def close(self) -> None:
        """End the child; a later rendering would start another. A rendering that goes on is left: its child ends with this process."""
        if self._lock.acquire(timeout=CLOSE_S):
            try:
                self._drop()
            finally:
                self._lock.release()

    def _check_size(self, messages: Sequence[Message]) -> None:
        chars = sum(len(message.content) for message in messages)
        if chars > self._max_chars:
            raise ContextOverflow(
                f"The conversation has {chars:,} characters; the limit is {self._max_chars:,}. Shorten it.",
                limit=self._max_chars,
                got=chars,
                field="messages",
            )

    def _ask(self, source: TemplateSource, request: dict[str, Any]) -> dict[str, Any]:
        """One request and its answer. A child that ends by itself is replaced once: it may have died before."""
        try:
            line = json.dumps({**request, "source": source.model_dump(mode="json"), "timeout_s": self._timeout_s}).encode() + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest(f"Template variables and tools must be plain JSON: {error}.", field="template_variables") from error
        if len(line) > 16 * self._max_chars:
            raise ContextOverflow(
                f"The request has {len(line):,} bytes; the limit is {16 * self._max_chars:,}. Shorten the conversation or its tools.",
                limit=16 * self._max_chars,
                got=len(line),
            )
        with self._lock:
            try:
                reply = self._exchange(line)
            except ChildEnded:
                try:
                    reply = self._exchange(line)
                except ChildEnded as error:
                    raise self._stopped(source, f"ended its process (exit status {error.code})") from error
            except queue.Empty:
                self._drop()
                raise self._stopped(source, f"did not finish within {self._timeout_s:g} s, the limit, and was stopped") from None
            if "out_of_memory" in reply:
                self._drop()
                limit = f"{self._memory_bytes // 2**20} MiB"
                raise self._stopped(source, f"needed more than {limit} of memory, the limit, and was stopped")
        if "error" in reply:
            raise error_from(reply["error"], reply["message"], reply["details"])
        return reply

    def _exchange(self, line: bytes) -> dict[str, Any]:
        if self._child is None or not self._child.alive:
            self._drop()
            self._child = _Child(self._memory_bytes, self._max_chars)
        try:
            self._child.send(line)
            return self._child.reply(self._timeout_s)
        except ChildEnded:
            self._drop()
            raise

    def _drop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _stopped(self, source: TemplateSource, what: str) -> AppError:
        logger.warning("chat template (%s) %s", source.origin, what)
        return InvalidRequest(
            f"The chat template ({source.origin}) {what}. Choose a prompt template of Paddock for this model instead.",
            field="template",
        )
