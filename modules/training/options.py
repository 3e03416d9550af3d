"""Everything that can be set about a training run, declared once: form, API fields, recipe keys and rows of the documentation follow.

Values only; what they do is in `adapter.py`, `encoding.py`, `packing.py`, `trainer.py` and `preference.py`.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

Scheduler = Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt", "constant", "constant_with_warmup"]
Optimizer = Literal["adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "lion_8bit", "adafactor", "adagrad", "sgd"]
Learn = Literal["assistant", "completion", "everything"]
Precision = Literal["auto", "float32", "bfloat16", "float16", "8bit", "4bit"]

PROMPT_CHARACTERS = 20_000
METHOD, LEARNED, LENGTH, STEPS, STOPPING, CHECKS, PREFERENCES, MACHINES = (
    "Adapter", "What is learned", "Length and packing", "Steps", "When to stop", "Held-out, samples and checkpoints", "Preference pairs", "More than one device",
)  # fmt: skip


def _in(group: str, **hints: Any) -> dict[str, Any]:
    return {"group": group, **hints}


class TrainingOptions(BaseModel, frozen=True, extra="forbid"):
    """One run's options. The defaults suit a small chat data set."""

    # Adapter
    rank: int = Field(16, ge=1, le=2048, description="Size of the adapter: more can learn more, and takes more memory.", json_schema_extra=_in(METHOD, slider_max=256))
    alpha: float = Field(32, gt=0, le=4096, description="How strongly the adapter acts; twice the rank is usual.", json_schema_extra=_in(METHOD, slider_max=512, step=1))
    dropout: float = Field(0, ge=0, lt=1, description="Share of the adapter's input that is left out at random while learning.", json_schema_extra=_in(METHOD))
    rslora: bool = Field(False, description="Scale by the square root of the rank (rsLoRA): for ranks above about 32.", json_schema_extra=_in(METHOD))
    dora: bool = Field(False, description="Learn direction and size apart (DoRA): often a little better, a third slower; llama.cpp cannot use it unmerged.", json_schema_extra=_in(METHOD))
    pissa: bool = Field(False, description="Begin with the model's main directions (PiSSA): learns faster; saved as a plain LoRA of twice the rank.", json_schema_extra=_in(METHOD))
    lora_plus_ratio: float = Field(0, ge=0, le=64, description="Learning rate of the second matrix as a multiple (LoRA+; 16 is usual); 0 is off.", json_schema_extra=_in(METHOD))
    target_all: bool = Field(True, description="Adapt all linear layers; off adapts those named below.", json_schema_extra=_in(METHOD))
    target_modules: tuple[str, ...] = Field((), max_length=64, description="Layers to adapt by the end of their names, like q_proj.", json_schema_extra=_in(METHOD))
    train_embeddings: bool = Field(False, description="Learn the word table and the output too; makes the adapter large.", json_schema_extra=_in(METHOD))
    new_tokens: tuple[str, ...] = Field((), max_length=256, description="Tokens to add to the vocabulary and learn.", json_schema_extra=_in(METHOD))
    precision: Precision = Field("auto", description="How the base model is held: 4bit and 8bit (QLoRA) save memory; auto is float32 on a processor and bfloat16 on a graphics card.", json_schema_extra=_in(METHOD))

    # What is learned
    learn: Learn = Field("assistant", description="assistant: every reply with its end; completion: the last reply alone; everything: the whole text.", json_schema_extra=_in(LEARNED))
    drop_duplicates: bool = Field(True, description="Leave out samples that are the same as, or nearly the same as, an earlier one.", json_schema_extra=_in(LEARNED))
    add_eos: bool = Field(True, description="End every plain text with the end token, so that the model learns to stop.", json_schema_extra=_in(LEARNED))

    # Length and packing
    cutoff_tokens: int = Field(0, ge=0, le=1_048_576, description="Longest sample; 0 takes the model's limit, at most 2048.", json_schema_extra=_in(LENGTH))
    too_long: Literal["cut", "drop"] = Field("cut", description="What happens to a longer conversation.", json_schema_extra=_in(LENGTH))
    stride_tokens: int = Field(0, ge=0, le=65_536, description="Tokens that neighbouring pieces of a long text share.", json_schema_extra=_in(LENGTH))
    packing: bool = Field(False, description="Put several samples into one row, each seeing only itself: no padding, faster with short samples.", json_schema_extra=_in(LENGTH))
    batch_tokens: int = Field(0, ge=0, le=1_048_576, description="Fill micro-batches up to so many tokens instead of counting samples; 0 counts samples.", json_schema_extra=_in(LENGTH))

    # Steps
    epochs: float = Field(3, gt=0, le=1000, description="How often everything is seen.", json_schema_extra=_in(STEPS, slider_max=20, step=0.5))
    max_steps: int = Field(0, ge=0, le=10_000_000, description="End after so many steps; 0 leaves it to the epochs.", json_schema_extra=_in(STEPS))
    batch_size: int = Field(8, ge=1, le=4096, description="Samples of one step, of all devices together.", json_schema_extra=_in(STEPS, slider_max=128))
    micro_batch_size: int = Field(2, ge=1, le=1024, description="Samples at once on one device: less takes less memory; the result is the same.", json_schema_extra=_in(STEPS, slider_max=64))
    learning_rate: float = Field(3e-4, gt=0, le=10, description="Size of a step.", json_schema_extra=_in(STEPS, slider_max=0.01, step=0.00001))
    scheduler: Scheduler = Field("cosine", description="How the learning rate falls.", json_schema_extra=_in(STEPS))
    warmup_steps: int = Field(10, ge=0, le=1_000_000, description="Steps over which the learning rate rises first.", json_schema_extra=_in(STEPS, slider_max=500))
    optimizer: Optimizer = Field("adamw_torch", description="8-bit ones save memory.", json_schema_extra=_in(STEPS))
    weight_decay: float = Field(0, ge=0, le=10, description="Pull towards zero.", json_schema_extra=_in(STEPS, slider_max=0.5))
    max_grad_norm: float = Field(1, ge=0, le=1000, description="Longest gradient; longer ones are shortened. 0 is off.", json_schema_extra=_in(STEPS, slider_max=10))
    gradient_checkpointing: bool = Field(False, description="Compute parts twice instead of keeping them: much less memory, about a third slower.", json_schema_extra=_in(STEPS))
    seed: int = Field(42, ge=0, le=2**32 - 1, description="Of order, start and dropout: the same seed gives the same run.", json_schema_extra=_in(STEPS))
    threads: int = Field(0, ge=0, le=512, description="Processor threads; 0 chooses.", json_schema_extra=_in(STEPS, slider_max=64))

    # When to stop
    stop_at_loss: float = Field(0, ge=0, le=100, description="End when the loss, averaged over the last ten steps, is below; 0 is off.", json_schema_extra=_in(STOPPING, slider_max=5))
    patience: int = Field(0, ge=0, le=1000, description="End when the held-out loss has not fallen for so many looks, and keep the best; 0 is off.", json_schema_extra=_in(STOPPING, slider_max=20))

    # Held-out, samples and checkpoints
    held_out_percent: float = Field(5, ge=0, le=50, description="Share of the data that is never learned and tells whether learning helps.", json_schema_extra=_in(CHECKS))
    evaluate_every_steps: int = Field(0, ge=0, le=1_000_000, description="Steps between two looks at it; 0 looks ten times in all.", json_schema_extra=_in(CHECKS))
    sample_every_steps: int = Field(0, ge=0, le=1_000_000, description="Steps between two sample texts; 0 writes them whenever the held-out loss is looked at.", json_schema_extra=_in(CHECKS))
    sample_prompts: tuple[str, ...] = Field((), max_length=16, description="Prompts for sample texts; none takes the first held-out ones.", json_schema_extra=_in(CHECKS))
    sample_tokens: int = Field(64, ge=1, le=2048, description="Length of a sample text.", json_schema_extra=_in(CHECKS, slider_max=512))
    save_every_steps: int = Field(0, ge=0, le=1_000_000, description="Steps between two checkpoints; 0 saves by the minutes alone.", json_schema_extra=_in(CHECKS))
    save_every_minutes: float = Field(5, ge=0, le=1440, description="Minutes between two checkpoints; 0 saves by the steps alone.", json_schema_extra=_in(CHECKS, slider_max=120, step=0.5))
    keep_checkpoints: int = Field(2, ge=1, le=100, description="Checkpoints kept; older ones are deleted.", json_schema_extra=_in(CHECKS, slider_max=20))

    # Preference pairs
    preference: Literal["dpo", "orpo", "kto"] = Field("dpo", description="How pairs are learned: DPO compares with the base model, ORPO does without it, KTO takes single good or bad answers.", json_schema_extra=_in(PREFERENCES))
    beta: float = Field(0.1, gt=0, le=10, description="How closely the model stays to the base (DPO, KTO), or the weight of the preference (ORPO).", json_schema_extra=_in(PREFERENCES, slider_max=1))

    # More than one device
    processes: int = Field(1, ge=1, le=64, description="Processes on this machine: one for each graphics card.", json_schema_extra=_in(MACHINES))
    nodes: int = Field(1, ge=1, le=256, description="Machines that work together.", json_schema_extra=_in(MACHINES))
    rendezvous: str = Field("", max_length=300, description="Address:port of the first machine, which all others reach; needed for several machines.", json_schema_extra=_in(MACHINES))
    sharding: Literal["none", "fsdp2"] = Field("none", description="fsdp2 divides the model among the devices; none gives each a copy.", json_schema_extra=_in(MACHINES))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.nodes > 1 and not self.rendezvous:
            raise ValueError("rendezvous is needed for several machines: address:port of the first one")
        if not self.target_all and not self.target_modules:
            raise ValueError("target_modules must name a layer when target_all is off")
        if self.stride_tokens and self.cutoff_tokens and self.stride_tokens >= self.cutoff_tokens:
            raise ValueError(f"stride_tokens must be less than cutoff_tokens; got {self.stride_tokens} and {self.cutoff_tokens}")
        if any(len(prompt) > PROMPT_CHARACTERS for prompt in self.sample_prompts):
            raise ValueError(f"sample_prompts must have at most {PROMPT_CHARACTERS} characters each; shorten the longest")
        if self.patience and not self.held_out_percent:
            raise ValueError("patience needs held-out data: set held_out_percent above 0")
        return self
