"""A child process with the fake model, for tests of the connection: it can be slow, hang, die or fail as its options say."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from modules.core.errors import OutOfMemory
from modules.core.generation import ChatPrompt, GenerationRequest, TextPrompt, TokenPrompt
from modules.core.model import LoadedModel, ModelInfo
from modules.engine.channel import guard_process, take_stdio
from modules.engine.prompt_maker import Prepared
from modules.engine.worker import LoadCommand, Progress, Ready, serve
from tests.fakes import ByteTokenizer, FakeRunner


class SlowRunner(FakeRunner):
    """Takes a while for each step; a prompt with `!` hangs it, one with `?` fails it."""

    step_s = 0.0

    def forward(self, rows):
        if any(ord("!") in row.token_ids for row in rows):
            time.sleep(1000)
        if any(ord("?") in row.token_ids for row in rows):
            raise RuntimeError("asked to fail")
        time.sleep(self.step_s)
        self.entered.acquire(blocking=False)
        return super().forward(rows)


class BytePrompts:
    def prepare(self, request: GenerationRequest) -> Prepared:
        prompt = request.prompt
        if isinstance(prompt, TokenPrompt):
            return Prepared(prompt.token_ids)
        if isinstance(prompt, TextPrompt):
            return Prepared([256, *prompt.text.encode()])
        text = "".join(message.content for message in prompt.messages)
        return Prepared([256, *text.encode()], stop=("\nUser:",), dropped_messages=3, starts_thinking="<think>")

    def count(self, prompt: ChatPrompt) -> int:
        return sum(len(message.content) for message in prompt.messages)

    def close(self) -> None:
        """Nothing was started."""

    def examine(self, question: str, values: Mapping[str, Any]) -> dict[str, Any]:
        return {"question": question, **values}

    def tokenize(self, text: str) -> list[int]:
        return list(text.encode())


def load(command: LoadCommand, progress: Progress) -> Ready:
    options = command.options
    os.write(1, b"a library prints to standard output while loading\n")
    progress("Reading weights", 0.5)
    if options.get("fail"):
        raise OutOfMemory(f"{command.name} needs 10 GB and 1 GB are free; choose a smaller file.", needed=10)
    if options.get("surprise"):
        raise KeyError("layer 7")
    if options.get("signal"):
        os.write(2, b"GGML_ASSERT(n_layer > 0) failed\n")
        os.kill(os.getpid(), options["signal"])
    if options.get("slow"):
        time.sleep(1000)
    runner = SlowRunner(slots=options.get("slots", 4), context=options.get("context", 4096), batch=64)
    runner.step_s = options.get("step_s", 0.0)
    runner.memory_tokens = None
    info = ModelInfo(name=command.name, path=command.path, format="fake")

    def set_adapters(adapters) -> None:
        if any(adapter.scale < 0 for adapter in adapters):
            raise OutOfMemory("No room for the adapter.")
        runner.rule = (lambda ids: 65) if adapters else (lambda ids: 66)

    model = LoadedModel(
        runner, ByteTokenizer(), info, set_adapters=set_adapters, memory_bytes=int(np.int64(5)), notes=("A note.",),
        spill_bytes=options.get("spill_bytes", 0),
    )  # fmt: skip
    return Ready(model, "fake", BytePrompts(), disk_gb=options.get("disk_gb", 0.0))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    channel = take_stdio()
    guard_process()
    serve(channel, load)
    os._exit(0)
