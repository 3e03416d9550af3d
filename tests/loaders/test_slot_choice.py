"""How many replies at the same time, where nobody said: by memory and context, the same for loaders and forecasts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import OutOfMemory
from modules.core.model import LoadedModel, LoadOptions, Row
from modules.loaders import machine, slot_choice
from modules.loaders.fit import Needs
from modules.loaders.gguf_header import read_gguf_header
from modules.loaders.llama_cpp import memory as llama_cpp_memory
from modules.loaders.llama_cpp.options import LlamaCppOptions
from modules.loaders.registry import LOADERS
from modules.loaders.shape import Shape, gguf_shape
from modules.loaders.slot_choice import choose_slots, slots_note
from modules.loaders.transformers import memory as transformers_memory
from modules.loaders.transformers.options import TransformersOptions
from modules.services.fit_expected import Expected, local_shape
from tests.tiny_models import TinyFiles, write_folder, write_gguf, write_window_gguf

GB = 10**9
CONTEXT = 8192
LLAMA_CPP, TRANSFORMERS = "llama.cpp", "transformers"


@pytest.fixture
def free_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let the machine seem to have so many bytes for models."""

    def set_bytes(count: float) -> None:
        for module in (machine, llama_cpp_memory):
            monkeypatch.setattr(module, "available_bytes", lambda: int(count) + machine.RESERVE_BYTES)

    return set_bytes


def load(path: Path, loader: str, **options: Any) -> LoadedModel:
    spec = next(spec for spec in LOADERS if spec.name == loader)
    more = {"threads_batch": 1} if loader == LLAMA_CPP else {}
    return spec.load(path, spec.options(threads=1, **more, **options), lambda *_: None)


