"""Training on a graphics card: a model of 1.2 billion random weights, held in 4 and 8 bits and in bfloat16; memory as it was forecast and as it was.

Prints its figures (`pytest -m gpu -s tests/training/test_gpu.py`): docs/lab-notes.md has those of one machine.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.loaders.folder_header import read_folder_header
from modules.loaders.shape import folder_shape
from modules.training import adapter
from modules.training.base_model import compute_dtype, load_base
from modules.training.forecast import PROCESS_BYTES, needed_bytes
from modules.training.options import TrainingOptions
from modules.training.packing import collate
from modules.training.preference import preference_loss
from modules.training.samples import IGNORED, Encoded
from tests.tiny_models import write_tokenizer

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(600)]

LAYERS, WIDTH, INNER, VOCABULARY, TOKENS, ROWS, STEPS = 16, 2048, 8192, 32_000, 1024, 2, 12
HELD: dict[str, dict[str, Any]] = {
    "4bit": {"precision": "4bit"},
    "4bit, checkpointing": {"precision": "4bit", "gradient_checkpointing": True},
    "4bit, DoRA, 8-bit optimizer": {"precision": "4bit", "dora": True, "optimizer": "adamw_8bit"},
    "8bit, checkpointing": {"precision": "8bit", "gradient_checkpointing": True},
    "8bit, DoRA": {"precision": "8bit", "dora": True, "gradient_checkpointing": True},
    "bfloat16": {"precision": "auto"},
    "bfloat16, PiSSA": {"precision": "auto", "pissa": True, "gradient_checkpointing": True},
    "bfloat16, tables": {"precision": "auto", "train_embeddings": True, "gradient_checkpointing": True},
}
# By how much a forecast made before anything is loaded may miss: the look of two real steps before a run says it better
LEAST, MOST = 0.6, 1.8
READ_BACK = 0.02  # of the largest logit: tables and beginnings are rounded to bfloat16 as they are read


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    path = tmp_path_factory.mktemp("gpu") / "llama-1b"
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=WIDTH // 64,
        num_key_value_heads=WIDTH // 256, max_position_embeddings=2048, bos_token_id=0, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False,
        dtype="bfloat16",
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(path)
    write_tokenizer(path)
    del model
    emptied()
    return path


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    emptied()
    yield
    emptied()


def emptied() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def optimizer_of(model: Any, options: TrainingOptions) -> Any:
    import torch

    groups = adapter.parameter_groups(model, options)
    if options.optimizer != "adamw_8bit":
        return torch.optim.AdamW(groups)
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(groups)


def told(figures: str) -> None:
    print(f"\n{figures}")  # noqa: T201 - for the notes; they are what such a machine is rented for


def batch_of(model: Any) -> Any:
    import torch

    return 1 + torch.arange(ROWS * TOKENS, device=model.device).view(ROWS, TOKENS) * 13 % (VOCABULARY - 1)  # not the padding, whose row is zero: gradients overflow


def last_logits(model: Any, ids: Any) -> Any:
    import torch

    model.eval()
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False, logits_to_keep=4).logits.float()


@pytest.mark.parametrize("method", HELD)
def test_a_large_model_learns_in_the_memory_that_was_forecast(folder: Path, tmp_path: Path, method: str) -> None:
    import torch
    from peft import PeftModel

    options = TrainingOptions(rank=16, alpha=32, learning_rate=5e-4, micro_batch_size=ROWS, cutoff_tokens=TOKENS, **HELD[method])
    header = read_folder_header(folder)
    assert header.parameters > 1_000_000_000
    forecast = needed_bytes(folder_shape(header), options, graphics=True) - PROCESS_BYTES
    began = time.monotonic()
    model = adapter.attach(load_base(folder, options), options, initial=tmp_path / "initial")
    assert model.device.type == "cuda"
    loaded_s, held = time.monotonic() - began, torch.cuda.memory_allocated()
    optimizer, ids, losses = optimizer_of(model, options), batch_of(model), []
    for number in range(STEPS):
        if number == 2:  # the first ones choose kernels
            torch.cuda.synchronize()
            began = time.monotonic()
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    seconds = (time.monotonic() - began) / (STEPS - 2)
    peak = torch.cuda.max_memory_allocated()
    told(
        f"{method}: {torch.cuda.get_device_name()}, {header.parameters / 1e9:.2f} B parameters, held {held / 1e9:.2f} GB, peak {peak / 1e9:.2f} GB, "
        f"forecast {forecast / 1e9:.2f} GB ({forecast / peak:.2f}), loaded in {loaded_s:.1f} s, {ids.numel() / seconds:.0f} tokens/s, "
        f"loss {losses[0]:.3f} → {losses[-1]:.3f}"
    )
    assert losses[-1] < losses[0] - 0.5
    assert LEAST <= forecast / peak <= MOST

    adapter.save(model, options, tmp_path / "saved", initial=tmp_path / "initial")
    wanted = last_logits(model, ids)
    del model, optimizer, loss
    emptied()
    read = PeftModel.from_pretrained(load_base(folder, options), str(tmp_path / "saved"))
    found = last_logits(read, ids)
    told(f"{method}: read back within {float((found - wanted).abs().max()):.2g} of {float(wanted.abs().max()):.2g}")
    assert float((found - wanted).abs().max()) <= READ_BACK * float(wanted.abs().max())


def test_a_quantized_model_is_merged_after_dequantizing(folder: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel

    options = TrainingOptions(rank=16, precision="4bit", learning_rate=1e-3)
    model = adapter.attach(load_base(folder, options), options, initial=tmp_path / "initial")
    optimizer, ids = optimizer_of(model, options), batch_of(model)[:, :128]
    for _ in range(6):
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    wanted = last_logits(model, ids)
    adapter.save(model, options, tmp_path / "saved", initial=tmp_path / "initial")
    with model.disable_adapter():
        before = last_logits(model, ids)
    del model, optimizer
    emptied()
    base = load_base(folder, options).dequantize(dtype=torch.float32)
    found = last_logits(PeftModel.from_pretrained(base.float(), str(tmp_path / "saved")).merge_and_unload(), ids)
    told(f"merged within {float((found - wanted).abs().max()):.2g}, the adapter changed {float((wanted - before).abs().max()):.2g}")
    assert float((found - wanted).abs().max()) <= 0.1 * float((wanted - before).abs().max())  # the running model reckons in bfloat16


@pytest.mark.parametrize("preference", ["dpo", "orpo", "kto"])
def test_preferences_are_learned_there_too(folder: Path, tmp_path: Path, preference: Any) -> None:
    options = TrainingOptions(rank=8, precision="4bit", gradient_checkpointing=True, preference=preference, learning_rate=5e-4)
    model = adapter.attach(load_base(folder, options), options, initial=tmp_path / "initial")
    encoded = []
    for number in range(2):
        prompt = [1 + (number * 31 + place * 7) % (VOCABULARY - 1) for place in range(40 + 10 * number)]
        for role, start in (("chosen", 100), ("rejected", 900)):
            answer = [(start + number * 50 + place * 11) % VOCABULARY for place in range(30)]
            encoded.append(Encoded((*prompt, *answer), (IGNORED,) * len(prompt) + tuple(answer), "made", role=role, pair=number))  # type: ignore[arg-type]
    batch = collate(encoded, tuple((place,) for place in range(4)), 0)
    batch |= {name: batch[name].to(model.device) for name in ("input_ids", "labels", "position_ids", "attention_mask") if name in batch}
    optimizer, margins = optimizer_of(model, options), []
    for _ in range(10):
        loss, figures = preference_loss(model, batch, options)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        margins.append(figures["margin"])
    assert margins[-1] > margins[0] + 0.05
    assert figures["accuracy"] == 1


def test_the_card_reckons_in_bfloat16_where_it_can() -> None:
    import torch

    wanted = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    assert compute_dtype(TrainingOptions()) is wanted
    assert compute_dtype(TrainingOptions(precision="4bit")) is wanted
