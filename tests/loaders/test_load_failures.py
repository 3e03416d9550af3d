"""Loads that cannot work end in a sentence with a cure, and leave the process usable."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import (
    AppError,
    InvalidRequest,
    LoadFailed,
    MissingRequirement,
    OutOfMemory,
    UnsupportedFormat,
)
from modules.core.model import Adapter, LoadedModel, Row
from modules.loaders import machine
from modules.loaders.registry import LOADERS
from tests.loaders.test_gguf_header import write
from tests.tiny_models import TinyFiles, write_adapter, write_folder


def load(path: Path, name: str = "", **options: Any) -> LoadedModel:
    spec = next(row for row in LOADERS if (row.name == name if name else row.accepts(path)))
    more = {"threads_batch": 1} if spec.name == "llama.cpp" else {}
    return spec.load(path, spec.options(threads=1, **more, **options), lambda *_: None)


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the machine seem to have so many bytes free."""

    def set_bytes(count: int) -> None:
        for module in ("machine", "llama_cpp.memory"):
            monkeypatch.setattr(f"modules.loaders.{module}.available_bytes", lambda: count + machine.RESERVE_BYTES)

    return set_bytes


def test_half_a_gguf(tiny: TinyFiles, tmp_path: Path) -> None:
    path = tmp_path / "half.gguf"
    shutil.copy(tiny.gguf, path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UnsupportedFormat, match="cut short"):
        load(path)


def test_a_gguf_that_only_the_native_loader_can_refuse(tmp_path: Path, tiny: TinyFiles) -> None:
    """The header is in order; the architecture is unknown, or tensors are missing."""
    with pytest.raises(UnsupportedFormat, match=rf"llama-cpp-python {metadata.version('llama-cpp-python')} does not know"):
        load(write(tmp_path / "strange.gguf", "nonsense"))
    with pytest.raises(UnsupportedFormat, match=r"llama\.cpp could not load lacking\.gguf"):
        load(write(tmp_path / "lacking.gguf", "llama", llama__block_count=2))
    model = load(tiny.gguf, slots=1)  # and the next load works
    model.runner.close()


def test_a_model_larger_than_memory(tiny: TinyFiles, small_memory: Any) -> None:
    small_memory(1 << 20)
    with pytest.raises(OutOfMemory, match=r"tiny\.gguf needs about .* MB of memory and .* is free; choose a smaller quantization"):
        load(tiny.gguf)
    with pytest.raises(OutOfMemory, match=r"tiny needs about .* of memory"):
        load(tiny.folder)


def test_a_context_larger_than_memory(tiny: TinyFiles, small_memory: Any) -> None:
    from modules.loaders.gguf_header import read_gguf_header
    from modules.loaders.llama_cpp.memory import estimate, plan_context
    from modules.loaders.llama_cpp.options import LlamaCppOptions
    from modules.loaders.shape import gguf_shape

    header = read_gguf_header(tiny.gguf)
    asked = LlamaCppOptions(context_length=1_000_000, rope_freq_base=1e6)
    needs = estimate(gguf_shape((header,), header.size_bytes), asked)
    small_memory(needs.total(100_000))
    with pytest.raises(OutOfMemory, match=r"a context of (99840|100\d\d\d) fits") as caught:
        plan_context(header, needs, asked)
    assert caught.value.details["context_length"] <= 100_000
    fitting = asked.model_copy(update={"context_length": caught.value.details["context_length"]})
    assert plan_context(header, needs, fitting).context_length == fitting.context_length
    small_memory(needs.total(600))
    plan = plan_context(header, needs, LlamaCppOptions(slots=4))
    assert (plan.context_length, plan.capacity_tokens) == (256, 512)
    assert "512 tokens instead of 1024" in plan.notes[0]