def model_of(token_bytes: float) -> Callable[[int], Needs]:
    """5 GB of weights, and 100 MB of buffers for each slot."""
    return lambda slots: Needs(5 * GB, slots * GB // 10, token_bytes)


@pytest.mark.parametrize(
    ("free", "token_bytes", "context", "slots"),
    [
        (5.5, 128 << 10, CONTEXT, 1),  # not even one: its context is cut, or refused
        (6.2, 128 << 10, CONTEXT, 1),
        (7.34, 128 << 10, CONTEXT, 1),
        (7.4, 128 << 10, CONTEXT, 2),
        (9.6, 128 << 10, CONTEXT, 2),
        (9.7, 128 << 10, CONTEXT, 4),
        (9.7, 128 << 10, 2 * CONTEXT, 2),  # a longer context for fewer
        (31.9, 12 << 10, 512, 4),  # never more on machines of this size
        (32.0, 12 << 10, 512, 16),
        (32.0, 16 << 10, CONTEXT, 8),
        (32.0, 128 << 10, CONTEXT, 4),
        (64.0, 128 << 10, CONTEXT, 4),
        (90.0, 128 << 10, CONTEXT, 8),
        (200.0, 128 << 10, CONTEXT, 16),
    ],
)
def test_as_many_as_have_their_whole_context(free: float, token_bytes: float, context: int, slots: int) -> None:
    chosen = choose_slots(model_of(token_bytes), context, int(free * GB), may_be_more=True)
    assert chosen == slots
    assert choose_slots(model_of(token_bytes), context, int(free * GB)) == min(slots, 4)


def test_slots_with_a_state_of_their_own_are_fewer_where_their_states_do_not_fit() -> None:
    assert [choose_slots(lambda slots: Needs(GB, slots * GB, 0.0), CONTEXT, free * GB) for free in (2, 3, 4, 5)] == [1, 2, 2, 4]


def test_the_note_tells_what_they_were_chosen_by() -> None:
    assert slots_note(4, CONTEXT, 8 * GB, fits=True) == ""
    assert slots_note(2, CONTEXT, 8 * GB, fits=True).startswith("2 slots instead of 4: what fits into 8.0 GB of free memory with 8192 tokens of context in each;")
    assert slots_note(1, CONTEXT, 8 * GB, fits=True).startswith("1 slot instead of 4: what fits")
    assert slots_note(1, CONTEXT, 8 * GB, fits=False) == "1 slot instead of 4: 8.0 GB of free memory is too little for one context of 8192 tokens."
    assert slots_note(8, CONTEXT, 90 * GB, fits=True) == "8 slots instead of 4: 90.0 GB of memory is free, which is plenty for 8192 tokens of context in each."


def test_nothing_ever_reckons_with_no_slots() -> None:
    assert LoadOptions().slots == 0
    assert LoadOptions().step_outputs == LoadOptions(slots=4).step_outputs == 4
    assert LoadOptions(slots=1, draft_lookup=True).step_outputs == 17
    shape = Shape("x", GB, GB, layers=4, width=64, heads=8, head_width=8, inner=128, vocabulary=1000, trained_tokens=4096, state_numbers=1000)
    assert llama_cpp_memory.estimate(shape, LlamaCppOptions()) == llama_cpp_memory.estimate(shape, LlamaCppOptions(slots=4))
    assert transformers_memory.estimate(shape, TransformersOptions(), "float32") == transformers_memory.estimate(shape, TransformersOptions(slots=4), "float32")


# ---- real loads ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def long_model(tmp_path: Path) -> dict[str, Path]:
    """A small model whose cache takes more than its weights, for each loader."""
    folder = write_folder(tmp_path / "long", max_position_embeddings=4096)
    return {TRANSFORMERS: folder, LLAMA_CPP: write_gguf(tmp_path / "long.gguf", folder)}


def needed(path: Path, loader: str, slots: int) -> int:
    """What the loader counts with for so many whole contexts."""
    if loader == LLAMA_CPP:
        header = read_gguf_header(path, keep_tokens=True)
        return llama_cpp_memory.estimate(gguf_shape((header,), header.size_bytes), LlamaCppOptions(slots=slots)).total(slots * 4096)
    return transformers_memory.estimate(local_shape(path), TransformersOptions(slots=slots), "float32").total(slots * 4096)


@pytest.mark.parametrize("loader", [LLAMA_CPP, TRANSFORMERS])
@pytest.mark.parametrize("slots", [1, 2, 4])
def test_little_memory_gives_fewer_slots_and_the_whole_context(
    long_model: dict[str, Path], free_memory: Callable[[float], None], loader: str, slots: int
) -> None:
    path = long_model[loader]
    free_memory(needed(path, loader, slots) + 1000)
    assert needed(path, loader, slots) + 1000 < needed(path, loader, {1: 2, 2: 4, 4: 8}[slots])
    model = load(path, loader, mmap="on") if loader == LLAMA_CPP else load(path, loader)
    assert (model.runner.n_slots, model.runner.context_length) == (slots, 4096)
    assert model.runner.capacity_tokens >= slots * 4096
    assert not any("Context cut" in note or "hold" in note for note in model.notes)
    told = [note for note in model.notes if "instead of 4" in note]
    assert [note.partition(" slot")[0] for note in told] == ([] if slots == 4 else [str(slots)])
    assert all("with 4096 tokens of context in each" in note for note in told)
    last = model.runner.n_slots - 1
    assert len(model.runner.forward([Row(last, 0, [5, 6, 7])])) == 1
    model.runner.close()


@pytest.mark.parametrize("loader", [LLAMA_CPP, TRANSFORMERS])
def test_a_forecast_has_the_slots_of_the_load(long_model: dict[str, Path], free_memory: Callable[[float], None], loader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for what a process takes before it begins to load, which is left out here."""
    for module, name in ((llama_cpp_memory, LLAMA_CPP), (transformers_memory, TRANSFORMERS)):
        if name == loader:
            monkeypatch.setattr(module, "PROCESS_BYTES", module.TO_COME_BYTES)
    path = long_model[loader]
    for slots in (1, 2, 4):
        free_memory(needed(path, loader, slots) + 1000)
        expected = Expected(local_shape(path), loader, {}, "float32", None)
        model = load(path, loader)
        assert expected.settled.slots == model.runner.n_slots == slots
        set_so = Expected(local_shape(path), loader, {"slots": slots}, "float32", None)
        assert expected.needs == set_so.needs
        model.runner.close()
    on_card = Expected(local_shape(path), loader, {}, "float32", None, on_gpu=True)
    assert on_card.settled.slots == 4  # what is free there is no matter of main memory


@pytest.mark.parametrize("loader", [LLAMA_CPP, TRANSFORMERS])
def test_a_number_that_was_set_is_kept_whatever_the_memory(long_model: dict[str, Path], free_memory: Callable[[float], None], loader: str) -> None:
    path = long_model[loader]
    free_memory(needed(path, loader, 2) + 1000)
    model = load(path, loader, slots=4)
    assert model.runner.n_slots == 4
    assert any("tokens instead of 16384" in note or note.startswith("Context cut to") for note in model.notes)
    assert not any("instead of 4:" in note for note in model.notes)
    model.runner.close()


@pytest.mark.parametrize("loader", [LLAMA_CPP, TRANSFORMERS])
def test_a_context_that_was_asked_for_is_refused_only_where_one_slot_cannot_have_it(long_model: dict[str, Path], free_memory: Callable[[float], None], loader: str) -> None:
    path = long_model[loader]
    free_memory(needed(path, loader, 1) + 1000)
    model = load(path, loader, context_length=4096)
    assert (model.runner.n_slots, model.runner.context_length) == (1, 4096)
    model.runner.close()
    free_memory(needed(path, loader, 1) - 100_000)
    with pytest.raises(OutOfMemory, match="4096 tokens"):
        load(path, loader, context_length=4096)
    shorter = load(path, loader)
    assert (shorter.runner.n_slots, shorter.runner.context_length < 4096) == (1, True)
    assert any(note.startswith("Context cut") for note in shorter.notes)
    assert any(note.startswith("1 slot instead of 4:") and "too little for one context of 4096 tokens" in note for note in shorter.notes)
    shorter.runner.close()


@pytest.fixture
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_choice, "PLENTY_BYTES", 1 << 30)


def test_with_plenty_each_of_more_slots_has_a_cache_of_its_own(tiny: TinyFiles, free_memory: Callable[[float], None], plenty: None, tmp_path: Path) -> None:
    free_memory(2 << 30)
    model = load(tiny.gguf, LLAMA_CPP)
    assert (model.runner.n_slots, model.runner.capacity_tokens, model.runner.mixes_slots) == (16, 16 * 256, False)
    assert any(note.startswith("16 slots instead of 4: 2.1 GB of memory is free") for note in model.notes)
    model.runner.forward([Row(slot, 0, [5, 6]) for slot in range(16)])
    model.runner.close()
    for path, loader, options in (
        (tiny.folder, TRANSFORMERS, {}),  # one long reply would take the memory of all
        (tiny.gguf, LLAMA_CPP, {"cache_tokens": 4096}),  # shared
        (tiny.gguf, LLAMA_CPP, {"draft_model": str(write_gguf(tmp_path / "draft.gguf", tiny.folder))}),
        (write_window_gguf(tiny.models.parent), LLAMA_CPP, {}),
    ):
        usual = load(path, loader, **options)
        assert usual.runner.n_slots == 4
        assert not any("instead of 4" in note for note in usual.notes)
        if usual.draft is not None and usual.draft.runner is not None:
            assert usual.draft.runner.n_slots == 4  # the same slots
            usual.draft.runner.close()
        usual.runner.close()


def test_a_draft_model_is_counted_and_has_the_same_slots(long_model: dict[str, Path], free_memory: Callable[[float], None], tmp_path: Path) -> None:
    path = long_model[LLAMA_CPP]
    draft = write_gguf(tmp_path / "draft.gguf", long_model[TRANSFORMERS])
    free_memory(2 * needed(path, LLAMA_CPP, 2) + (1 << 20))
    assert needed(path, LLAMA_CPP, 4) < 2 * needed(path, LLAMA_CPP, 2) + (1 << 20) < 2 * needed(path, LLAMA_CPP, 4)
    model = load(path, LLAMA_CPP, draft_model=str(draft), draft_tokens=1, mmap="on")
    assert model.draft is not None and model.draft.runner is not None
    assert model.runner.n_slots == model.draft.runner.n_slots == 2
    model.draft.runner.close()
    model.runner.close()
