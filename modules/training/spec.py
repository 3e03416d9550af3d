"""One training run as a job's arguments, and the files it keeps in its directory for those who look.

curve.jsonl       a line for each logged step: step, epoch, loss, held_out_loss, learning_rate, gradient_norm, tokens_per_s, memory_bytes, time_s
samples.jsonl     texts written on the way: step, prompt, text
examination.json  what the data looks like to the model (`preflight.py`), also the whole result of the kind “examine”
checkpoints/      step-N/, each whole only with its complete.json
proof.json        what changed (`proof.py`)
finish            present: end after this step and keep what was learned
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field

from modules.core.model import TemplateSource
from modules.training.options import TrainingOptions
from modules.training.samples import DatasetSpec

CURVE, SAMPLES, EXAMINATION, CHECKPOINTS, PROOF, FINISH = "curve.jsonl", "samples.jsonl", "examination.json", "checkpoints", "proof.json", "finish"


class TrainArgs(BaseModel, frozen=True, extra="forbid"):
    """What a run is to do. Everything that decides the result is in here, so that a resumed run is the same run."""

    name: str = Field(min_length=1, max_length=100, description="Of the adapter to be.")
    base: str = Field(max_length=1000, description="The base model's name in lists.")
    base_path: Path = Field(description="Its folder with safetensors.")
    dataset: DatasetSpec = Field(description="What is learned.")
    held_out: DatasetSpec | None = Field(None, description="What is held out instead of a share of the data.")
    template: TemplateSource | None = Field(None, description="The chat template: the text itself, since files change.")
    template_name: str = Field("", max_length=200, description="Of the prompt template, empty for the model's own.")
    continue_from: Path | None = Field(None, description="An adapter of this base, whose weights are where learning begins.")
    loras_dir: Path = Field(description="The folder of adapters.")
    options: TrainingOptions = Field(TrainingOptions(), description="Everything that can be set.")
    prompts: tuple[str, ...] = Field((), max_length=10, description="The person's own, for answers side by side.")
    notes: str = Field("", max_length=4000, description="The person's words about the run.")


class ExamineArgs(BaseModel, frozen=True, extra="forbid"):
    """What a look before a run is to do: the run that is meant, and whether to try two steps of it."""

    run: TrainArgs = Field(description="The run that is meant.")
    probe: bool = Field(True, description="Whether two real steps are tried.")

    @property
    def title(self) -> str:
        """What it is about, for lists."""
        return self.run.dataset.name or self.run.dataset.path.name