@pytest.mark.parametrize(("scale", "free_tokens", "held"), [(1, 8 * 256 * 4, 8), (1, 8 * 256 * 3, 4), (3000, 8 * 256 * 4, 4)])
def test_many_slots_have_their_whole_context_where_that_takes_little(tiny: TinyFiles, small_memory: Any, scale: int, free_tokens: int, held: int) -> None:
    """A small part of what is free, and no more than a gigabyte (`scale` makes each token of the cache so many times as large)."""
    from modules.loaders.gguf_header import read_gguf_header
    from modules.loaders.llama_cpp.memory import HELD_BYTES, estimate, plan_context
    from modules.loaders.llama_cpp.options import LlamaCppOptions
    from modules.loaders.shape import gguf_shape

    header, options = read_gguf_header(tiny.gguf), LlamaCppOptions(slots=8)
    needs = estimate(gguf_shape((header,), header.size_bytes), options)
    needs = replace(needs, per_token=needs.per_token * scale)
    small_memory(needs.total(free_tokens))
    assert (needs.cache(8 * 256) > HELD_BYTES) is (scale > 1)
    plan = plan_context(header, needs, options, may_be_apart=True)
    assert (plan.context_length, plan.capacity_tokens, plan.notes) == (256, held * 256, ())
    assert plan_context(header, needs, options).capacity_tokens == 4 * 256  # on a card nothing would be gained


def test_a_full_cache_is_an_error_and_the_slots_stay(tiny: TinyFiles) -> None:
    model = load(tiny.gguf, slots=4, cache_tokens=256, context_length=256)
    runner = model.runner
    assert runner.capacity_tokens == 256
    runner.forward([Row(0, 0, [5] * 200)])
    with pytest.raises(OutOfMemory, match="cache of 256 tokens is full"):
        runner.forward([Row(1, 0, [6] * 100)])
    before = runner.forward([Row(0, 200, [7])])[0].copy()
    runner.truncate(0, 0)
    runner.forward([Row(1, 0, [5] * 200)])
    assert abs(runner.forward([Row(1, 200, [7])])[0] - before).max() < 1e-2
    runner.close()


def test_a_quantized_cache(tiny: TinyFiles) -> None:
    exact, small = load(tiny.gguf, slots=1), load(tiny.gguf, slots=1, kv_type="q8_0")
    rows = [Row(0, 0, list(range(10, 40)))]
    assert abs(exact.runner.forward(rows)[0] - small.runner.forward(rows)[0]).max() < 1.0
    exact.runner.close()
    small.runner.close()
    with pytest.raises(ValueError, match="needs flash attention"):
        load(tiny.gguf, kv_type="q4_0", flash_attention="off")


def test_text_outside_a_vocabulary_without_byte_tokens(testdata: Path) -> None:
    """The native tokenizer would end the process."""
    model = load(testdata / "models" / "tinystories656k-f16.gguf", slots=1)
    for text in ("é", "😀", "a\tb"):
        with pytest.raises(InvalidRequest, match="vocabulary has no"):
            model.tokenizer.encode(text, add_special=True, parse_special=True)
    assert model.tokenizer.encode("Once upon a time<|end_story|>", add_special=True, parse_special=True)[-1] == 2
    model.runner.close()


def test_a_gpu_that_is_not_there(tiny: TinyFiles) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(MissingRequirement, match="set device to auto or cpu"):
        load(tiny.folder, device="cuda")


@pytest.fixture
def copied(tiny: TinyFiles, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.folder, tmp_path / "copy"))


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "no_such_type"}, "does not know the architecture"),
        ({"model_type": "no_such_type", "transformers_version": "99.1.0"}, "which was saved by version 99.1.0"),
        ({"model_type": "no_such_type", "transformers_version": "see\nhttp://elsewhere"}, r"“no_such_type” of [^ ,]+ \(code inside"),
        ({"num_hidden_layers": 3}, "lack .* tensors"),
        ({"num_hidden_layers": 1000}, "says num_hidden_layers = 1000, its weights hold 2"),
        ({"intermediate_size": 1 << 20}, "calls for about [0-9,]+ parameters, its weights hold [0-9,]+; download"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000, the limit is 1024"),
        ({"hidden_size": 32}, "could not load|lack"),
        ({"model_type": "t5"}, "not a model that continues text|could not load|encoder-decoder"),
        ({"num_attention_heads": 0}, "config.json|could not load"),
    ],
)
def test_configs_that_do_not_fit_the_weights(copied: Path, values: dict[str, object], words: str) -> None:
    change(copied / "config.json", **values)
    with pytest.raises(UnsupportedFormat, match=words):
        load(copied)


