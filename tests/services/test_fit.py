"""Fit before the download: how much of a file is fetched, what is remembered, what is learned from loads."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import HubError, InvalidRequest, NotFound, OutOfMemory, UnsupportedFormat
from modules.core.generation import GenerationRequest, TextPrompt, Usage
from modules.core.params import GenerationParams
from modules.engine.client import EngineClient
from modules.loaders.gguf_header import read_gguf_header
from modules.loaders.llama_cpp.c_api import library
from modules.loaders.llama_cpp.memory import PROCESS_BYTES, PROJECTOR_WORK_BYTES
from modules.loaders.machine import RESERVE_BYTES, has_tiles
from modules.loaders.measured import Pace, Rate
from modules.services import machine_probe
from modules.services.app import App
from modules.services.fit_expected import Expected, local_shape
from modules.services.fit_records import FitRecord, FitRecords
from modules.services.machine_speed import MachineSpeed
from tests.hub.hub_server import HubServer
from tests.llama_loops import takes_four_bits
from tests.measured_machine import write_measured
from tests.services.conftest import ONE, WRITING
from tests.sparse_models import write_sparse_gguf
from tests.tiny_vision import vision_files

pytestmark = pytest.mark.processes

REPO, COMMIT = "meadow/pony", "a" * 40


@pytest.fixture
def hub(starter_dir: Path, starter_gguf: Path) -> Iterator[HubServer]:
    running = HubServer().start()
    names = ("config.json", "model.safetensors", "tokenizer.json")
    running.add(
        REPO,
        {
            "pony-Q8_0.gguf": starter_gguf.read_bytes(), "cut.gguf": starter_gguf.read_bytes()[:20_000], "page.gguf": b"<html>" * 9000,
            **{name: (starter_dir / name).read_bytes() for name in names},
        },
    )  # fmt: skip
    yield running
    running.stop()


@pytest.fixture
def app(hub: HubServer, start_app: Callable[..., App]) -> App:
    app = start_app(hub_endpoint=hub.endpoint)
    write_measured(app.settings.state_dir)
    return app


async def test_a_gguf_model_by_the_first_part_of_its_file(app: App, hub: HubServer, starter_gguf: Path) -> None:
    report = await app.fit.remote(REPO, COMMIT, ["pony-Q8_0.gguf"], "gguf")
    assert report.one.kind == "fits"
    assert report.one.context_length == 1024  # all it was trained for
    assert re.fullmatch(
        r"Fits with a context of 1024 tokens: needs about [\d.]+ MB, [\d.]+ GB is free\. About [\d.]+ tokens/s\. For 4 users at once: 1024 tokens each\.",
        report.sentence,
    )
    assert starter_gguf.stat().st_size / 10 < report.one.needed_bytes < 200e6
    assert report.several.needed_bytes > report.one.needed_bytes
    local = local_shape(starter_gguf)
    assert abs(sum(tensor.size_bytes for tensor in read_gguf_header(starter_gguf).tensors) - local.stored_bytes) < 400_000
    assert 0 < hub.sent() <= 300_000  # of 3.4 MB


async def test_what_was_read_is_remembered_by_commit(app: App, hub: HubServer) -> None:
    first = await app.fit.remote(REPO, COMMIT, ["pony-Q8_0.gguf"], "gguf")
    hub.forget()
    assert (await app.fit.remote(REPO, COMMIT, ["pony-Q8_0.gguf"], "gguf")).one.needed_bytes == first.one.needed_bytes
    assert hub.seen == []
    await app.fit.remote(REPO, "main", ["pony-Q8_0.gguf"], "gguf")
    await app.fit.remote(REPO, "main", ["pony-Q8_0.gguf"], "gguf")
    assert len(hub.gets("hub", "pony-Q8_0.gguf")) == 2


async def test_with_their_sizes_one_header_serves_all_quantizations(app: App, hub: HubServer, starter_gguf: Path) -> None:
    data = starter_gguf.read_bytes()
    hub.add("meadow/many", {f"pony-{kind}.gguf": data for kind in ("Q8_0", "Q4_0", "Q4_K_M")} | {"horse-Q8_0.gguf": data})
    asked = [app.fit.remote("meadow/many", COMMIT, [f"pony-{kind}.gguf"], "gguf", size_bytes=size) for kind, size in (("Q8_0", 4_000_000), ("Q4_0", 2_000_000))]
    larger, smaller = await asyncio.gather(*asked)
    assert larger.one.needed_bytes - smaller.one.needed_bytes == 2_000_000
    await app.fit.remote("meadow/many", COMMIT, ["pony-Q4_K_M.gguf"], "gguf", size_bytes=3_000_000)
    assert len(hub.gets("hub", "pony-")) == 1
    await app.fit.remote("meadow/many", COMMIT, ["horse-Q8_0.gguf"], "gguf", size_bytes=3_000_000)
    assert len(hub.gets("hub", "horse-")) == 1


async def test_a_folder_by_its_config_and_the_head_of_its_weights(app: App, hub: HubServer, starter_dir: Path) -> None:
    files = ["model.safetensors", "config.json", "tokenizer.json"]
    report = await app.fit.remote(REPO, COMMIT, files, "folder")
    assert report.one.kind == "fits"
    assert 300e6 < report.one.needed_bytes < 600e6  # PyTorch itself
    assert hub.sent() < 400_000
    shape = next(iter(app.fit._shapes.values()))
    known = local_shape(starter_dir)
    assert (shape.cache, shape.layers, shape.vocabulary) == (known.cache, known.layers, known.vocabulary)
    assert shape.parameters == pytest.approx(known.parameters, rel=0.01)


async def test_what_cannot_be_told_is_a_sentence(app: App, hub: HubServer) -> None:
    for file, words in (("cut.gguf", "cut short"), ("page.gguf", "not a GGUF file")):
        with pytest.raises(UnsupportedFormat, match=words):
            await app.fit.remote(REPO, COMMIT, [file], "gguf")
    with pytest.raises(HubError):
        await app.fit.remote(REPO, COMMIT, ["missing.gguf"], "gguf")
    for files, kind in (([], "gguf"), (["a.bin"], "folder"), (["a.gguf"], "adapter")):
        with pytest.raises(InvalidRequest):
            await app.fit.remote(REPO, COMMIT, files, kind)
    with pytest.raises(NotFound):
        await app.fit.local("nothing.gguf")


async def test_a_projector_is_counted(app: App, hub: HubServer, start_app: Callable[..., App], tmp_path_factory: pytest.TempPathFactory) -> None:
    plain = await app.fit.remote(REPO, COMMIT, ["pony-Q8_0.gguf"], "gguf")
    seeing = await app.fit.remote(REPO, COMMIT, ["pony-Q8_0.gguf"], "gguf", projector_bytes=500_000_000)
    assert seeing.one.needed_bytes - plain.one.needed_bytes == 500_000_000 + PROJECTOR_WORK_BYTES
    assert "Its projector for images is counted, 634.2 MB." in seeing.sentence
    assert "projector" not in plain.sentence
    files = vision_files(tmp_path_factory.getbasetemp(), "llava")
    local = start_app(models_dir=files.model.parent)
    write_measured(local.settings.state_dir)
    report = await local.fit.local(files.model.name)
    assert "Its projector for images is counted" in report.sentence


async def test_the_best_choice_and_the_best_settings(app: App, hub: HubServer, starter_gguf: Path) -> None:
    data = starter_gguf.read_bytes()
    hub.add("meadow/many", {f"pony-{kind}.gguf": data for kind in ("Q8_0", "Q4_0", "F16")} | {"pony-Q6_K.gguf": b"<html>" * 9000})
    choices = [
        {"label": kind, "files": [f"pony-{kind}.gguf"], "kind": "gguf", "quantization": kind, "bytes": size}
        for kind, size in (("Q4_0", 2_000_000), ("Q6_K", 3_000_000), ("Q8_0", 4_000_000), ("F16", 8_000_000))
    ]
    assert await app.fit.recommend("meadow/many", COMMIT, choices) == ("Q8_0", "The largest that fits with a context of 1024 tokens.")
    assert await app.fit.recommend("meadow/many", COMMIT, []) is None
    advice = await app.fit.advice(ONE, "llama.cpp")
    assert advice.options == {"context_length": 1024}  # with as many slots as the loader chooses
    told = re.search(r"for (\d+) replies", advice.reason)
    assert told is not None
    client = await app.models.load(ONE, "llama.cpp", advice.options)
    assert (client.card.context_length, client.card.slots) == (1024, int(told[1]))


async def test_what_a_loaded_model_holds_does_not_count_against_it(app: App, monkeypatch: pytest.MonkeyPatch, starter_gguf: Path) -> None:
    shape, size = local_shape(starter_gguf), starter_gguf.stat().st_size
    assert app.fit._cards(ONE) == []
    held = {}
    for mmap in ("on", "off"):
        card = (await app.models.load(ONE, "llama.cpp", {"slots": 1, "mmap": mmap})).card
        held[mmap] = app.fit._own_bytes(app.fit._cards(ONE), shape, on_gpu=False)
        assert held[mmap] == max(0, card.memory_bytes - (size if mmap == "on" else 0))
    assert held["off"] > size  # the cache as well
    monkeypatch.setattr("modules.services.fit.available_bytes", lambda: RESERVE_BYTES + PROCESS_BYTES)  # it has taken all there was but for the process itself
    report = await app.fit.local(ONE)
    assert report.one.kind != "no"
    await app.models.unload(ONE)
    assert (await app.fit.local(ONE)).one.kind == "no"


async def test_advice_where_nothing_fits_is_a_sentence(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.services.fit.available_bytes", lambda: 10 << 20)
    with pytest.raises(OutOfMemory, match="does not fit into the free memory"):
        await app.fit.advice(ONE, "llama.cpp")


async def test_offline_asks_nothing(start_app: Callable[..., App], hub: HubServer) -> None:
    app = start_app(hub_endpoint=hub.endpoint, offline=True)
    with pytest.raises(HubError, match="Offline"):
        await app.fit.remote(REPO, COMMIT, ["pony-Q8_0.gguf"], "gguf")
    assert hub.seen == []


async def test_a_model_that_is_far_too_large(app: App, hub: HubServer, starter_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = write_sparse_gguf(tmp_path / "large.gguf", starter_gguf, layers=4, width=256, context_length=32_768)
    hub.add("meadow/large", {"large.gguf": large.read_bytes()})
    monkeypatch.setattr("modules.services.fit.available_bytes", lambda: 10 << 20)
    report = await app.fit.remote("meadow/large", COMMIT, ["large.gguf"], "gguf")
    assert report.one.kind == "no"
    assert report.sentence.startswith("Does not fit: needs about")
    monkeypatch.setattr("modules.services.fit.available_bytes", lambda: 228 << 20)
    report = await app.fit.remote("meadow/large", COMMIT, ["large.gguf"], "gguf")
    assert report.one.kind == "shorter"
    assert "tokens each" in report.sentence


async def settled(app: App) -> FitRecord:
    """The record of the model once it is about its use."""
    for _ in range(400):
        if app.fit.records.rows() and app.fit.records.rows()[0].used:
            break
        await asyncio.sleep(0.05)
    return app.fit.records.rows()[0]


async def test_loads_and_replies_are_learned_from(app: App) -> None:
    app.fit.start()
    before = await app.fit.local(ONE)
    await app.models.load(ONE, options=WRITING)
    for _ in range(100):
        if app.fit.records.rows():
            break
        await asyncio.sleep(0.02)
    loaded = app.fit.records.rows()[0]
    assert (loaded.name, loaded.loader, loaded.used, loaded.real_tokens_per_s) == (ONE, "llama.cpp", False, 0.0)
    request = GenerationRequest(prompt=TextPrompt(text="How do I"), params=GenerationParams(max_tokens=64, ban_eos=True, seed=1))
    for _ in range(3):
        async for _ in await app.generation.submit(request, ONE):
            pass
    record = await settled(app)
    assert record.real_bytes >= loaded.real_bytes
    assert record.real_bytes == pytest.approx(record.predicted_bytes, rel=0.25)  # of a process of about 70 MB
    assert record.real_tokens_per_s > 1
    assert record.predicted_tokens_per_s > 1
    after = await app.fit.local(ONE)
    assert after.correction == pytest.approx(record.ratio)
    assert after.tokens_per_s == pytest.approx(before.tokens_per_s * record.speed_ratio)
    await app.models.unload(ONE)
    await app.models.load(ONE, options=WRITING)
    await asyncio.sleep(0.5)
    assert app.fit.records.rows()[0].real_tokens_per_s == record.real_tokens_per_s  # a load alone says nothing of speed


async def test_replies_that_were_drafted_say_nothing_of_speed(app: App) -> None:
    app.fit.start()
    await app.models.load(ONE, options=WRITING)
    engine = app.models.loaded(ONE)
    assert isinstance(engine, EngineClient)
    while engine.on_usage is None:
        await asyncio.sleep(0.02)
    for speed, drafted in ((50, 0), (60, 0), (900, 5), (70, 0)):
        engine.on_usage(Usage(10, 0, 64, decode_s=63 / speed, drafted_tokens=drafted), True)
    record = await settled(app)
    assert record.real_tokens_per_s == pytest.approx(60)


async def test_replies_beside_others_say_nothing_of_speed(app: App) -> None:
    app.fit.start()
    await app.models.load(ONE, options={**WRITING, "slots": 2})
    request = GenerationRequest(prompt=TextPrompt(text="How do I"), params=GenerationParams(max_tokens=64, ban_eos=True))

    async def write() -> None:
        async for _ in await app.generation.submit(request, ONE):
            pass

    await asyncio.gather(write(), write())
    assert (await settled(app)).real_tokens_per_s == 0


def test_the_correction_is_the_models_own_or_the_median_of_like_ones(tmp_path: Path) -> None:
    records = FitRecords(tmp_path / "fit.json")
    assert records.ratio("llama.cpp", 1000) == 1.0
    for name, real in (("a", 1000), ("b", 1100), ("c", 1500)):
        records.remember(FitRecord(name, "llama.cpp", 1000, real))
    records.remember(FitRecord("c", "llama.cpp", 1000, 1600))
    assert len(records.rows()) == 3
    assert records.ratio("llama.cpp", 2000) == pytest.approx(1.1)
    assert records.ratio("llama.cpp", 2000, "c") == pytest.approx(1.6)
    assert records.ratio("llama.cpp", 50_000) == 1.0
    assert records.ratio("transformers", 2000) == 1.0
    records.remember(FitRecord("d", "llama.cpp", 1000, 10))
    assert records.ratio("llama.cpp", 2000, "d") == 0.9
    records.remember(FitRecord("d", "llama.cpp", 1000, 700, True, 100.0, 50.0))
    assert records.ratio("llama.cpp", 2000, "d") == 0.7
    assert records.speed_ratio("llama.cpp", 2000) == 0.5
    records.remember(FitRecord("d", "llama.cpp", 1000, 800))
    assert records.speed_ratio("llama.cpp", 2000, "d") == 0.5
    assert records.speed_ratio("llama.cpp", 90_000) == 1.0
    for text in ("{", '[{"name": 1}]', "[1]", '{"a": 1}'):
        (tmp_path / "fit.json").write_text(text)
        assert records.rows() == ()


# ---- measuring this machine --------------------------------------------------------------------------------------------------------


def child(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr("modules.services.machine_speed.COMMAND", (sys.executable, "-c", code))


def answer(tmp_path: Path) -> str:
    """What a measuring process prints, as a program."""
    write_measured(tmp_path)
    return f"print({json.dumps(json.loads((tmp_path / 'machine.json').read_text())['llama.cpp'])!r})"


async def test_what_was_measured_is_kept_until_the_machine_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, answer(tmp_path))
    (tmp_path / "machine.json").unlink()
    speed = MachineSpeed(tmp_path, lambda: True)
    assert speed.known("llama.cpp") is None
    speed.want("llama.cpp")
    assert speed.measuring("llama.cpp")
    await speed.settled()
    known = speed.known("llama.cpp")
    assert known is not None
    assert known.process_bytes == 60_000_000
    child(monkeypatch, "raise SystemExit(3)")
    speed.want("llama.cpp")
    assert not speed.measuring("llama.cpp")
    stored = json.loads((tmp_path / "machine.json").read_text())
    (tmp_path / "machine.json").write_text(json.dumps({**stored, "key": {**stored["key"], "cores": 999}}))
    assert speed.known("llama.cpp") is None
    speed.want("llama.cpp")
    await speed.settled()
    assert "exit status 3" in speed.problem("llama.cpp")
    speed.want("llama.cpp")  # what failed is not tried again by itself
    assert not speed.measuring("llama.cpp")


async def test_measuring_waits_for_quiet_and_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.services.machine_speed.LOOK_S", 0.02)
    mark = tmp_path / "begun"
    # a process of its own inherits the pipe, as the one that writes the models does
    child(monkeypatch, f"import subprocess, time; subprocess.Popen(['sleep', '60']); open({str(mark)!r}, 'w').close(); time.sleep(60)")
    quiet = False
    speed = MachineSpeed(tmp_path, lambda: quiet)
    speed.want("llama.cpp")
    await asyncio.sleep(0.2)
    assert not mark.exists()
    quiet = True
    while not mark.exists():
        await asyncio.sleep(0.02)
    await asyncio.wait_for(speed.cancel(), 10)
    assert not speed.measuring("llama.cpp")
    assert "stopped" in speed.problem("llama.cpp")
    await speed.close()
    speed.want("llama.cpp", again=True)
    assert not speed.measuring("llama.cpp")


async def test_measuring_is_stopped_while_its_process_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)")
    real, started = asyncio.create_subprocess_exec, []

    async def slowly(*command: Any, **options: Any) -> Any:
        started.append(await real(*command, **options))
        await asyncio.sleep(1.0)  # by then it has started a process of its own
        return started[0]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slowly)
    speed = MachineSpeed(tmp_path, lambda: True)
    speed.want("llama.cpp")
    await asyncio.sleep(0.5)
    await asyncio.wait_for(speed.cancel(), 10)
    assert "stopped" in speed.problem("llama.cpp")
    assert [process.returncode for process in started] == [-9]


async def test_a_report_does_not_wait_for_the_measuring(start_app: Callable[..., App], hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    app = start_app(hub_endpoint=hub.endpoint)
    child(monkeypatch, "import time; time.sleep(60)")
    report = await app.fit.remote(REPO, COMMIT, ["pony-Q8_0.gguf"], "gguf")
    assert (report.measuring, report.tokens_per_s) == (True, 0.0)
    assert "tokens/s" not in report.sentence
    await app.fit.close()


def test_more_threads_are_taken_only_where_they_are_faster() -> None:
    def rates(*speeds: float) -> dict[str, tuple[Rate, ...]]:
        return {"Q8_0": tuple(Rate(model_bytes=size, bytes_per_s=speed) for size, speed in zip((10, 100), speeds, strict=True))}

    one = Pace(threads=1, step_s=0, layer_s=0, rates=rates(5, 5))
    assert machine_probe._at_least(one.rates, []) == one.rates
    assert machine_probe._at_least(rates(4, 9), [one]) == rates(5, 9)


# Threads that wait for each other awake take minutes on cores where other tests run; asleep they are slower, which is of no matter here
ONE_ROUND = """import os, sys
os.environ["OMP_WAIT_POLICY"] = "passive"
from modules.services import machine_probe
machine_probe.main(*sys.argv[1:], rounds=1, cores=2)"""


@pytest.mark.timeout(600)  # beside other work
async def test_this_machine_is_really_measured(tmp_path: Path, starter_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, ONE_ROUND)
    speed = MachineSpeed(tmp_path, lambda: True)
    speed.want("llama.cpp")
    await speed.settled()
    assert speed.problem("llama.cpp") == ""
    known = speed.known("llama.cpp")
    assert known is not None
    assert 30e6 < known.process_bytes < 300e6
    assert ("F16" in known.copied) == has_tiles()
    if all(word in library().llama_print_system_info() for word in (b"REPACK = 1", b"AVX2 = 1")):
        assert {*known.copied, "F16", "Q8_0", "Q6_K"} == {*machine_probe.TYPES} - ({"Q4_0", "Q4_K", "IQ4_NL"} if takes_four_bits() else set())
    assert [(pace.threads, all(rate.bytes_per_s > 1e7 for rates in pace.rates.values() for rate in rates)) for pace in known.paces] == [(1, True), (2, True)]
    expected = Expected(local_shape(starter_gguf), "llama.cpp", {"slots": 1}, "float32", known)
    assert expected.tokens_per_s(10) > expected.tokens_per_s(1000) > 1
