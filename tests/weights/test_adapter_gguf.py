"""GGUF adapters made from PEFT folders: llama.cpp writes the same tokens as transformers, and nothing half-made is ever there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from modules.core.errors import AppError, UnsupportedFormat
from modules.core.job import Cancelled
from modules.loaders.gguf_header import read_gguf_header
from modules.weights import publishing
from modules.weights.adapter_gguf import ConvertAdapterArgs, run
from tests.tiny_models import TinyFiles, write_adapter, write_folder, write_gguf
from tests.weights.greedy_tokens import gguf_tokens, peft_tokens
from tests.weights.job import Job, leftovers

WEIGHTS = "adapter_model.safetensors"
CLOSE = 2e-2  # llama.cpp keeps keys and values as float16; the effects below are at least ten times that


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    folder = tmp_path / "loras"
    folder.mkdir()
    return folder


def convert(adapter: Path, base: Path, loras: Path, job: Job | None = None, target: str = "") -> Path:
    args = ConvertAdapterArgs(name=adapter.name, folder=adapter, base=base.name, base_path=base, target=target or adapter.name, loras_dir=loras)
    return Path(run(args, job or Job(loras.parent / "job"))["path"])


def largest_difference(base: Path, model: Path, adapter: Path, loras: Path, prompt: list[int]) -> float:
    """Of a logit, after all tokens were found equal."""
    wanted, logits, plain = peft_tokens(base, adapter, prompt)
    got, rows = gguf_tokens(model, convert(adapter, base, loras), prompt)
    assert got == wanted
    assert np.abs(logits - plain).max() > 10 * CLOSE, "the adapter does nothing"
    return float(np.abs(rows - logits).max())


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3", "gemma3_text"])
def test_llama_cpp_writes_the_tokens_of_peft(tmp_path: Path, loras: Path, kind: str) -> None:
    """Largest differences of a logit: llama 6.9e-3, mistral 7.3e-3, qwen3 7.0e-3, gemma3 6.2e-3, for effects of 2 to 3."""
    more: dict[str, Any] = {"layer_types": ["sliding_attention"] * 5 + ["full_attention"], "num_hidden_layers": 6} if kind == "gemma3_text" else {}
    more |= {"sliding_window": None} if kind == "mistral" else {}
    base = write_folder(tmp_path / "base", kind, **more)
    model = write_gguf(tmp_path / "base.gguf", base)
    adapter = write_adapter(tmp_path / "adapter", base, rank=8, alpha=4, use_rslora=kind == "qwen3", **VARIED if kind == "mistral" else {})
    assert largest_difference(base, model, adapter, loras, list(range(10, 30))) < CLOSE


VARIED = {"rank_pattern": {"k_proj": 2}, "alpha_pattern": {"layers.0.self_attn.q_proj": 10}}


def test_the_starter_model(starter_dir: Path, tmp_path: Path, loras: Path) -> None:
    """Largest difference of a logit: 8.9e-3, for an effect of 1.2."""
    adapter = write_adapter(tmp_path / "adapter", starter_dir, rank=4, alpha=1)
    model = write_gguf(tmp_path / "starter-f16.gguf", starter_dir)  # the shipped one is quantized, so that its logits are others
    assert largest_difference(starter_dir, model, adapter, loras, list(range(300, 312))) < CLOSE


@pytest.mark.parametrize("settings", [{}, {"target_modules": ["c_attn", "c_fc"], "use_rslora": True}])
def test_a_real_gpt2_chat_model(testdata: Path, tmp_path: Path, loras: Path, settings: dict[str, Any]) -> None:
    """Largest differences of a logit: 4.1e-2 and 4.6e-2, for effects of 6 and 14; the folder is float32, its file float16."""
    base = testdata / "models" / "tinytalk3m-chat-gpt2"
    from transformers import AutoTokenizer

    adapter = write_adapter(tmp_path / "adapter", base, rank=8, alpha=1, **settings)
    prompt = AutoTokenizer.from_pretrained(base).apply_chat_template([{"role": "user", "content": "hey, how are you?"}], add_generation_prompt=True, return_dict=False)
    assert largest_difference(base, testdata / "models" / "tinytalk3m-chat-f16.gguf", adapter, loras, prompt) < 0.1


@pytest.fixture
def adapter(tiny: TinyFiles, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.adapter, tmp_path / "first", ignore=shutil.ignore_patterns(".cache")))


def test_the_file_says_what_it_is(tiny: TinyFiles, adapter: Path, loras: Path) -> None:
    (adapter / "README.md").write_text("---\nlicense: mit\n---\n")
    change(adapter, base_model_name_or_path="somebody/Tiny")
    job = Job(loras)
    header = read_gguf_header(convert(adapter, tiny.gguf, loras, job))
    assert (header.kind, header.architecture, header.metadata["adapter.type"]) == ("adapter", "llama", "lora")
    assert header.metadata["adapter.lora.alpha"] == 16
    assert [header.text(f"general.{name}") for name in ("name", "base_model.0.name", "license")] == ["first", "Tiny", "mit"]
    weights = load_file(adapter / WEIGHTS)
    assert len(header.tensors) == len(weights)
    assert job.said[-1] == (len(weights), len(weights), "tensors")
    change(adapter, alpha_pattern={"q_proj": 3})
    assert read_gguf_header(convert(adapter, tiny.folder, loras)).metadata["adapter.lora.alpha"] == 0  # each scale is in its weights


def test_a_name_that_is_taken_is_left_alone(tiny: TinyFiles, adapter: Path, loras: Path) -> None:
    (loras / "first.gguf").write_text("somebody's")
    made = [convert(adapter, tiny.folder, loras).name for _ in range(3)]
    assert made == ["first-gguf.gguf", "first-gguf-2.gguf", "first-gguf-3.gguf"]
    assert (loras / "first.gguf").read_text() == "somebody's"
    assert leftovers(loras) == []


def test_a_name_taken_while_it_was_made_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "made"
    made.write_text("new")
    (tmp_path / "name").write_text("somebody's")
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda self, **_: self.name != "name" and exists(self))  # it comes between the look and the link
    assert publishing.publish_file(made, tmp_path, ("name", "other")).name == "other"
    assert (tmp_path / "name").read_text() == "somebody's"


def test_stopped_it_leaves_nothing(tiny: TinyFiles, adapter: Path, loras: Path) -> None:
    for stop_after in (0, 5, 14):
        with pytest.raises(Cancelled):
            convert(adapter, tiny.folder, loras, Job(loras.parent / "job", stop_after=stop_after))
        assert list(loras.iterdir()) == []


def test_the_place_of_unfinished_things_stays_while_a_download_is_in_it(tiny: TinyFiles, adapter: Path, loras: Path) -> None:
    kept = loras / ".partial" / "me__tiny-0123" / ".a.gguf.part"
    kept.parent.mkdir(parents=True)
    kept.write_text("half of it")
    convert(adapter, tiny.folder, loras)
    assert kept.read_text() == "half of it"
    shutil.rmtree(kept.parent)
    convert(adapter, tiny.folder, loras)
    assert not (loras / ".partial").exists()


def test_without_room_nothing_is_written(tiny: TinyFiles, adapter: Path, loras: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "RESERVE_BYTES", 1 << 60)
    with pytest.raises(AppError, match=r"The result needs .* is free on the disk of loras/ .*; free some space"):
        convert(adapter, tiny.folder, loras)
    assert list(loras.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [({"use_dora": True}, "DoRA magnitudes"), ({"modules_to_save": ["embed_tokens"]}, "whole trained modules"), ({"bias": "all"}, "has biases"), ({"trainable_token_indices": [3]}, "trained tokens")],
)
def test_what_a_gguf_adapter_cannot_hold_is_to_be_merged(tiny: TinyFiles, adapter: Path, loras: Path, values: dict[str, Any], words: str) -> None:
    change(adapter, **values)
    with pytest.raises(UnsupportedFormat, match=f"{words}.*, which llama.cpp cannot apply; .* or merge it into that"):
        convert(adapter, tiny.folder, loras)
    assert list(loras.iterdir()) == []


def test_a_wrong_base_is_refused(tiny: TinyFiles, adapter: Path, loras: Path, starter_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFormat, match="was made for another model: at .* it has 128 × 64 where this one has 512 × 256"):
        convert(adapter, starter_dir, loras)
    with pytest.raises(UnsupportedFormat, match=r"Adapters of opt models cannot be converted, only of llama, .*; merge the adapter into other instead"):
        convert(adapter, write_folder(tmp_path / "other", "opt"), loras)


def test_an_output_that_is_the_word_table_is_no_matrix_of_its_own(tmp_path: Path, loras: Path) -> None:
    """A folder may store it all the same; a GGUF file of that folder has none."""
    base = write_folder(tmp_path / "base", tie_word_embeddings=True)
    stored = load_file(base / "model.safetensors")
    save_file(stored | {"lm_head.weight": stored["model.embed_tokens.weight"].copy()}, base / "model.safetensors", metadata={"format": "pt"})
    adapter = write_adapter(tmp_path / "head", base, target_modules=["v_proj"])
    weights = load_file(adapter / WEIGHTS)
    pair = {f"base_model.model.lm_head.lora_{side}.weight": np.zeros(shape, np.float32) for side, shape in (("A", (4, 64)), ("B", (320, 4)))}
    save_file(weights | pair, adapter / WEIGHTS)
    with pytest.raises(UnsupportedFormat, match="lm_head, which this model shares with its embeddings"):
        convert(adapter, base, loras)


def change(adapter: Path, **values: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
