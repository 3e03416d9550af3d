"""Learning from preferences: DPO and ORPO from pairs of a better and a worse answer, KTO from single answers found good or bad.

DPO (Rafailov et al. 2023) and KTO (Ethayarajh et al. 2024) compare with the base model, which is this model with its adapter switched off, so that
no second copy is held; ORPO (Hong et al. 2024) does without. An answer's score is the sum (DPO, KTO) or the mean (ORPO) of the log-probabilities of
its learned tokens. A reward is `beta` times how far a score rose above the base model's (ORPO: times the score itself).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modules.core.errors import InvalidRequest
from modules.training.options import TrainingOptions
from modules.training.samples import IGNORED

if TYPE_CHECKING:
    from torch import Tensor

LIKED, DISLIKED = ("chosen", "good"), ("rejected", "bad")
LEAST_DOUBT = 1e-6  # a mean log-probability of 0 would have endless odds


@dataclass(frozen=True)
class Scores:
    """Of each row: the sum of its learned tokens' log-probabilities, and how many there are."""

    sums: Tensor
    counts: Tensor

    @property
    def means(self) -> Tensor:
        """For each token."""
        return self.sums / self.counts


def preference_loss(model: Any, batch: Mapping[str, Any], options: TrainingOptions) -> tuple[Tensor, dict[str, float]]:
    """The mean loss over the pairs (KTO: the answers) of a micro-batch, and figures: accuracy, margin and the rewards of both sides.

    Rows are whole sequences; `roles` and `pairs` tell what each is. `model` may be wrapped for several devices.

    Raises:
        InvalidRequest: data or options that this way of learning cannot use.
    """
    roles = tuple(batch["roles"])
    _check(roles, options)
    if options.preference == "kto":
        return _kto(model, batch, roles, options)
    better, worse = _pairs(roles, batch["pairs"])
    base = None if options.preference == "orpo" else _base_scores(model, batch)  # first: nothing is switched between a pass and its way back
    own = scores(model, batch)
    if base is None:
        return _orpo(own, better, worse, options.beta)
    return _dpo(own, base, better, worse, options.beta)


def scores(model: Any, batch: Mapping[str, Any]) -> Scores:
    """How likely the learned tokens of each row are."""
    import torch

    inputs = {name: batch[name] for name in ("input_ids", "attention_mask") if name in batch}
    targets = batch["labels"][:, 1:]
    if "logits_to_keep" in inspect.signature(_inner(model).get_base_model().forward).parameters:
        places = (targets != IGNORED).any(0).nonzero().flatten()  # the largest tensors are those of the logits
        logits, targets = model(**inputs, use_cache=False, logits_to_keep=places).logits, targets[:, places]
    else:
        logits = model(**inputs, use_cache=False).logits[:, :-1]
    targets = targets.to(logits.device)
    losses = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return Scores(-losses.view(targets.shape).sum(1), (targets != IGNORED).sum(1).clamp(min=1))


def _check(roles: Sequence[str], options: TrainingOptions) -> None:
    if options.preference != "kto" and not {"chosen", "rejected"} >= set(roles):
        raise InvalidRequest(
            f"{options.preference.upper()} learns from pairs of a better and a worse answer, and this data set has single answers; set preference to kto.",
            field="preference",
        )
    if options.pissa and options.preference != "orpo":
        raise InvalidRequest(
            f"{options.preference.upper()} compares with the base model, which pissa changes while it learns; turn pissa off, or set preference to orpo.",
            field="pissa",
        )


def _pairs(roles: Sequence[str], numbers: Sequence[int]) -> tuple[list[int], list[int]]:
    """Rows of the better and of the worse answers, in the same order."""
    better = {int(number): row for row, (role, number) in enumerate(zip(roles, numbers, strict=True)) if role == "chosen"}
    worse = {int(number): row for row, (role, number) in enumerate(zip(roles, numbers, strict=True)) if role == "rejected"}
    if better.keys() != worse.keys() or len(better) + len(worse) != len(roles):
        raise InvalidRequest(f"{len(roles)} rows are not pairs of a better and a worse answer; prepare the data again.", field="preference")
    return [better[number] for number in better], [worse[number] for number in better]


