"""The cuts of a row, and that the whole vocabulary and a sorted list of it answer alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.core.params import GenerationParams
from modules.engine.candidates import Kept, NothingLeft
from modules.engine.logits import NumpyRow, as_row
from modules.engine.sampling import Sampler
from modules.engine.vocabulary import Whole

ODD = (np.nan, np.inf, -np.inf, -3.4e38)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Rows with ties, impossible tokens and what is no number."""
    size = draw(st.sampled_from([1, 2, 5, 64, 1023, 1024, 2048, 2049, 7000]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    row = (random.standard_normal(size) * 3).astype(np.float32)
    if draw(st.booleans()):
        row = np.round(row)
    for value in draw(st.lists(st.sampled_from(ODD), max_size=4)):
        row[random.random(size) < draw(st.sampled_from([0.001, 0.1, 1.0]))] = value
    return row


def cleaned(row: np.ndarray) -> np.ndarray:
    row = np.where(np.isnan(row), -np.inf, row)
    return np.where(row == np.inf, np.float32(1e30), row).astype(np.float32)


@settings(max_examples=100, deadline=None)
@given(arrays(), st.sampled_from([0, 1, 2, 40, 300, 1000, 5000]), st.sampled_from([-np.inf, -1.0, 0.5, 2.0000001, 100.0]))
def test_a_cut_is_what_sorting_everything_gives(row: np.ndarray, k: int, threshold: float) -> None:
    before = row.copy()
    ids, logits = NumpyRow(row).cut(k, threshold)
    clean = cleaned(row)
    order = np.lexsort((np.arange(len(row)), -clean))[: k or None]
    want = [i for i in order.tolist() if float(clean[i]) >= threshold and clean[i] >= -1e30]
    assert sorted(ids.tolist()) == sorted(want)
    assert np.array_equal(logits, clean[ids])
    assert np.array_equal(row, before, equal_nan=True)


@settings(max_examples=100, deadline=None)
@given(arrays())
def test_the_statistics_of_a_row(row: np.ndarray) -> None:
    clean, one = cleaned(row), NumpyRow(row)
    assert one.max() == clean.max()
    assert np.array_equal(one.at(np.array([0, len(row) - 1])), clean[[0, -1]])
    assert np.array_equal(NumpyRow(row).full(), clean)
    if np.isfinite(clean.max()):
        total = np.exp(clean.astype(np.float64) - clean.max()).sum()
        assert one.logsumexp() == pytest.approx(clean.max() + np.log(total), abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(arrays(), st.sampled_from([1.0, 0.5, 1.7]), st.lists(st.integers(0, 6999), max_size=200, unique=True), st.floats(0.001, 0.999))
def test_whole_and_kept_answer_alike(row: np.ndarray, factor: float, touched: list[int], share: float) -> None:
    clean = cleaned(row)
    clean[clean > 1e29] = 50  # infinities aside
    clean[clean < -1e29] = -np.inf
    ids = np.array(sorted(i for i in touched if i < len(row)), np.int64)
    change = np.linspace(-30, 4, len(ids))
    try:
        kept = Kept.sort(np.arange(len(row)), clean.astype(np.float64))
    except NothingLeft:
        return
    forms = [form.scaled(factor).adjust(ids, lambda x, place: x + change[place]) for form in (Whole(NumpyRow(clean)), kept)]
    forms = [form.adjust(ids[::3], lambda x, place: x * 0.5) for form in forms]
    whole, kept = forms
    if len(row) == 1 or clean.max() < -1e29:
        return
    assert whole.max() == pytest.approx(kept.max(), rel=1e-6)
    assert whole.log_total() == pytest.approx(kept.log_total(), rel=1e-6, abs=1e-6)
    for method, argument in (("top", 40), ("top", 3000), ("above", 1.3), ("nucleus", share), ("typical", share)):
        one, other = getattr(whole, method)(argument), getattr(kept, method)(argument)
        assert one.ids.tolist() == other.ids.tolist(), method
        assert np.allclose(one.logits, other.logits), method
    drawn = int((kept.ids == whole.draw(share)).nonzero()[0][0])
    borders = np.concatenate(([0.0], kept.probabilities().cumsum()))
    assert borders[drawn] - 1e-6 <= share <= borders[drawn + 1] + 1e-6  # on a border, rounding decides


class DeviceRow:
    """A row as a device gives it: cuts in no order."""

    def __init__(self, row: np.ndarray) -> None:
        self.row, self.size, self.moved = row, len(row), 0

    def max(self) -> float:
        return float(self.row.max())

    def logsumexp(self) -> float:
        return NumpyRow(self.row).logsumexp()

    def at(self, token_ids: np.ndarray) -> np.ndarray:
        return self.row[token_ids]

    def cut(self, k: int, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        ids = np.random.default_rng(0).permutation(NumpyRow(self.row).cut(k, threshold)[0])
        return ids, self.row[ids]

    def full(self) -> np.ndarray:
        self.moved += 1
        return self.row


@pytest.mark.parametrize("fields", [{"top_k": 40}, {"min_p": 0.05}, {"top_p": 0.3}, {"temperature": 0}, {"top_k": 9, "repetition_penalty": 1.2}])
def test_a_row_of_a_device_gives_the_same_tokens_without_leaving_it(fields: dict) -> None:
    row = (np.random.default_rng(1).standard_normal(5000) * 3).astype(np.float32)
    device, params = DeviceRow(row), GenerationParams(seed=4, **fields)
    samplers = [Sampler(params, vocab_size=5000, end_ids=set(), prompt_ids=[1, 2, 3]) for _ in range(2)]
    for _ in range(20):
        tokens = [one.sample(source) for one, source in zip(samplers, (as_row(device), as_row(row)), strict=True)]
        assert tokens[0] == tokens[1]
    assert device.moved == 0


def test_half_precision_rows_are_read() -> None:
    assert as_row(np.array([1, 3, 2], np.float16)).cut(1, -np.inf)[0].tolist() == [1]
