"""A draft model over both real back ends: the same tokens as without, however a reply ends and whoever writes beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import LoadFailed, NotFound, OutOfMemory
from modules.core.generation import GenerationRequest, TextPrompt
from modules.core.model import DraftSource, LoadedModel
from modules.core.params import GenerationParams
from modules.engine.client import EngineClient
from modules.engine.engine import Engine
from modules.loaders import machine
from modules.loaders.registry import find_loader
from tests.contracts.test_engines import Watched
from tests.engine.steady import steady
from tests.fakes import Inbox
from tests.tiny_models import TinyFiles, write_folder, write_gguf

TEXTS = ("The little fox found", "We bake bread from", "A bird sang", "My hat is green and your coat", "She took the ball", "to her")
COUNT = 24
GREEDY = GenerationParams(temperature=0, max_tokens=COUNT, logprobs=2)
OPTIONS = {"slots": 6, "threads": 1, "context_length": 200}
DRAFT_TOKENS = 4


@pytest.fixture(scope="session")
def drafts(tiny: TinyFiles, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of half the layers that learned the same text, for each loader."""
    base = tmp_path_factory.mktemp("drafts")
    folder = write_folder(base / "half", trained=True, seed=3, num_hidden_layers=1)
    return {"llama.cpp": write_gguf(base / "half.gguf", folder), "transformers": folder}


def load(path: Path, draft: Path | None = None, **options: Any) -> LoadedModel:
    spec = find_loader(path)
    more = {"draft_model": str(draft), "draft_tokens": DRAFT_TOKENS} if draft else {}
    return spec.load(path, spec.options(**OPTIONS | more | options), lambda *_: None)


@pytest.fixture(scope="module", params=["llama.cpp", "transformers"])
def model(request: pytest.FixtureRequest, tiny: TinyFiles, drafts: dict[str, Path]) -> Iterator[LoadedModel]:
    loaded = load(tiny.gguf if request.param == "llama.cpp" else tiny.folder, drafts[request.param])
    yield loaded
    loaded.runner.close()
    assert loaded.draft is not None
    assert loaded.draft.runner is not None
    loaded.draft.runner.close()


