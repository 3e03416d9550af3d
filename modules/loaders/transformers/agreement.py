"""Which runner computes what the plain model computes: checked with a few tokens when a model is loaded.

Knows the runners and how close their logits must come; nothing of files and options.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterable
from typing import Any

from modules.core.errors import UnsupportedFormat, first_line
from modules.core.model import Row, Runner
from modules.loaders.transformers.network import Network
from modules.loaders.transformers.recorded import Record, RecordedSteps, cuda_recording
from modules.loaders.transformers.runner import SlotRunner
from modules.loaders.transformers.seeing_runner import SeeingRunner
from modules.loaders.transformers.sight import Sight
from modules.loaders.transformers.single_runner import SingleRunner

log = logging.getLogger(__name__)

TRIED_STEPS = 9
CHECK_IDS = tuple((7919 * place + 13) % 251 for place in range(7))


def choose_runner(network: Network, slots: int, batch_tokens: int, sight: Sight | None = None) -> Runner:
    """The fastest runner that computes what the plain model computes: slots, one slot with a cache, one slot without.

    Raises:
        UnsupportedFormat: not even the plain model runs.
    """
    with network.small_window():
        expected = _plain_logits(network)
        if network.may_batch:
            runner = SlotRunner(network, slots, batch_tokens) if sight is None else SeeingRunner(network, slots, batch_tokens, sight)
            if agrees(network, runner, expected):
                return runner
    expected = _plain_logits(network)
    cached = SingleRunner(network, batch_tokens, cached=True)
    if network.takes_cache and agrees(network, cached, expected):
        return cached
    return SingleRunner(network, batch_tokens, cached=False)


def _check_sequences(network: Network) -> tuple[list[int], list[int]]:
    ids = [token % network.vocab_size for token in CHECK_IDS][: network.context_length]
    return ids, ids[3::-1]


def _plain_logits(network: Network) -> list[Any]:
    """Last logits of the check sequences by a plain pass without a cache."""
    try:
        extra = {"use_cache": False} if network.takes_cache else {}
        return [
            network.run(network.torch.tensor([ids], device=network.device), **extra)[0, -1].float().cpu() for ids in _check_sequences(network)
        ]
    except Exception as error:
        raise UnsupportedFormat(f"This model cannot be run by the transformers loader ({first_line(error)}); choose another one.") from error


def agrees(network: Network, runner: Runner, expected: list[Any]) -> bool:
    """Whether ragged steps of the runner give the logits of plain passes, within the precision of the weights."""
    long, short = _check_sequences(network)
    steps: list[list[Row]]
    if runner.n_slots > 1:
        steps = [
            [Row(0, 0, long[:3])],
            [Row(0, 3, long[3:5]), Row(1, 0, short[:1])],
            [Row(0, 5, long[5:6]), Row(1, 1, short[1:])],
            [Row(0, 6, long[6:])],
        ]
    else:
        steps = [[Row(0, 0, long[:5])], [Row(0, 5, long[5:])]]
    try:
        found = {row.slot: logits for step in steps for row, logits in zip(step, _as_tensors(network, runner, step), strict=True)}
        for slot in range(runner.n_slots):
            runner.truncate(slot, 0)
    except Exception as error:  # noqa: BLE001 - any failure of a foreign architecture means: not this way
        log.info("this way of running does not suit the model: %s", first_line(error))
        return False
    limit = tolerance(network)
    return all(float((found[slot] - expected[slot]).norm() / expected[slot].norm().clamp_min(1e-9)) < limit for slot in found)


def _as_tensors(network: Network, runner: Runner, step: list[Row]) -> list[Any]:
    return [network.torch.as_tensor(row.full() if hasattr(row, "full") else row).clone() for row in runner.forward(step)]


def tolerance(network: Network) -> float:
    """How far logits may be apart, as a share of their length, and still come from the same computation."""
    if getattr(network.model, "is_quantized", False):
        return 0.15
    return 2e-3 if network.dtype == network.torch.float32 else 5e-2


def record_steps(runner: Runner, network: Network, record: Record | None = None) -> str:
    """Let a runner play back its decoding steps where that computes the same in less time; a sentence where it does not. Empty: done.

    `record` stands in for the way of the graphics card. Both slots that are tried are empty afterwards.
    """
    if record is None and network.device.type != "cuda":
        return "CUDA graphs need a CUDA card; the model runs as it does without."
    devices = {parameter.device for parameter in network.model.parameters()}
    if not isinstance(runner, SlotRunner) or len(devices) > 1 or (record is None and not _is_first_card(devices, network.torch)):
        return "CUDA graphs need an architecture that runs in slots, whole on the first card; this model runs as it does without."
    steps = runner.recorded = RecordedSteps(network, runner.n_slots, record or cuda_recording(network.torch))
    played, played_s = _tried_steps(network, runner)  # before the plain ones, whose keys would make good what a recording failed to write
    runner.recorded = None
    plain, plain_s = _tried_steps(network, runner)
    difference = max(float((one - other).norm() / other.norm().clamp_min(1e-9)) for one, other in zip(played, plain, strict=True))
    log.info("a step takes %.2f ms plain and %.2f ms recorded; they differ by %.2g", 1e3 * plain_s, 1e3 * played_s, difference)
    reason = "" if played_s < plain_s else "it was not faster"
    if difference >= tolerance(network):
        reason = "it computed something else"
    elif steps.refused or not steps.count:
        reason = f"they cannot be recorded ({steps.refused or 'there is no memory for it'})"
    if reason:
        return f"CUDA graphs were tried and left off: {reason}. The model runs as it does without."
    runner.recorded = steps
    return ""


def _is_first_card(devices: Iterable[Any], torch: Any) -> bool:
    """Whether weights lie on the card whose streams record."""
    return all(device.type == "cuda" and device.index in (None, torch.cuda.current_device()) for device in devices)


def _tried_steps(network: Network, runner: Runner) -> tuple[list[Any], float]:
    """Logits of a few decoding steps in the first and the last slot, and the seconds of one in the middle."""
    long, short = _check_sequences(network)
    slots = sorted({0, runner.n_slots - 1})
    _as_tensors(network, runner, [Row(slot, 0, long[:2]) for slot in slots])
    found, times = [], []
    for place in range(TRIED_STEPS):
        begun_s = time.perf_counter()
        found += _as_tensors(network, runner, [Row(slot, 2 + place, [short[(place + slot) % len(short)]]) for slot in slots])
        times.append(time.perf_counter() - begun_s)
    for slot in slots:
        runner.truncate(slot, 0)
    return found, statistics.median(times)
