"""Child process that compiles and runs templates nobody has checked: `python -m modules.prompts.render_process BYTES CHARS`.

One JSON request a line on standard input, one JSON reply a line on standard output; ends when its input ends. BYTES bounds its memory,
CHARS the text of a prompt. The parent (`renderer.py`) watches the clock; should the parent be gone, an alarm ends a rendering too.
Imports Jinja and core only.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from modules.core.errors import AppError
from modules.core.messages import Message
from modules.core.model import TemplateSource
from modules.prompts.template import Template

if TYPE_CHECKING:
    from collections.abc import Mapping

KEPT_TEMPLATES = 8
GRACE_S = 1.0  # the parent's limit comes first, so that the person is told which one it was


def main() -> int:
    """Answer requests until there are no more."""
    memory_bytes, max_chars = (int(value) for value in sys.argv[1:3])
    requests, replies = sys.stdin.buffer, _own_output()
    if sys.platform != "win32":
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _limit_memory(memory_bytes)
    _send(replies, {"ready": os.getpid()})
    templates: OrderedDict[TemplateSource, Template] = OrderedDict()
    for line in requests:
        try:
            reply = _answer(json.loads(line), templates, max_chars)
        except AppError as error:
            reply = {"error": error.kind, "message": error.message, "details": error.details}
        except MemoryError:
            templates.clear()
            _send(replies, {"out_of_memory": True})
            return 3  # what is left of the memory is in pieces: the next request gets a new process
        _send(replies, reply)
    return 0


def _own_output() -> BinaryIO:
    """The reply pipe; anything printed by accident goes to standard error."""
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return pipe


def _limit_memory(memory_bytes: int) -> None:
    """Bound the address space; Windows has no such limit, there the clock alone stops a greedy template."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            with suppress(ValueError, OSError):  # macOS refuses the first and may ignore the second
                resource.setrlimit(limit, (memory_bytes, memory_bytes))


def _answer(request: Mapping[str, Any], templates: OrderedDict[TemplateSource, Template], max_chars: int) -> dict[str, Any]:
    """Do what one request asks, under an alarm."""
    _alarm(request["timeout_s"] + GRACE_S)
    try:
        source = TemplateSource.model_validate(request["source"])
        template = templates.pop(source, None) or Template(source, max_chars=max_chars)
        templates[source] = template
        if len(templates) > KEPT_TEMPLATES:
            templates.popitem(last=False)
        if request["kind"] == "options":
            return {"variables": template.variables(), "tools": template.reads_tools()}
        rendered = template.render(
            [Message.model_validate(message) for message in request["messages"]],
            tools=request["tools"],
            add_generation_prompt=request["add_generation_prompt"],
            continue_final_message=request["continue_final_message"],
            variables=request["variables"],
        )
        return {"text": rendered.text, "spans": rendered.spans, "notes": rendered.notes}
    finally:
        _alarm(0)


def _alarm(seconds: float) -> None:
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _send(pipe: BinaryIO, reply: Mapping[str, Any]) -> None:
    pipe.write(json.dumps(reply).encode() + b"\n")
    pipe.flush()


if __name__ == "__main__":
    sys.exit(main())