class Bench:
    """Engines over one model, with drafts and without."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.engines: list[Engine] = []

    def start(self, *, drafting: bool, lookup: bool = False) -> tuple[Engine, Inbox]:
        held = self.model.draft
        assert held is not None
        assert held.runner is not None
        inbox = Inbox()
        draft = DraftSource(None if lookup else Watched(held.runner), held.tokens) if drafting else None
        engine = Engine(Watched(self.model.runner), self.model.tokenizer, inbox, draft=draft)
        if drafting:
            steady(engine)
        self.engines.append(engine)
        return engine, inbox

    def prompt(self, text: str) -> list[int]:
        return self.model.tokenizer.encode(text, add_special=True, parse_special=False)

    def write(
        self, texts: tuple[str, ...], params: GenerationParams, *, drafting: bool, together: bool = True, lookup: bool = False
    ) -> tuple[list[Any], Engine]:
        """Ids and end of each text."""
        engine, inbox = self.start(drafting=drafting, lookup=lookup)
        generations = []
        for text in texts:
            generations.append(engine.submit(self.prompt(text), params))
            if not together:
                inbox.wait(generations[-1])
        inbox.wait(*generations)
        assert engine.close()
        return [(inbox.ids(one), inbox.text(one), inbox.last(one).finish_reason, inbox.last(one).stop_string) for one in generations], engine


@pytest.fixture
def bench(model: LoadedModel) -> Iterator[Bench]:
    made = Bench(model)
    yield made
    for engine in made.engines:
        assert engine.close()


@pytest.mark.parametrize("together", [False, True], ids=["alone", "in a batch of six"])
def test_greedy_text_is_the_same_and_takes_fewer_steps(bench: Bench, together: bool) -> None:
    plain, without = bench.write(TEXTS, GREEDY, drafting=False, together=together)
    found, engine = bench.write(TEXTS, GREEDY, drafting=True, together=together)
    assert found == plain
    counters = engine.counters()
    assert counters.accepted_tokens > COUNT
    assert counters.steps < 0.7 * without.counters().steps
    assert counters.decode_tokens == without.counters().decode_tokens


@pytest.mark.parametrize("together", [False, True], ids=["alone", "in a batch of six"])
def test_so_is_text_drafted_from_what_was_written_before(bench: Bench, together: bool) -> None:
    learned = "We bake bread from flour, water, salt and time. My hat is green and your coat is blue"
    texts = tuple(f"{learned}. {text}" for text in TEXTS)
    plain, without = bench.write(texts, GREEDY, drafting=False, together=together)
    found, engine = bench.write(texts, GREEDY, drafting=True, together=together, lookup=True)
    assert found == plain
    assert engine.counters().accepted_tokens > COUNT
    if not together:  # six begin at different steps and end with the slowest: their count of steps is chance
        assert engine.counters().steps < without.counters().steps


@pytest.mark.parametrize("count", range(1, 9))
def test_it_ends_at_max_tokens(bench: Bench, count: int) -> None:
    params = GREEDY.model_copy(update={"max_tokens": count})
    plain, _ = bench.write(TEXTS[:2], params, drafting=False)
    found, _ = bench.write(TEXTS[:2], params, drafting=True)
    assert found == plain
    assert [len(ids) for ids, *_ in found] == [count, count]


@pytest.mark.parametrize("stop", [" under", "the old", "re", "o", "water", "."])
def test_it_ends_at_a_stop_string(bench: Bench, stop: str) -> None:
    params = GREEDY.model_copy(update={"stop": (stop,)})
    plain, _ = bench.write(TEXTS, params, drafting=False)
    found, _ = bench.write(TEXTS, params, drafting=True)
    assert found == plain
    assert any(row[3] == stop for row in found)


@pytest.mark.parametrize("more", [{}, {"temperature": 0.7, "top_p": 0.9}, {"repetition_penalty": 1.2, "penalty_range": 12}, {"mirostat_mode": 2}])
def test_the_same_seed_draws_the_same_text(bench: Bench, more: dict[str, Any]) -> None:
    params = GREEDY.model_copy(update={"temperature": 1.0, "seed": 3, "ban_eos": True} | more)
    plain, _ = bench.write(TEXTS[:2], params, drafting=False)
    found, engine = bench.write(TEXTS[:2], params, drafting=True)
    assert found == plain
    assert engine.counters().drafted_tokens > 0


def test_the_next_turn_goes_on_from_what_was_kept(bench: Bench) -> None:
    """After an end within drafts and after a cancel, what is reused is what was written."""
    engine, inbox = bench.start(drafting=True)
    first = engine.submit(bench.prompt(TEXTS[0]), GREEDY.model_copy(update={"stop": ("the old",)}))
    inbox.wait(first)
    second = engine.submit(bench.prompt(TEXTS[1]), GREEDY.model_copy(update={"max_tokens": 150, "ban_eos": True}))
    inbox.wait_for(lambda: len(inbox.ids(second)) > 5)
    second.cancel()
    inbox.wait(second)
    turns = [bench.prompt(text) + inbox.ids(one) + bench.prompt(" We bake")[-2:] for text, one in ((TEXTS[0], first), (TEXTS[1], second))]
    found = [engine.submit(turn, GREEDY) for turn in turns]
    inbox.wait(*found)
    assert all(inbox.started[one].reused_tokens >= len(turn) - 4 for one, turn in zip(found, turns, strict=True))
    assert engine.close()
    plain, quiet = bench.start(drafting=False)
    for one, turn in zip(found, turns, strict=True):
        plain.call(lambda: None)  # empties the slots
        expected = plain.submit(turn, GREEDY)
        quiet.wait(expected)
        assert inbox.ids(one) == quiet.ids(expected)


def test_what_it_takes_and_does_is_said(model: LoadedModel, tiny: TinyFiles) -> None:
    assert model.draft is not None
    assert model.draft.tokens == DRAFT_TOKENS
    assert any(re.match(r"half(\.gguf)? drafts up to 4 tokens a step\.", note) for note in model.notes)


@pytest.mark.parametrize(("said", "source"), [("on", DraftSource(None, 16)), ("auto", DraftSource(None, 16, is_careful=True)), ("off", None), (True, DraftSource(None, 16)), (False, None), ("1", DraftSource(None, 16)), ("no", None)])
def test_looking_up_needs_no_second_model(tiny: TinyFiles, said: object, source: DraftSource | None) -> None:
    for path in (tiny.gguf, tiny.folder):
        loaded = load(path, draft_lookup=said)
        assert loaded.draft == source
        assert any("from what was written before" in note for note in loaded.notes) == (said in ("on", True, "1"))
        loaded.runner.close()


def test_unasked_what_was_written_before_is_looked_up_where_that_can_be(tiny: TinyFiles, tmp_path: Path) -> None:
    """And it takes no room that was not there: steps of several tokens have no more outputs than before."""
    for path in (tiny.gguf, tiny.folder):
        usual, without = load(path), load(path, draft_lookup="off")
        assert usual.draft == DraftSource(None, 16, is_careful=True)
        assert usual.runner.max_outputs == without.runner.max_outputs
        usual.runner.close()
        without.runner.close()
    loaded = load(write_folder(tmp_path / "recurrent", "lfm2"))
    assert loaded.draft is None
    assert not any("drafted" in note for note in loaded.notes)  # nobody asked
    loaded.runner.close()


def test_an_editor_that_was_told_nothing_of_drafts_has_them(tiny: TinyFiles) -> None:
    """As a server has it by itself: the same text as without, in fewer steps, but only for who names no seed."""
    learned = "We bake bread from flour, water, salt and time. My hat is green and your coat is blue"
    for path in (tiny.gguf, tiny.folder):
        loaded = load(path)
        inbox = Inbox()
        engine = Engine(loaded.runner, loaded.tokenizer, inbox, draft=loaded.draft)
        steady(engine)
        prompt = loaded.tokenizer.encode(f"{learned}. We bake bread from", add_special=True, parse_special=False)
        written = []
        for more in ({"drafts": False}, {}, {"seed": 1}):
            generation = engine.submit(prompt, GREEDY.model_copy(update=more))
            inbox.wait(generation)
            usage = inbox.last(generation).usage
            assert usage is not None
            written.append((inbox.ids(generation), usage.accepted_tokens > 4))
        ids = written[0][0]
        assert written == [(ids, False), (ids, True), (ids, False)]
        assert engine.close()


# ---- refusals ------------------------------------------------------------------------------------------------------


def test_another_vocabulary_is_refused(tiny: TinyFiles, starter_gguf: Path, starter_dir: Path) -> None:
    for main, draft in ((tiny.gguf, starter_gguf), (tiny.folder, starter_dir)):
        with pytest.raises(LoadFailed, match=r"cannot draft for tiny.*vocabulary has 3072 tokens instead of 3\d\d.*leave draft_model empty"):
            load(main, draft)


def test_other_words_in_a_vocabulary_of_that_size_are_refused(drafts: dict[str, Path], starter_gguf: Path, tmp_path: Path) -> None:
    import json

    folder = tmp_path / "swapped"
    folder.mkdir()
    for file in drafts["transformers"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    words = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = words["model"]["vocab"]
    first, second = [word for word, token_id in vocab.items() if token_id in (20, 21)]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (folder / "tokenizer.json").write_text(json.dumps(words), encoding="utf-8")
    with pytest.raises(LoadFailed, match=r"its vocabulary is another one \(token 20 is “.” instead of “.”\)"):
        load(drafts["transformers"], folder)


@pytest.mark.parametrize("kind", ["llama.cpp", "transformers"])
def test_a_draft_model_that_is_not_there_is_refused(kind: str, tiny: TinyFiles) -> None:
    with pytest.raises(NotFound, match="draft model none"):
        load(tiny.gguf if kind == "llama.cpp" else tiny.folder, tiny.models / ("none.gguf" if kind == "llama.cpp" else "none"))


def test_a_broken_draft_model_is_refused(tiny: TinyFiles, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny.gguf.read_bytes()[:3000])
    with pytest.raises(LoadFailed, match=r"^The draft model: "):
        load(tiny.gguf, broken)


def test_a_model_that_cannot_take_tokens_back_loads_without_and_says_so(tmp_path: Path, drafts: dict[str, Path]) -> None:
    folder = write_folder(tmp_path / "recurrent", "lfm2")
    loaded = load(folder, drafts["transformers"])
    assert loaded.draft is None
    assert any("Nothing is drafted" in note for note in loaded.notes)
    loaded.runner.close()
    with pytest.raises(LoadFailed, match="cannot take back"):
        load(drafts["transformers"], folder)


@pytest.mark.parametrize("kind", ["llama.cpp", "transformers"])
def test_its_memory_counts_before_the_load(kind: str, tiny: TinyFiles, drafts: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is room for the model alone, the two are refused."""
    from modules.loaders.llama_cpp import memory as llama_cpp_memory

    main = tiny.gguf if kind == "llama.cpp" else tiny.folder
    low, high = 0, 8 << 30

    def fits(available: int, draft: Path | None) -> bool:
        for module in (machine, llama_cpp_memory):
            monkeypatch.setattr(module, "available_bytes", lambda: available)
        try:
            loaded = load(main, draft)
        except OutOfMemory:
            return False
        loaded.runner.close()
        if loaded.draft is not None and loaded.draft.runner is not None:
            loaded.draft.runner.close()
        return True

    while high - low > 1 << 20:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle, None) else (middle, high)
    assert not fits(high, drafts[kind])


# ---- in its process ------------------------------------------------------------------------------------------------


@pytest.mark.processes
async def test_an_engine_in_its_process_drafts_and_tells_how_many(tiny: TinyFiles, drafts: dict[str, Path]) -> None:
    request = GenerationRequest(prompt=TextPrompt(text="We bake bread from"), params=GenerationParams(temperature=0, max_tokens=100, ban_eos=True))
    texts = []
    for options in ({}, {"draft_model": str(drafts["llama.cpp"])}):
        client = await EngineClient.start(str(tiny.gguf), "", OPTIONS | options, name="tiny")
        generation = await client.submit(request)
        texts.append("".join([delta.text async for delta in generation]))
        usage, counters = generation.usage, await client.counters()
        await client.close()
    assert texts[0] == texts[1]
    assert usage.drafted_tokens == counters.drafted_tokens > 0
    assert usage.accepted_tokens == counters.accepted_tokens