def test_a_broken_or_missing_tokenizer(copied: Path) -> None:
    (copied / "tokenizer.json").write_text("{}")
    with pytest.raises(UnsupportedFormat, match="tokenizer"):
        load(copied)
    (copied / "tokenizer.json").unlink()
    (copied / "tokenizer_config.json").unlink()
    with pytest.raises(UnsupportedFormat, match="tokenizer"):
        load(copied)


def test_code_in_a_model_folder_is_not_run(copied: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for name in ("configuration_evil.py", "modeling_evil.py", "tokenization_evil.py"):
        (copied / name).write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: pass\n")
    change(copied / "config.json", auto_map={"AutoConfig": "configuration_evil.Evil", "AutoModelForCausalLM": "modeling_evil.Evil"}, attn_implementation="org/kernel")
    change(copied / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_evil.Evil", None]})
    with contextlib.suppress(LoadFailed):  # refusing is as good as ignoring
        load(copied).runner.close()
    assert not marker.exists()


def test_adapters_that_do_not_fit(tiny: TinyFiles, tmp_path: Path) -> None:
    model, gguf_model = load(tiny.folder, slots=1), load(tiny.gguf, slots=1)
    assert model.set_adapters is not None
    assert gguf_model.set_adapters is not None
    other = write_folder(tmp_path / "other", "llama", intermediate_size=64)
    foreign = write_adapter(tmp_path / "foreign", other)
    with pytest.raises(UnsupportedFormat, match="made for another model"):
        model.set_adapters([Adapter(path=str(foreign))])
    for values, words in (({"init_lora_weights": "pissa"}, "changes the base model"), ({"peft_type": "IA3"}, "of type IA3"), ({"megatron_config": {"a": 1}}, "do not trust")):
        wrong = Path(shutil.copytree(tiny.adapter, tmp_path / f"wrong-{next(iter(values))}"))
        change(wrong / "adapter_config.json", **values)
        with pytest.raises(UnsupportedFormat, match=words):
            model.set_adapters([Adapter(path=str(wrong))])
    with pytest.raises(UnsupportedFormat, match="not a LoRA adapter"):
        gguf_model.set_adapters([Adapter(path=str(tiny.gguf))])
    with pytest.raises(UnsupportedFormat, match="made for another model"):
        gguf_model.set_adapters([Adapter(path=str(foreign))])
    with pytest.raises(AppError):
        model.set_adapters([Adapter(path=str(tiny.gguf_adapter))])
    model.runner.close()
    gguf_model.runner.close()


def test_two_adapters_add_up(tiny: TinyFiles) -> None:
    model = load(tiny.folder, slots=1)
    assert model.set_adapters is not None
    rows = [Row(0, 0, list(range(10, 30)))]

    def logits(*adapters: tuple[Path, float]) -> Any:
        assert model.set_adapters is not None
        model.set_adapters([Adapter(path=str(path), scale=scale) for path, scale in adapters])
        model.runner.truncate(0, 0)
        return model.runner.forward(rows)[0].copy()

    base = logits()
    first, second = logits((tiny.adapter, 0.3)), logits((tiny.second_adapter, 0.3))
    both = logits((tiny.adapter, 0.3), (tiny.second_adapter, 0.3))
    assert min(abs(both - first).max(), abs(both - second).max(), abs(first - second).max()) > 0.05
    assert abs(logits((tiny.adapter, 0.3), (tiny.second_adapter, 0.0)) - first).max() < 1e-4
    assert (logits() == base).all()
    model.runner.close()
