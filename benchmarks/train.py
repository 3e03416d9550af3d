"""Tokens per second of a training run, beside transformers' Trainer and TRL's SFTTrainer in the same run of this program.

    python benchmarks/train.py                          Paddock and the Trainer, on the starter model and on a made-up one of 15 M parameters
    python benchmarks/train.py --trl PYTHON             and TRL, which is no part of Paddock, in an environment of its own:
        python -m venv /tmp/trl && /tmp/trl/bin/pip install trl==1.16.0 peft==0.21.2 && python benchmarks/train.py --trl /tmp/trl/bin/python
    python benchmarks/train.py --model starter --rounds 5 --samples 96

All get the same sequences (the tutorial's chats, tokenized by Paddock), the same LoRA on all linear layers, eight samples a step, AdamW at a constant rate, float32,
one thread, one epoch: so all learn from the same tokens. The Trainer fills up its batches with the library's own collator; TRL too, and packs into rows of
512 tokens where it packs. Each contestant is a process that loads its libraries once and waits; in every round each runs once, in turn. Only the steps are
timed, from before the first to the end of the last. What counts is processor time, which other work on the machine hardly disturbs, and the ratio within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if "--contestant" not in sys.argv or "Paddock" in " ".join(sys.argv):
    sys.path.insert(0, str(ROOT))  # not for the others: the library would take the folder datasets/ for the package of that name

STARTER = ROOT / "models" / "starter"
DATA = ROOT / "datasets" / "starter-captain.jsonl"
LORA = {"r": 16, "lora_alpha": 32}
RATE, BATCH, SEED, PACKED_TOKENS = 1e-3, 8, 7, 512
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONTESTANTS = ("Paddock", "Trainer", "TRL", "Paddock, packed", "TRL, packed")
MADE = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6, "num_key_value_heads": 6}  # and the starter's words
SMALL = {"held_out_percent": 0, "save_every_minutes": 0, "sample_every_steps": 1_000_000, "sample_tokens": 1, "warmup_steps": 0, "scheduler": "constant", "threads": 1}


@dataclass
class Timed:
    """Wall and processor time between two moments, and the mean loss of the steps."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    loss: float = 0.0

    def begin(self) -> None:
        """Now."""
        self.wall_s, self.cpu_s = -time.perf_counter(), -time.process_time()

    def end(self) -> None:
        """Now, if it has not ended."""
        if self.wall_s < 0:
            self.wall_s, self.cpu_s = self.wall_s + time.perf_counter(), self.cpu_s + time.process_time()


# ---- data and model: made once, by the parent --------------------------------------------------------------------------


def write_sequences(path: Path, count: int) -> tuple[int, int]:
    """Token ids and labels of the first chats, as Paddock makes them; how many tokens and how many of them are learned."""
    from modules.loaders.folder_header import read_folder_template
    from modules.training.encoding import Encoder
    from modules.training.formats import read_samples
    from modules.training.options import TrainingOptions
    from modules.training.samples import DatasetSpec
    from modules.training.tokens import load_tokenizer

    samples = list(read_samples(DatasetSpec(path=DATA, format="messages", columns={"messages": "messages"})))[:count]
    encoded = list(Encoder(load_tokenizer(STARTER, ()), read_folder_template(STARTER), TrainingOptions(), 1024).encode(samples))
    path.write_text(json.dumps([{"input_ids": one.token_ids, "labels": one.labels} for one in encoded]))
    return sum(len(one.token_ids) for one in encoded), sum(label >= 0 for one in encoded for label in one.labels[1:])


