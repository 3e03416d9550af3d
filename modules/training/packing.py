"""Which sequences are learned together: steps, micro-batches, rows; and their tensors.

A step is a fixed set of samples, whatever the micro-batch size: at most `batch_size` samples of a shuffled order, each step of an epoch
with about as many, shared out evenly over its micro-batches. So size and number of micro-batches change memory and speed but not what is
learned. With packing the samples of a
micro-batch stand in one row, each seeing itself alone (positions restart, and there is no attention mask, which is the form that
transformers understands as packed), so that nothing is spent on filling up. With `batch_tokens` micro-batches are filled up to so many
tokens instead; then they are the same groups in every epoch, in another order. Pairs and judged answers are never packed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from modules.core.errors import InvalidRequest
from modules.training.options import TrainingOptions
from modules.training.samples import IGNORED, Encoded

if TYPE_CHECKING:
    from torch import Tensor

MicroBatch = tuple[tuple[int, ...], ...]  # rows; each row the places of the sequences in it
Unit = tuple[int, ...]  # what stays together: a sequence, or both of a pair

WINDOW_UNITS = 1024  # sequences of like length are looked for among so many, when tokens are counted
CHECK_LENGTHS = (23, 41, 17)  # longer than short windows of attention
# Of the largest logit, by bytes of a number: how far packed and single may differ, and how far what another sequence says may reach. Rounding
# reaches too, where it depends on what is reckoned together (experts); a true leak is many times more.
CHECK_TOLERANCES = {2: (5e-2, 1e-2), 4: (1e-3, 1e-5)}.items()


def accumulation(options: TrainingOptions, ranks: int) -> int:
    """Micro-batches of one step on each device."""
    return max(1, math.ceil(options.batch_size / (options.micro_batch_size * ranks)))


def plan_epoch(encoded: Sequence[Encoded], options: TrainingOptions, epoch: int) -> list[MicroBatch]:
    """The micro-batches of an epoch, in order; always as many, and a multiple of the devices.

    Where samples are counted and there are enough of them, each next `accumulation(options, ranks) * ranks` are a step.

    Raises:
        InvalidRequest: there are fewer samples than devices.
    """
    ranks = options.processes * options.nodes
    units = _units(encoded)
    if len(units) < ranks:
        raise InvalidRequest(f"{len(units)} samples cannot be shared by {ranks} devices; use fewer processes, or more data.", field="processes")
    if options.batch_tokens:
        groups: list[Sequence[Unit]] = list(_by_tokens(units, encoded, options, ranks))
        random.Random(f"{options.seed}:{epoch}").shuffle(groups)
    else:
        random.Random(f"{options.seed}:{epoch}").shuffle(units)
        groups = [group for step in _steps(units, max(options.batch_size, ranks), ranks) for group in _shared_out(step, encoded, options, ranks)]
    return [_rows(group, encoded, options) for group in groups]


def _units(encoded: Sequence[Encoded]) -> list[Unit]:
    units: list[Unit] = []
    for place, one in enumerate(encoded):
        if one.pair >= 0 and units and encoded[units[-1][-1]].pair == one.pair:
            units[-1] = (*units[-1], place)
        else:
            units.append((place,))
    return units


def _steps(units: Sequence[Unit], size: int, ranks: int) -> list[Sequence[Unit]]:
    """Units of each step: at most `size` of them, about as many in each."""
    count = max(1, min(math.ceil(len(units) / size), len(units) // ranks))
    return _evenly(units, count)


def _evenly(units: Sequence[Unit], count: int) -> list[Sequence[Unit]]:
    borders = [len(units) * part // count for part in range(count + 1)]
    return [units[begin:end] for begin, end in pairwise(borders)]


def _shared_out(step: Sequence[Unit], encoded: Sequence[Encoded], options: TrainingOptions, ranks: int) -> list[Sequence[Unit]]:
    """A step's units as its micro-batches, like lengths together; fewer only where there are fewer units."""
    count = min(accumulation(options, ranks) * ranks, len(step) // ranks * ranks)
    return _evenly(sorted(step, key=lambda unit: (-_length(unit, encoded), unit)), count)


def _by_tokens(units: Sequence[Unit], encoded: Sequence[Encoded], options: TrainingOptions, ranks: int) -> list[list[Unit]]:
    """Units in groups of at most `batch_tokens` tokens, or of one unit that is longer; a multiple of the devices."""
    shuffled = list(units)
    random.Random(f"{options.seed}").shuffle(shuffled)
    groups: list[list[Unit]] = []
    for begin in range(0, len(shuffled), WINDOW_UNITS):
        window = sorted(shuffled[begin : begin + WINDOW_UNITS], key=lambda unit: (-_length(unit, encoded), unit))
        groups += _fitted(window, encoded, options) if options.packing else _filled(window, encoded, options.batch_tokens)
    return _multiple(groups, ranks)


def _filled(window: Sequence[Unit], encoded: Sequence[Encoded], tokens: int) -> list[list[Unit]]:
    """Neighbours in order of length, as many as fit when all are filled up to the longest."""
    groups: list[list[Unit]] = []
    for unit in window:
        rows = sum(len(known) for known in groups[-1]) + len(unit) if groups else 0
        if groups and rows * _length(groups[-1][0], encoded) <= tokens:
            groups[-1].append(unit)
        else:
            groups.append([unit])
    return groups


def _fitted(window: Sequence[Unit], encoded: Sequence[Encoded], options: TrainingOptions) -> list[list[Unit]]:
    """Each unit into the first group with room, longest first."""
    if not _packs(encoded, window):
        return _filled(window, encoded, options.batch_tokens)
    groups: list[list[Unit]] = []
    rooms: list[int] = []
    for unit in window:
        length = _length(unit, encoded)
        place = next((place for place, room in enumerate(rooms) if room >= length), -1)
        if place < 0:
            groups.append([unit])
            rooms.append(options.batch_tokens - length)
        else:
            groups[place].append(unit)
            rooms[place] -= length
    return groups


def _multiple(groups: list[list[Unit]], ranks: int) -> list[list[Unit]]:
    """Split the groups with most units until every device gets as many; with too few units, put the last groups to others."""
    count = sum(map(len, groups))
    wanted = math.ceil(len(groups) / ranks) * ranks
    wanted = wanted if wanted <= count else count // ranks * ranks
    while len(groups) < wanted:
        place = max(range(len(groups)), key=lambda place: len(groups[place]))
        half = len(groups[place]) // 2
        groups[place : place + 1] = [groups[place][:half], groups[place][half:]]
    for place, group in enumerate(groups[wanted:]):
        groups[place] = groups[place] + group
    return groups[:wanted]


def _length(unit: Unit, encoded: Sequence[Encoded]) -> int:
    return max(len(encoded[place].token_ids) for place in unit)


def _packs(encoded: Sequence[Encoded], units: Sequence[Unit]) -> bool:
    return all(encoded[place].role == "sample" for unit in units for place in unit)


def _rows(group: Sequence[Unit], encoded: Sequence[Encoded], options: TrainingOptions) -> MicroBatch:
    places = tuple(place for unit in group for place in unit)
    return (places,) if options.packing and _packs(encoded, group) else tuple((place,) for place in places)


def collate(encoded: Sequence[Encoded], micro_batch: MicroBatch, pad_id: int) -> dict[str, Any]:
    """The tensors of a micro-batch: input_ids, labels, position_ids; attention_mask where rows were filled up.

    Of pairs and judged answers also `roles` and `pairs`, a word and a number for each row.
    """
    import torch

    rows = [[encoded[place] for place in row] for row in micro_batch]
    width = max(sum(len(one.token_ids) for one in row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED, dtype=torch.long)
    positions = torch.arange(width).repeat(len(rows), 1)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        at = 0
        for one in row:
            end = at + len(one.token_ids)
            ids[number, at:end] = torch.tensor(one.token_ids)
            labels[number, at:end] = torch.tensor(one.labels)
            labels[number, at] = IGNORED  # it would be learned from the sequence before
            positions[number, at:end] = torch.arange(end - at)
            mask[number, at:end] = 1
            at = end
    batch: dict[str, Any] = {"input_ids": ids, "labels": labels, "position_ids": positions}
    if not bool(mask.all()):
        batch["attention_mask"] = mask
    if any(one.role != "sample" for row in rows for one in row):
        batch["roles"] = tuple(row[0].role for row in rows)
        batch["pairs"] = tuple(row[0].pair for row in rows)
    return batch


def packs_exactly(model: Any) -> bool:
    """Whether the sequences of a packed row do not see each other in this model, by trying: recurrent models do, and some know no positions."""
    import torch

    device = next(model.parameters()).device
    most = min(1000, model.get_input_embeddings().num_embeddings)
    generator = torch.Generator().manual_seed(0)
    first, second, third = (torch.randint(0, most, (length,), generator=generator) for length in CHECK_LENGTHS)
    positions = torch.cat([torch.arange(length) for length in CHECK_LENGTHS])[None].to(device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():

            def logits(ids: Tensor, **more: Tensor) -> Tensor:
                found: Tensor = model(input_ids=ids[None].to(device), use_cache=False, **more).logits[0]
                return found

            packed = logits(torch.cat([first, second, third]), position_ids=positions)
            changed = logits(torch.cat([first.flip(0), second, third]), position_ids=positions)
            alone = torch.cat([logits(part) for part in (first, second, third)])
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, NotImplementedError):
        return False
    finally:
        model.train(was_training)
    rest = CHECK_LENGTHS[0]
    largest = float(alone.float().abs().max())
    difference, reach = dict(CHECK_TOLERANCES)[2 if packed.element_size() < 4 else 4]
    leaks = float((packed[rest:] - changed[rest:]).float().abs().max())
    differs = float((packed - alone).float().abs().max())
    return leaks <= reach * largest and differs <= difference * largest
