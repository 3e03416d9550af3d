"""The same weights give the same greedy tokens: `model.generate`, both runners, both file formats, alone and in a ragged batch of 8."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.core.model import LoadedModel
from modules.loaders.registry import find_loader
from tests.loaders.greedy import decode, generate
from tests.tiny_models import TinyFiles, write_folder, write_gguf

TEXTS = (
    "The little fox found", "We bake bread from", "A bird sang", "My hat is green and your coat", "the old tree. She took the ball home and",
    "the rain came in the evening. We", "to her", "She",
)  # fmt: skip
STORIES = (
    "Once upon a time", "Lily and Tom went to the park. They", "The dog was", "One day, a little boy named Tim found a big red", "Mom said",
    "The sun was up and", "The sun", "A bird and a cat were friends. They liked to play",
)  # fmt: skip
UNDECIDED = 0.005  # two best logits closer than this are a tie that rounding to f16 may decide
COUNTS, SHORT = (20, 9, 14, 20, 6, 17, 11, 20), (12, 9, 8, 12, 6, 12, 7, 12)


def load(path: Path, **options: Any) -> LoadedModel:
    spec = find_loader(path)
    more = {"threads_batch": 1} if spec.name == "llama.cpp" else {}
    return spec.load(path, spec.options(threads=1, **more, **{"slots": 8} | options), lambda *_: None)


def reference(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def same(plain: Any, prompts: list[list[int]], found: list[list[int]], expected: list[list[int]]) -> bool:
    """Whether replies agree; a file that rounds its weights may choose otherwise only where the plain model is undecided."""
    import torch

    for prompt, ours, theirs in zip(prompts, found, expected, strict=True):
        place = next((place for place, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one != other), None)
        if place is not None:
            with torch.inference_mode():
                logits = plain(torch.tensor([prompt + theirs[:place]])).logits[0, -1]
            if float(logits[theirs[place]] - logits[ours[place]]) > UNDECIDED:
                return False
    return True


def check(folder: Path, files: list[Path], texts: tuple[str, ...], counts: tuple[int, ...] = COUNTS, *, alone_too: int = 8) -> None:
    """All files against `generate` over the folder: in a ragged batch of 8, 8 prompts in 3 slots, and the first ones alone."""
    plain = reference(folder)
    expected: list[list[int]] = []
    for path in files:
        model = load(path)
        prompts = [model.tokenizer.encode(text, add_special=True, parse_special=False) for text in texts]
        if not expected:
            expected = [generate(plain, prompt, count) for prompt, count in zip(prompts, counts, strict=True)]
        batch = decode(model.runner, prompts, counts, chunk=6)
        few = decode(model.runner, prompts, counts, slots=3, chunk=200)
        alone = [decode(model.runner, [prompt], [count], slots=1)[0] for prompt, count in zip(prompts[:alone_too], counts, strict=False)]
        exact = path.is_dir()  # the folder's weights are used as they are
        for way, replies in (("batch of 8", batch), ("slots used again", few), ("alone", alone)):
            found = [reply.output for reply in replies]
            wanted = expected[: len(found)]
            assert found == wanted or (not exact and same(plain, prompts[: len(found)], found, wanted)), f"{path.name}: {way}"
        model.runner.close()


def test_a_tiny_model_in_both_formats(tiny: TinyFiles) -> None:
    check(tiny.folder, [tiny.folder, tiny.gguf], TEXTS)


def test_qwen2_in_both_formats(tmp_path: Path) -> None:
    """Another architecture: rows of q and k are not permuted, and there are biases."""
    folder = write_folder(tmp_path / "qwen", "qwen2", trained=True)
    check(folder, [folder, write_gguf(tmp_path / "qwen.gguf", folder)], TEXTS)


@pytest.mark.parametrize(
    ("folder", "file"),
    [
        ("stories260K", "stories260K-f16.gguf"),
        ("tinystories656k-bytes", "tinystories656k-bytes-f16.gguf"),
        ("tinytalk3m-chat", "tinytalk3m-chat-f16.gguf"),
        ("tinytalk3m-chat-gpt2", "tinytalk3m-chat-f16.gguf"),
    ],
)
def test_real_models_in_both_formats(testdata: Path, folder: str, file: str) -> None:
    models = testdata / "models"
    check(models / folder, [models / folder, models / file], STORIES, SHORT, alone_too=2)


def test_the_starter_model(starter_dir: Path) -> None:
    """Its GGUF is quantized, so only the folder has to agree token by token."""
    check(starter_dir, [starter_dir], STORIES, SHORT, alone_too=1)


def test_adapters_in_both_formats(tiny: TinyFiles) -> None:
    """The same LoRA, at the same scale, gives the same tokens on both back ends, converted before or on the fly."""
    from modules.core.model import Adapter

    outputs = []
    for path, adapter in ((tiny.folder, tiny.adapter), (tiny.gguf, tiny.gguf_adapter), (tiny.gguf, tiny.adapter)):
        model = load(path)
        assert model.set_adapters is not None
        model.set_adapters([Adapter(path=str(adapter), scale=0.2)])
        prompts = [model.tokenizer.encode(text, add_special=True, parse_special=False) for text in TEXTS[:4]]
        replies = decode(model.runner, prompts, [8, 8, 8, 8])
        outputs.append([reply.output for reply in replies])
        model.runner.close()
    assert outputs[0] == outputs[1] == outputs[2]


@pytest.fixture(scope="module")
def quantized(tiny: TinyFiles) -> Iterator[dict[str, LoadedModel]]:
    models = {kind: load(tiny.folder, quantize=kind) for kind in ("8bit", "4bit")}
    yield models
    for model in models.values():
        model.runner.close()


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_bitsandbytes_on_load(quantized: dict[str, LoadedModel], tiny: TinyFiles, kind: str) -> None:
    """Weights shrink and the sentence learnt by heart survives."""
    model = quantized[kind]
    network_model = model.runner._network.model  # type: ignore[attr-defined]
    assert network_model.is_quantized
    assert {type(module).__name__ for module in network_model.modules()} & {"Linear8bitLt", "Linear4bit"}
    prompt = model.tokenizer.encode("We bake bread", add_special=True, parse_special=False)
    reply = decode(model.runner, [prompt], [8])[0]
    assert b"".join(model.tokenizer.piece(token) for token in reply.output).startswith(b" from flour")