def write_model(folder: Path) -> Path:
    """A llama of about 15 M parameters with random weights and the starter's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(SEED)
    config = AutoConfig.from_pretrained(STARTER)
    for name, value in (MADE | {"head_dim": MADE["hidden_size"] // MADE["num_attention_heads"]}).items():
        setattr(config, name, value)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(STARTER).save_pretrained(folder)
    return folder


# ---- contestants: each in a process of its own -------------------------------------------------------------------------


def paddock(model: Path, rows: list[dict[str, list[int]]], work: Path, packed: bool) -> Timed:
    """Paddock's own path from the adapter on."""
    from modules.training.data import Data
    from modules.training.feed import Feed
    from modules.training.learner import Learner
    from modules.training.material import Material
    from modules.training.options import TrainingOptions
    from modules.training.ranks import ALONE
    from modules.training.samples import DatasetSpec, Encoded, TextSample
    from modules.training.spec import CURVE, TrainArgs
    from modules.training.tokens import load_tokenizer
    from modules.training.train import make_model
    from modules.training.trainer import make_engine, make_trainer

    options = TrainingOptions(
        rank=LORA["r"], alpha=LORA["lora_alpha"], batch_size=BATCH, micro_batch_size=BATCH, epochs=1, learning_rate=RATE, packing=packed, seed=SEED, **SMALL
    )
    args = TrainArgs(
        name="benchmark", base=model.name, base_path=model, dataset=DatasetSpec(path=DATA, format="messages"), loras_dir=work, options=options, prompts=("a",)
    )
    encoded = [Encoded(tuple(row["input_ids"]), tuple(row["labels"]), "") for row in rows]
    material = Material(args, work, load_tokenizer(model, ()), Data([TextSample("", "a")], [], ""), encoded, [])
    timed = Timed()

    class Context:
        directory, secrets = work, {}

        def progress(self, done: float, total: float | None, _unit: str, **_: Any) -> None:
            if done == total:
                timed.end()

        def log(self, line: str) -> None:
            print(line, file=sys.stderr)

    feed = Feed(encoded, options)
    learner = Learner(material, make_engine(make_model(material), material, feed), feed, ALONE, Context())
    trainer = make_trainer(learner)
    timed.begin()
    trainer.train()
    losses = [json.loads(line).get("loss") for line in (work / CURVE).read_text().splitlines()]
    timed.loss = statistics.mean(loss for loss in losses if loss is not None)
    return timed


def adapted(model: Path) -> Any:
    """What the others train: the same LoRA."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(SEED)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return get_peft_model(base, LoraConfig(**LORA, target_modules=LAYERS, task_type="CAUSAL_LM"))


def settings(work: Path, batch: int = BATCH) -> dict[str, Any]:
    """Of the library's trainer."""
    return {
        "output_dir": str(work), "per_device_train_batch_size": batch, "num_train_epochs": 1, "learning_rate": RATE, "lr_scheduler_type": "constant",
        "optim": "adamw_torch", "use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True, "seed": SEED, "logging_steps": 1, "log_level": "error",
    }  # fmt: skip


def run_timed(trainer: Any) -> Timed:
    """Train, and time the steps alone."""
    from transformers import TrainerCallback

    timed = Timed()

    class Watch(TrainerCallback):
        def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.global_step == state.max_steps:
                timed.end()

    trainer.add_callback(Watch())
    timed.begin()
    trainer.train()
    timed.loss = statistics.mean(row["loss"] for row in trainer.state.log_history if "loss" in row)
    return timed


def plain(model: Path, rows: list[dict[str, list[int]]], work: Path) -> Timed:
    """The library's Trainer with the library's padding collator."""
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    collator = DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(model), label_pad_token_id=-100)
    arguments = TrainingArguments(**settings(work), remove_unused_columns=False)
    return run_timed(Trainer(model=adapted(model), args=arguments, train_dataset=rows, data_collator=collator))


def trl(model: Path, rows: list[dict[str, list[int]]], work: Path, packed: bool) -> Timed:
    """TRL's SFTTrainer on the same tokens."""
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from datasets import Dataset

    more = {"packing": packed, "max_length": PACKED_TOKENS, "dataset_num_proc": None, "bf16": False, "gradient_checkpointing": False}
    config = SFTConfig(**settings(work, 1 if packed else BATCH), **more)
    return run_timed(SFTTrainer(model=adapted(model), args=config, train_dataset=Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(model)))


