"""Steps of the tests of loaded models: let one write, crash one, make an adapter for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from modules.core.generation import GenerationRequest, TextPrompt
from modules.core.params import GenerationParams
from modules.engine.client import EngineClient
from modules.services.app import App
from modules.services.models import ModelService
from tests.services.conftest import until

OPTIONS = {"context_length": 256, "slots": 2, "threads": 1, "threads_batch": 1}
StartApp = Callable[..., App]


async def writes(client: EngineClient) -> bool:
    request = GenerationRequest(prompt=TextPrompt(text="Once upon a"), params=GenerationParams(temperature=0, max_tokens=3))
    return bool("".join([delta.text async for delta in await client.submit(request)]))


async def crash(models: ModelService, client: EngineClient) -> None:
    os.kill(client.pid, signal.SIGKILL)
    await until(lambda: client.name not in models.loaded_names())


def write_adapter(path: Path, starter: Path, seed: int = 7) -> None:
    """A LoRA in GGUF form with a strong effect on the starter model."""
    shape = {tensor.name: tensor.shape for tensor in gguf.GGUFReader(starter).tensors}["blk.0.ffn_up.weight"]
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 4.0)
    draw = np.random.default_rng(seed)
    writer.add_tensor("blk.0.ffn_up.weight.lora_a", draw.normal(0, 1, (4, int(shape[0]))).astype(np.float32))
    writer.add_tensor("blk.0.ffn_up.weight.lora_b", draw.normal(0, 1, (int(shape[1]), 4)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
