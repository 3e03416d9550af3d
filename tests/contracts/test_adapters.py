"""LoRA adapters in the engine over both real back ends: side by side as alone, and scales that change without reading anything again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.core.errors import Conflict, NotFound
from modules.core.generation import TokenLogprob
from modules.core.model import Adapter, DraftSource, LoadedModel
from modules.core.params import GenerationParams
from modules.engine.engine import Engine
from modules.loaders.adapter_facts import files_version
from modules.loaders.registry import find_loader
from tests.engine.steady import steady
from tests.engine.ties import assert_same_but_for_ties
from tests.fakes import Inbox
from tests.tiny_models import TinyFiles

GREEDY = GenerationParams(temperature=0, max_tokens=24, logprobs=5, ban_eos=True)
PROMPTS = ("The little fox found", "We bake bread from", "A bird sang in the")


class Bench:
    """One engine on a loaded model."""

    def __init__(self, model: LoadedModel, draft: DraftSource | None = None) -> None:
        self.model, self.inbox = model, Inbox()
        self.engine = Engine(model.runner, model.tokenizer, self.inbox, set_adapters=model.set_adapters, draft=draft)
        if draft is not None:
            steady(self.engine)

    def begin(self, prompt: str, *adapters: Adapter, count: int = 24):
        ids = self.model.tokenizer.encode(prompt, add_special=True, parse_special=False)
        return self.engine.submit(ids, GREEDY.model_copy(update={"max_tokens": count}), adapters=adapters)

    def entries(self, generation) -> list[TokenLogprob]:
        self.inbox.wait(generation)
        return [entry for delta in self.inbox.deltas[generation] for entry in delta.logprobs]

    def ids(self, prompt: str, *adapters: Adapter, count: int = 24) -> list[int]:
        """What is written by itself, with nothing reused."""
        self.engine.call(lambda: None)
        return [entry.token_id for entry in self.entries(self.begin(prompt, *adapters, count=count))]


@pytest.fixture(params=["llama.cpp", "llama.cpp with drafts", "transformers"])
def bench(request: pytest.FixtureRequest, tiny: TinyFiles) -> Iterator[Bench]:
    loader, _, drafts = request.param.partition(" ")
    path = tiny.gguf if loader == "llama.cpp" else tiny.folder
    spec = find_loader(path, loader)

    def load() -> LoadedModel:
        return spec.load(path, spec.options(slots=16, threads=1), lambda *_: None)

    made = Bench(load(), DraftSource(load().runner, 4) if drafts else None)  # the drafts are those of the plain model
    yield made
    assert made.engine.close()


@pytest.fixture
def adapters(tiny: TinyFiles, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of two PEFT folders, which both loaders take."""
    return tuple(Path(shutil.copytree(path, tmp_path / path.name)) for path in (tiny.adapter, tiny.second_adapter))  # type: ignore[return-value]


def test_conversations_with_different_adapters_at_the_same_time_are_each_as_alone(
    bench: Bench, adapters: tuple[Path, Path], request: pytest.FixtureRequest
) -> None:
    first, second = (str(path) for path in adapters)
    sets = (
        (), (Adapter(path=first, scale=0.5),), (Adapter(path=second, scale=0.5),), (Adapter(path=first, scale=0.3), Adapter(path=second, scale=-0.2)),
    )  # fmt: skip
    asked = [(prompt, chosen) for prompt in PROMPTS for chosen in sets]
    alone = []
    for prompt, chosen in asked:
        bench.engine.call(lambda: None)
        alone.append(bench.entries(bench.begin(prompt, *chosen)))
    assert len({tuple(entry.token_id for entry in written) for written in alone}) > len(PROMPTS) * (len(sets) - 1)  # they do act
    for _ in range(2):  # the second time everybody finds a prefix of their own
        generations = [bench.begin(prompt, *chosen) for prompt, chosen in asked]
        together = [[entry.token_id for entry in bench.entries(generation)] for generation in generations]
        assert_same_but_for_ties(together, alone)
    counters = bench.engine.counters()
    assert counters.reused_tokens > 0
    if request.node.callspec.params["bench"].endswith("drafts"):
        assert 0 < counters.accepted_tokens < counters.drafted_tokens


def test_a_scale_changes_at_once_and_back_without_reading_the_files_again(bench: Bench, adapters: tuple[Path, Path]) -> None:
    path = adapters[0]
    plain, strong = bench.ids(PROMPTS[0]), bench.ids(PROMPTS[0], Adapter(path=str(path)))
    assert strong != plain
    for file in [file for file in path.rglob("*") if file.is_file()]:  # what is read now is broken, and does not look changed
        state = file.stat()
        file.write_bytes(bytes(state.st_size))
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert bench.ids(PROMPTS[0], Adapter(path=str(path), scale=0.0)) == plain
    weak = bench.ids(PROMPTS[0], Adapter(path=str(path), scale=0.4))
    assert weak not in (plain, strong)
    assert bench.ids(PROMPTS[0]) == plain
    assert bench.ids(PROMPTS[0], Adapter(path=str(path))) == strong
    bench.engine.try_adapters([Adapter(path=str(path), scale=2)])  # as a slider does
    assert bench.ids(PROMPTS[0], Adapter(path=str(path), scale=0.4)) == weak


def test_a_reply_keeps_its_adapters_when_their_files_are_deleted_and_others_are_tried(bench: Bench, adapters: tuple[Path, Path]) -> None:
    path = adapters[0]
    mine = Adapter(path=str(path), version=files_version(path))
    alone = bench.ids(PROMPTS[0], mine, count=200)
    assert alone[:24] != bench.ids(PROMPTS[0])
    running = bench.begin(PROMPTS[0], mine, count=200)
    bench.inbox.wait_for(lambda: running in bench.inbox.started)
    shutil.rmtree(path)
    bench.engine.try_adapters([Adapter(path=str(adapters[1]))])
    with pytest.raises(NotFound):
        bench.engine.try_adapters([Adapter(path=str(path))])
    assert [entry.token_id for entry in bench.entries(running)] == alone
    assert bench.ids(PROMPTS[0], mine, count=200) == alone


def test_files_that_were_replaced_are_another_adapter_and_the_old_one_goes_on(bench: Bench, adapters: tuple[Path, Path]) -> None:
    path, other = adapters
    old = Adapter(path=str(path), version=files_version(path))
    first, second = bench.ids(PROMPTS[0], old, count=200), bench.ids(PROMPTS[0], Adapter(path=str(other)))
    assert first[:24] != second
    running = bench.begin(PROMPTS[0], old, count=200)
    shutil.rmtree(path)
    shutil.copytree(other, path)
    os.utime(path / "adapter_model.safetensors")
    new = Adapter(path=str(path), version=files_version(path))
    bench.engine.try_adapters([new])
    assert [entry.token_id for entry in bench.entries(running)] == first
    assert bench.ids(PROMPTS[0], new) == second
    never_read = Adapter(path=str(path), version="of the day before")
    with pytest.raises(Conflict, match="were replaced since this was asked for; send it again"):
        bench.engine.try_adapters([never_read])
    assert bench.ids(PROMPTS[0], new) == second