def contestant(name: str, model: Path, data: Path) -> None:
    """Wait for a line, run once, answer with a line; until there is none."""
    import torch

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints does not belong to the answers
    torch.set_num_threads(1)
    rows = json.loads(data.read_text())
    packed = name.endswith("packed")
    ways: dict[str, Callable[[Path], Timed]] = {
        "Paddock": lambda work: paddock(model, rows, work, packed),
        "Trainer": lambda work: plain(model, rows, work),
        "TRL": lambda work: trl(model, rows, work, packed),
    }
    for _ in sys.stdin:
        with tempfile.TemporaryDirectory() as work:
            timed = ways[name.partition(",")[0]](Path(work))
        answers.write(json.dumps(timed.__dict__) + "\n")


# ---- the parent --------------------------------------------------------------------------------------------------------


class Process:
    """One contestant, waiting."""

    def __init__(self, name: str, python: str, model: Path, data: Path) -> None:
        self.name = name
        self.runs: list[Timed] = []
        quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
        command = [python, __file__, "--contestant", name, "--model", str(model), "--data", str(data)]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=os.environ | quiet)

    def run(self, counted: bool) -> None:
        """Once."""
        assert self._child.stdin and self._child.stdout
        self._child.stdin.write("\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            self._log.seek(0)
            raise SystemExit(f"{self.name} failed:\n" + self._log.read().decode(errors="replace")[-3000:])
        if counted:
            self.runs.append(Timed(**json.loads(line)))

    def close(self) -> None:
        """End it."""
        assert self._child.stdin
        self._child.stdin.close()
        self._child.wait(30)


def table(title: str, processes: Sequence[Process], tokens: int, learned: int) -> str:
    """Medians, and ratios to the Trainer within a round."""
    lines = [
        f"{title}: {tokens:,} tokens a run, {learned:,} of them learned",
        "",
        "| | tokens/s of processor time | learned tokens/s | tokens/s of wall time | ratio to the Trainer | mean loss |",
        "|---|---|---|---|---|---|",
    ]
    plainly = next(process for process in processes if process.name == "Trainer")
    for process in processes:
        ratios = sorted(other.cpu_s / own.cpu_s for own, other in zip(process.runs, plainly.runs, strict=True))
        cpu_s, wall_s = (statistics.median(getattr(run, name) for run in process.runs) for name in ("cpu_s", "wall_s"))
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} .. {ratios[-1]:.2f})"
        loss = statistics.median(run.loss for run in process.runs)
        lines.append(f"| {process.name} | {tokens / cpu_s:,.0f} | {learned / cpu_s:,.0f} | {tokens / wall_s:,.0f} | {ratio} | {loss:.3f} |")
    return "\n".join(lines)


def compare(title: str, model: Path, samples: int, asked: argparse.Namespace) -> None:
    """One model, all contestants, all rounds."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "sequences.json"
        tokens, learned = write_sequences(data, samples)
        names = [name for name in CONTESTANTS if asked.trl or not name.startswith("TRL")]
        processes = [Process(name, asked.trl if name.startswith("TRL") else sys.executable, model, data) for name in names]
        for count in range(asked.rounds + 1):
            for process in processes:
                process.run(counted=count > 0)  # the first brings libraries and caches in
        for process in processes:
            process.close()
        print(f"\n{table(title, processes, tokens, learned)}", flush=True)


def main() -> None:
    """Read the command line and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", default="", help="a Python that has TRL")
    parser.add_argument("--model", default="", help="starter or made; both without")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=96)
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.contestant:
        contestant(asked.contestant, Path(asked.model), asked.data)
        return
    if not asked.trl:
        print("TRL is left out: it is no part of Paddock. --help says how to have it beside.")
    print(f"load before: {os.getloadavg()[0]:.1f}")
    if asked.model in ("", "starter"):
        compare("starter, 3.1 M parameters", STARTER, asked.samples, asked)
    if asked.model in ("", "made"):
        with tempfile.TemporaryDirectory() as folder:
            compare("made-up llama, 15 M parameters", write_model(Path(folder) / "made"), max(BATCH, asked.samples // 2), asked)
    print(f"\nload after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
