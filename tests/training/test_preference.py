"""DPO, ORPO and KTO against the formulas of their papers, written out in NumPy from the logits of separate passes; and that they learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modules.core.errors import InvalidRequest
from modules.training import adapter
from modules.training.options import TrainingOptions
from modules.training.packing import collate
from modules.training.preference import preference_loss, scores
from modules.training.samples import IGNORED, Encoded
from tests.adapter_steps import attached, learn, optimizer_of, plain
from tests.tiny_models import write_folder

BETA = 0.3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("base") / "llama", "llama")


def sequence(prompt: Sequence[int], answer: Sequence[int], role: Any, pair: int = -1) -> Encoded:
    return Encoded((*prompt, *answer), (IGNORED,) * len(prompt) + tuple(answer), "made", role=role, pair=pair)


def pairs(count: int = 3, even: bool = False) -> list[Encoded]:
    """Pairs of a prompt of their own with a better and a worse answer, of different lengths unless even."""
    random = np.random.default_rng(3)
    made = []
    for number in range(count):
        prompt = random.integers(3, 300, 6 if even else 4 + 3 * number).tolist()
        better, worse = (random.integers(3, 300, 5 if even else 3 + length).tolist() for length in (number, 4 - number))
        made += [sequence(prompt, better, "chosen", number), sequence(prompt, worse, "rejected", number)]
    return made


def judged() -> list[Encoded]:
    return [replace(one, role="good" if one.role == "chosen" else "bad", pair=-1) for one in pairs()]


def batch_of(encoded: Sequence[Encoded], order: Sequence[int] | None = None) -> dict[str, Any]:
    return collate(encoded, tuple((place,) for place in order or range(len(encoded))), 0)


def log_probabilities(model: Any, ids: Sequence[int], labels: Sequence[int]) -> np.ndarray:
    """Of the learned tokens of one sequence that goes through the model alone."""
    import torch

    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].double().numpy()
    normal = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)) - logits.max(-1, keepdims=True)
    return np.array([normal[place - 1, token] for place, token in enumerate(labels) if token != IGNORED and place])


def sums(model: Any, encoded: Sequence[Encoded]) -> np.ndarray:
    return np.array([log_probabilities(model, one.token_ids, one.labels).sum() for one in encoded])


def sigmoid(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-value))


def moved(folder: Path, tmp_path: Path, **chosen: Any) -> Any:
    """An adapter that has learned something, so that it differs from its base."""
    return learn(folder, tmp_path / "initial", beta=BETA, **chosen)


@pytest.mark.parametrize("even", [False, True])
def test_scores_are_those_of_each_sequence_alone(folder: Path, tmp_path: Path, even: bool) -> None:
    model, encoded = moved(folder, tmp_path).model, pairs(even=even)
    batch = batch_of(encoded)
    assert ("attention_mask" in batch) is not even
    found = scores(model, batch)
    assert found.sums.detach().numpy() == pytest.approx(sums(model, encoded), abs=1e-4)
    assert found.counts.tolist() == [sum(label != IGNORED for label in one.labels) for one in encoded]


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (3, 0, 4, 1, 2, 5)])
def test_dpo_is_the_papers(folder: Path, tmp_path: Path, order: tuple[int, ...]) -> None:
    learned, encoded = moved(folder, tmp_path), pairs()
    ratios = sums(learned.model, encoded) - sums(plain(folder), encoded)
    rewards = BETA * (ratios[::2] - ratios[1::2])
    loss, figures = preference_loss(learned.model, batch_of(encoded, order), learned.options)
    assert float(loss.detach()) == pytest.approx(-np.log(sigmoid(rewards)).mean(), abs=1e-4)
    assert figures["margin"] == pytest.approx(rewards.mean(), abs=1e-4)
    assert figures["accuracy"] == pytest.approx((rewards > 0).mean())
    assert figures["reward_chosen"] == pytest.approx(BETA * ratios[::2].mean(), abs=1e-4)
    assert figures["reward_rejected"] == pytest.approx(BETA * ratios[1::2].mean(), abs=1e-4)


def test_orpo_is_the_papers(folder: Path, tmp_path: Path) -> None:
    learned, encoded = moved(folder, tmp_path, preference="orpo"), pairs()
    means = np.array([log_probabilities(learned.model, one.token_ids, one.labels).mean() for one in encoded])
    odds = np.exp(means) / (1 - np.exp(means))
    ratio = np.log(odds[::2] / odds[1::2])
    loss, figures = preference_loss(learned.model, batch_of(encoded), learned.options)
    assert float(loss.detach()) == pytest.approx((-means[::2] - BETA * np.log(sigmoid(ratio))).mean(), abs=1e-4)
    assert figures["margin"] == pytest.approx(BETA * (means[::2] - means[1::2]).mean(), abs=1e-5)


@pytest.mark.parametrize("kind", ["answers", "pairs", "one answer"])
def test_kto_is_the_papers(folder: Path, tmp_path: Path, kind: str) -> None:
    learned = moved(folder, tmp_path, preference="kto")
    encoded = {"answers": judged(), "pairs": pairs(), "one answer": judged()[:1]}[kind]
    base = plain(folder)
    ratios = sums(learned.model, encoded) - sums(base, encoded)
    width, exchanged = max(len(one.token_ids) for one in encoded), []
    for place, one in enumerate(encoded):
        prompt = [token for token, label in zip(one.token_ids, one.labels, strict=True) if label == IGNORED]
        other = encoded[(place + 1) % len(encoded)]
        answer = [label for label in other.labels if label != IGNORED]
        exchanged.append(sequence(prompt[max(0, len(prompt) + len(answer) - width) :], answer, "good"))
    drift = max(0.0, (sums(learned.model, exchanged) - sums(base, exchanged)).mean()) if len(encoded) > 1 else 0.0
    good = np.array([one.role in ("good", "chosen") for one in encoded])
    values = np.where(good, sigmoid(BETA * (ratios - drift)), sigmoid(BETA * (drift - ratios)))
    loss, figures = preference_loss(learned.model, batch_of(encoded), learned.options)
    assert float(loss.detach()) == pytest.approx((1 - values).mean(), abs=1e-4)
    assert figures["drift"] == pytest.approx(drift, abs=1e-4)
    assert figures["reward_chosen"] == pytest.approx(BETA * ratios[good].mean(), abs=1e-4)
    assert ("margin" in figures) is (kind != "one answer")


def test_the_drift_is_no_empty_figure(folder: Path, tmp_path: Path) -> None:
    """What the adapter learned by heart is likelier after any prompt, so that z₀ is above 0 and counts."""
    learned = moved(folder, tmp_path, preference="kto", steps=12)
    ids = learned.ids[0].tolist()
    encoded = [sequence(ids[begin : begin + 4], ids[begin + 4 : begin + 12], role) for begin, role in ((0, "good"), (12, "bad"), (20, "good"))]
    _, figures = preference_loss(learned.model, batch_of(encoded), learned.options)
    assert figures["drift"] > 1


@pytest.mark.parametrize(("preference", "rate"), [("dpo", 1e-3), ("orpo", 2e-3), ("kto", 1e-3)])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_it_learns_to_prefer(tmp_path: Path, preference: Any, rate: float, kind: str) -> None:
    folder = write_folder(tmp_path / kind, kind)
    options = TrainingOptions(rank=4, alpha=8, preference=preference, beta=0.1, learning_rate=rate)
    model = attached(folder, options, tmp_path / "initial")
    batch = batch_of(judged() if preference == "kto" else pairs())
    optimizer = optimizer_of(model, options)
    rows = []
    for _ in range(15):
        loss, figures = preference_loss(model, batch, options)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        rows.append({"loss": float(loss.detach())} | figures)
    assert rows[-1]["accuracy"] == 1
    assert rows[-1]["margin"] > rows[0]["margin"] + 0.1
    assert rows[-1]["loss"] < rows[0]["loss"]
    if preference != "orpo":
        assert rows[0]["margin"] == pytest.approx(0, abs=1e-5)  # begins as the base model


def test_the_base_stays_and_no_gradient_reaches_it(folder: Path, tmp_path: Path) -> None:
    learned = moved(folder, tmp_path, dropout=0.2, train_embeddings=True, gradient_checkpointing=True)
    before = adapter.weights(learned.model).keys()
    loss, _ = preference_loss(learned.model, batch_of(pairs()), learned.options)
    loss.backward()
    assert adapter.weights(learned.model).keys() == before
    assert all(parameter.grad is not None for parameter in learned.model.parameters() if parameter.requires_grad)
    assert all(parameter.grad is None for parameter in learned.model.parameters() if not parameter.requires_grad)
    with learned.model.disable_adapter():
        assert sums(learned.model, pairs()) == pytest.approx(sums(plain(folder), pairs()), abs=1e-4)


def test_a_model_on_several_devices_may_be_wrapped(folder: Path, tmp_path: Path) -> None:
    import torch.distributed as distributed
    from torch.nn.parallel import DistributedDataParallel

    for preference, encoded in (("dpo", pairs()), ("kto", judged())):
        learned = moved(folder, tmp_path, preference=preference)
        wanted, _ = preference_loss(learned.model, batch_of(encoded), learned.options)
        wanted.backward()
        gradients = [parameter.grad.clone() for parameter in learned.model.parameters() if parameter.requires_grad]
        learned.model.zero_grad()
        distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/{preference}", rank=0, world_size=1)
        try:
            found, _ = preference_loss(DistributedDataParallel(learned.model), batch_of(encoded), learned.options)
            found.backward()
        finally:
            distributed.destroy_process_group()
        assert float(found.detach()) == float(wanted.detach())
        trained = (parameter for parameter in learned.model.parameters() if parameter.requires_grad)
        assert all((parameter.grad == gradient).all() for parameter, gradient in zip(trained, gradients, strict=True))


@pytest.mark.parametrize(
    ("chosen", "encoded", "sentence"),
    [
        ({}, "answers", "DPO learns from pairs of a better and a worse answer, and this data set has single answers; set preference to kto"),
        ({"preference": "orpo"}, "answers", "ORPO learns from pairs"),
        ({"pissa": True}, "pairs", "DPO compares with the base model, which pissa changes while it learns; turn pissa off, or set preference to orpo"),
        ({"pissa": True, "preference": "kto"}, "answers", "KTO compares with the base model"),
        ({}, "half", "are not pairs of a better and a worse answer"),
    ],
)
def test_what_cannot_be_learned_so(folder: Path, tmp_path: Path, chosen: dict[str, Any], encoded: str, sentence: str) -> None:
    options = TrainingOptions(rank=4, **chosen)
    rows = {"answers": judged(), "pairs": pairs(), "half": pairs()[:3]}[encoded]
    with pytest.raises(InvalidRequest, match=sentence):
        preference_loss(attached(folder, options, tmp_path), batch_of(rows), options)


def test_orpo_goes_with_pissa(folder: Path, tmp_path: Path) -> None:
    options = TrainingOptions(rank=4, preference="orpo", pissa=True)
    loss, _ = preference_loss(attached(folder, options, tmp_path), batch_of(pairs()), options)
    assert loss.isfinite()