def _dpo(own: Scores, base: Scores, better: list[int], worse: list[int], beta: float) -> tuple[Tensor, dict[str, float]]:
    from torch.nn.functional import logsigmoid

    rewards = beta * (own.sums - base.sums)
    loss = -logsigmoid(rewards[better] - rewards[worse]).mean()
    return loss, _figures(rewards[better], rewards[worse])


def _orpo(own: Scores, better: list[int], worse: list[int], beta: float) -> tuple[Tensor, dict[str, float]]:
    from torch.nn.functional import logsigmoid

    means = own.means.clamp(max=-LEAST_DOUBT)
    log_odds = means - (-means.expm1()).log()
    loss = (-own.means[better] - beta * logsigmoid(log_odds[better] - log_odds[worse])).mean()
    return loss, _figures(beta * own.means[better], beta * own.means[worse])


def _figures(better: Tensor, worse: Tensor) -> dict[str, float]:
    better, worse = better.detach(), worse.detach()
    return {
        "accuracy": float((better > worse).float().mean()),
        "margin": float((better - worse).mean()),
        "reward_chosen": float(better.mean()),
        "reward_rejected": float(worse.mean()),
    }


def _kto(model: Any, batch: Mapping[str, Any], roles: Sequence[str], options: TrainingOptions) -> tuple[Tensor, dict[str, float]]:
    """Good answers are to rise above, bad ones to fall below, how far the model is from its base anyway (the paper's z₀).

    z₀ is estimated, as in the paper, from each prompt with another one's answer, within the micro-batch; with one row alone it is 0.
    Good and bad answers weigh the same.
    """
    import torch

    drift = _drift(model, batch)
    base = _base_scores(model, batch)
    ratios = scores(model, batch).sums - base.sums
    signs = torch.tensor([1.0 if role in LIKED else -1.0 for role in roles], device=ratios.device)
    gains = options.beta * (ratios - drift) * signs
    figures = {"accuracy": float((gains.detach() > 0).float().mean()), "drift": float(drift)}
    rewards = options.beta * ratios.detach()
    sides = {"reward_chosen": rewards[signs > 0], "reward_rejected": rewards[signs < 0]}
    figures |= {name: float(values.mean()) for name, values in sides.items() if len(values)}
    if "reward_chosen" in figures and "reward_rejected" in figures:
        figures["margin"] = figures["reward_chosen"] - figures["reward_rejected"]
    return (1 - torch.sigmoid(gains)).mean(), figures


def _drift(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """How much likelier than to the base model answers to other prompts are to this one; no less than 0. No gradient goes through it."""
    import torch

    if len(batch["input_ids"]) < 2:
        return torch.zeros((), device=batch["input_ids"].device)
    exchanged = _exchanged(batch)
    with torch.no_grad():
        own = scores(_inner(model), exchanged)
    return (own.sums - _base_scores(model, exchanged).sums).mean().clamp(min=0)


def _exchanged(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Each row's prompt with the next row's answer; a prompt that grows too long for the widest row loses its beginning."""
    import torch

    ids, labels = batch["input_ids"], batch["labels"]
    lengths = batch["attention_mask"].sum(1).tolist() if "attention_mask" in batch else [ids.shape[1]] * len(ids)
    starts = (labels != IGNORED).int().argmax(1).tolist()
    prompts = [row[:start] for row, start in zip(ids, starts, strict=True)]
    answers = [(row[start:end], label[start:end]) for row, label, start, end in zip(ids, labels, starts, lengths, strict=True)]
    found = {"input_ids": torch.zeros_like(ids), "labels": torch.full_like(labels, IGNORED), "attention_mask": torch.zeros_like(ids)}
    for place, prompt in enumerate(prompts):
        answer, learned = answers[(place + 1) % len(answers)]
        before = prompt[max(0, len(prompt) + len(answer) - ids.shape[1]) :]
        end = len(before) + len(answer)
        found["input_ids"][place, :end] = torch.cat([before, answer])
        found["labels"][place, len(before) : end] = learned
        found["attention_mask"][place, :end] = 1
    return found


def _base_scores(model: Any, batch: Mapping[str, Any]) -> Scores:
    import torch

    inner = _inner(model)
    with torch.no_grad(), inner.disable_adapter():
        return scores(inner, batch)


def _inner(model: Any) -> Any:
    """Without what several devices wrap around it: only the pass that learns is theirs."""
    from torch.nn.parallel import DistributedDataParallel

    return model.module if isinstance(model, DistributedDataParallel) else model
