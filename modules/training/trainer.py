"""Steps, made by transformers' Trainer: its loop, accumulation, mixed precision and distribution. Data, loss, optimizer and what follows a step are ours.

The trainer sees the whole run, or what is left of it, as one epoch of micro-batches in the order of the feed. Random numbers of a micro-batch are drawn from
the seed and its place, so that they are the same after a resume and on any number of ranks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from modules.core.job import Cancelled, JobContext
from modules.training import adapter, sharding
from modules.training.checkpoints import Snapshot
from modules.training.feed import Feed, Stretch
from modules.training.learner import Engine, Learner
from modules.training.material import Material
from modules.training.options import TrainingOptions
from modules.training.packing import MicroBatch, collate
from modules.training.ranks import ALONE, Ranks
from modules.training.step_loss import StepLoss

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback, TrainingArguments

WARM_UP_SHARE = 4  # of a short run the warm-up takes no more than a quarter


def learn(material: Material, model: Any, context: JobContext, snapshot: Snapshot | None, ranks: Ranks = ALONE) -> Learner:
    """Make the steps of a run from a checkpoint on, or from the beginning; how it stands at its end.

    Raises:
        Cancelled: the person asked to stop; a checkpoint was written unless it was for good.
        AppError: it cannot go on.
    """
    feed = Feed(material.train, material.args.options)
    engine = make_engine(model, material, feed)
    learner = Learner(material, engine, feed, ranks, context)
    learner.resume(snapshot)
    try:
        learner.begin(**_counts(model))
        if learner.standing.step < feed.steps:
            make_trainer(learner).train()
    except Cancelled:
        learner.stopped()
        raise
    finally:
        learner.close()
    return learner


def make_engine(model: Any, material: Material, feed: Feed) -> Engine:
    """The optimizer and the course of the learning rate, for a whole run."""
    from transformers import Trainer, get_scheduler

    options = material.args.options
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(_arguments(material, feed, feed.steps, model), model)
    optimizer = kind(adapter.parameter_groups(model, options), **settings)
    schedule = get_scheduler(options.scheduler, optimizer, num_warmup_steps=min(options.warmup_steps, feed.steps // WARM_UP_SHARE), num_training_steps=feed.steps)
    return Engine(model, optimizer, schedule)


def make_trainer(learner: Learner) -> Trainer:
    """The trainer of the steps that are left."""
    from transformers.trainer_callback import PrinterCallback

    material, feed = learner.material, learner.feed
    stretch = Stretch(feed, learner.standing.step)
    trainer = _trainer_class()(
        learner,
        model=learner.engine.model,
        args=_arguments(material, feed, feed.steps - learner.standing.step, learner.engine.model),
        train_dataset=stretch,
        data_collator=_collator(material),
        optimizers=(learner.engine.optimizer, learner.engine.schedule),
    )
    learner.engine.scale_with(trainer.accelerator.scaler)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_callback(learner, trainer))
    if learner.ranks.count != trainer.accelerator.num_processes:
        raise RuntimeError(f"{learner.ranks.count} processes were started, and the trainer sees {trainer.accelerator.num_processes}")
    return trainer


def _arguments(material: Material, feed: Feed, steps: int, model: Any) -> TrainingArguments:
    import torch
    from transformers import TrainingArguments

    options = material.args.options
    on_graphics = torch.cuda.is_available()
    cast = autocast_of(model)
    return TrainingArguments(
        output_dir=str(material.directory / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=1,  # an item of the feed is a micro-batch
        gradient_accumulation_steps=feed.accumulation,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        optim=options.optimizer,
        seed=options.seed % (1 << 32),
        use_cpu=not on_graphics and not str(getattr(model, "device", "cpu")).startswith("mps"),
        bf16=cast == torch.bfloat16,
        fp16=cast == torch.float16,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=on_graphics,
        ddp_backend="gloo" if feed.ranks > 1 and not on_graphics else None,
        ddp_find_unused_parameters=not options.gradient_checkpointing,
        log_level="error",
        log_level_replica="error",
    )


def autocast_of(model: Any) -> Any:
    """The short type that a graphics card reckons in while the adapter's own numbers are long; None where there is none to cast to.

    A quantized model says what it reckons in; of others the frozen part does.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    stated = getattr(getattr(getattr(inner, "hf_quantizer", None), "quantization_config", None), "bnb_4bit_compute_dtype", None)
    found = {stated} | {parameter.dtype for parameter in inner.parameters() if not parameter.requires_grad}
    return next((dtype for dtype in (torch.bfloat16, torch.float16) if dtype in found), None)


def _counts(model: Any) -> dict[str, int]:
    """How many numbers there are and how many of them learn. Packed weights are counted as what they stand for."""
    trainable, total = model.get_nb_trainable_parameters()
    return {"trainable": int(trainable), "parameters": int(total)}


def _collator(material: Material) -> Callable[[Sequence[tuple[int, MicroBatch]]], dict[str, Any]]:
    def together(items: Sequence[tuple[int, MicroBatch]]) -> dict[str, Any]:
        (place, micro_batch) = items[0]
        return {**collate(material.train, micro_batch, material.pad_id), "place": place}

    return together


def seed_of(options: TrainingOptions, place: int) -> int:
    """The seed of one micro-batch."""
    return int.from_bytes(hashlib.sha256(f"{options.seed} {place}".encode()).digest()[:4], "little")


def _trainer_class() -> type[Any]:
    """Made when it is needed: its library takes seconds to come."""
    from torch.utils.data import DataLoader
    from transformers import Trainer, set_seed

    class StepTrainer(Trainer):
        def __init__(self, learner: Learner, **settings: Any) -> None:
            self.learner = learner
            self.step_loss = StepLoss(learner.material, learner.engine.model, learner.ranks.count)
            self.step_tokens = 0
            super().__init__(**settings)
            self.loss_is_scaled_for_ga = True

        def get_train_dataloader(self) -> Any:
            loader = DataLoader(self.train_dataset, batch_size=1, shuffle=False, collate_fn=self.data_collator, pin_memory=self.args.dataloader_pin_memory)
            return self.accelerator.prepare(loader)

        def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
            batches = list(islice(epoch_iterator, num_batches))
            counted = [sum(each) for each in zip(*(self.step_loss.counts(batch) for batch in batches), strict=True)]
            learned, tokens = self.learner.ranks.total(counted)
            self.step_tokens = int(tokens)
            return batches, max(1.0, learned)

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            set_seed(seed_of(self.learner.options, int(inputs.pop("place"))))
            loss = super().training_step(model, inputs, num_items_in_batch)
            if self.learner.ranks.divided and self.accelerator.sync_gradients:
                sharding.average(self.model, self.learner.ranks.count)
            return loss

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            loss = self.step_loss(model, inputs, num_items_in_batch)
            return (loss, {}) if return_outputs else loss

        def floating_point_ops(self, inputs: Any) -> int:
            return 0  # nobody asks

    return StepTrainer


def _callback(learner: Learner, trainer: Any) -> TrainerCallback:
    from transformers import TrainerCallback

    class AfterSteps(TrainerCallback):
        def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            learner.check()

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            learner.check()

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            learner.changing()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                over = learner.stepped(logs["loss"], logs.get("grad_norm"), logs["learning_rate"], trainer.step_tokens)
                control.should_training_stop = control.should_training_stop or over

    return AfterSteps()
