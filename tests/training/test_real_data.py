"""Real data of every format teaches a real chat model: the loss on what is held out falls below the base model's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modules.core.model import TemplateSource
from modules.loaders.folder_header import read_folder_template
from modules.training.formats import recognise
from modules.training.samples import DatasetSpec
from tests.prompts.real_templates import template_text
from tests.training.runs import Run

pytestmark = pytest.mark.processes

ROWS = 24
WORDS = {"packing": True, "batch_tokens": 512}
REAL: dict[str, dict[str, Any]] = {
    "training-formats/alpaca_en_demo.json": {},
    "training-formats/instruction-1100.json": WORDS,
    "training-formats/c4_demo.jsonl": {"stride_tokens": 16},
    "training-formats/wiki_demo.txt": WORDS,
    "training-formats/v1_sft_demo.jsonl": {},
    "training-formats/glaive_toolcall_en_demo.json": {"cutoff_tokens": 1024, "batch_size": 2, "micro_batch_size": 1, "max_steps": 6},
    "training-formats/dpo_en_demo.json": {"rows": 32, "cutoff_tokens": 256, "max_steps": 4},
    "training-formats/preference-1100.json": {"preference": "orpo"},
    "training-formats/kto_en_demo.json": {"rows": 48, "preference": "kto", "cutoff_tokens": 256, "batch_size": 2, "max_steps": 6, "learning_rate": 2e-3},
    "sharegpt/fastchat_dummy_conversation.json": {},
    "soda/brainrot_chat_train.messages.jsonl": WORDS,
}  # fmt: skip


def few_rows(source: Path, folder: Path, rows: int) -> Path:
    """The beginning of a file, as a file of the same kind."""
    text, target = source.read_text(encoding="utf-8"), folder / source.name
    if source.suffix == ".json":
        target.write_text(json.dumps(json.loads(text)[:rows]), encoding="utf-8")
    else:
        lines = text.split("\n")[:rows]
        target.write_text("\n".join(lines)[:12_000] if source.suffix == ".txt" else "\n".join(lines), encoding="utf-8")
    return target


@pytest.mark.parametrize("name", REAL)
def test_every_format_teaches(testdata: Path, starter_dir: Path, tmp_path: Path, name: str) -> None:
    base = testdata / "models" / "tinytalk3m-chat-gpt2"
    template = read_folder_template(base)
    if "toolcall" in name:  # longer than that model's context, and its template knows no tools
        base = starter_dir
        template = TemplateSource(text=template_text("Qwen-Qwen2.5-7B-Instruct"), origin="qwen", eos_token="<|im_end|>")
    special = dict(REAL[name])
    data = few_rows(testdata / "datasets" / name, tmp_path, special.pop("rows", ROWS))
    found = recognise(data)
    assert found.format
    dataset = DatasetSpec(path=data, name=data.name, format=found.format, columns=found.columns)
    options = {"rank": 8, "alpha": 16, "learning_rate": 1e-3, "max_steps": 8, "warmup_steps": 0, "evaluate_every_steps": 1000, "held_out_percent": 15, "cutoff_tokens": 128}
    run = Run(tmp_path, base, data, dataset=dataset, template=template, prompts=("Hello!",), **{**options, **special})
    snapshot = run.whole()
    first, last = [row["held_out_loss"] for row in run.curve() if "held_out_loss" in row]
    assert last < first, run.log()
    assert snapshot.result is not None and snapshot.result["verdict"], run.log()
    assert (run.loras / "learned" / "adapter_model.safetensors").is_file()
