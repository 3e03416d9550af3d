"""What goes wrong: models that cannot be loaded and engines that die. Each is told in a sentence; the server and the other model live on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.live.conftest import client_of
from tests.paddock_server import STARTER, PaddockServer, wait_for
from tests.sparse_models import write_sparse_gguf

ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "What is a LoRA?"}], "temperature": 0, "max_tokens": 20}
ANSWER = "A LoRA is"
OTHER = "other.gguf"
CRASHES_ALLOWED = 3
WIDE = 8192
# Kind of model, status, type, and what the sentence says: the file, the cause, the cure
BROKEN = (
    ("half.gguf", 422, "load_failed", ("half.gguf", "cut short", "download it again")),
    ("text.gguf", 422, "load_failed", ("text.gguf", "not a GGUF file", "download it again")),
    ("nothing.gguf", 422, "load_failed", ("nothing.gguf", "cut short", "download it again")),
    ("no-config", 422, "load_failed", ("no-config", "no config.json", "download the missing file")),
    ("no-weights", 422, "load_failed", ("no-weights", "no model.safetensors", "download the weights again")),
    ("half-weights", 422, "load_failed", ("half-weights", "cut short", "download it again")),
    ("empty", 404, "not_found_error", ("empty", "There is no model", "choose one from the list or download it")),
    ("huge.gguf", 507, "out_of_memory", ("huge.gguf", "of memory", "choose a smaller quantization")),
    ("huge", 507, "out_of_memory", ("huge", "of memory", "choose")),
)


def write_huge_folder(folder: Path, starter: Path) -> None:
    """A folder whose weights are larger than this machine's memory: a truthful header over nothing."""
    config = json.loads((starter / "config.json").read_text(encoding="utf-8"))
    layers = layers_beyond_memory()
    width = {"hidden_size": WIDE, "intermediate_size": 3 * WIDE, "num_attention_heads": WIDE // 64, "num_key_value_heads": WIDE // 64, "head_dim": 64}
    shutil.copytree(starter, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.gguf"))
    (folder / "config.json").write_text(json.dumps({**config, **width, "num_hidden_layers": layers}), encoding="utf-8")
    shapes = {"model.embed_tokens": (config["vocab_size"], WIDE), "model.norm": (WIDE,)}
    for layer in range(layers):
        name = f"model.layers.{layer}"
        shapes |= {f"{name}.self_attn.{part}_proj": (WIDE, WIDE) for part in "qkvo"}
        shapes |= {f"{name}.mlp.gate_proj": (3 * WIDE, WIDE), f"{name}.mlp.up_proj": (3 * WIDE, WIDE), f"{name}.mlp.down_proj": (WIDE, 3 * WIDE)}
        shapes |= {f"{name}.input_layernorm": (WIDE,), f"{name}.post_attention_layernorm": (WIDE,)}
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * shape[0] * (shape[1] if len(shape) == 2 else 1)
        header[f"{name}.weight"] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def layers_beyond_memory() -> int:
    """How many layers of that width take twice the memory of this machine."""
    layer_bytes = 2 * 13 * WIDE * WIDE
    return 2 * psutil.virtual_memory().total // layer_bytes + 1


@pytest.fixture(scope="module")
def broken_models(tmp_path_factory: pytest.TempPathFactory, starter_dir: Path, starter_gguf: Path) -> Path:
    """The starter model, and one of each kind that cannot be loaded."""
    folder = tmp_path_factory.mktemp("broken") / "models"
    shutil.copytree(starter_dir, folder / "starter")
    whole = starter_gguf.read_bytes()
    (folder / OTHER).write_bytes(whole)
    (folder / "half.gguf").write_bytes(whole[: len(whole) // 2])
    (folder / "text.gguf").write_text("This is a text and no model.\n" * 100, encoding="utf-8")
    (folder / "nothing.gguf").touch()
    (folder / "empty").mkdir()
    for name, without in (("no-config", "config.json"), ("no-weights", "*.safetensors"), ("half-weights", "")):
        shutil.copytree(starter_dir, folder / name, ignore=shutil.ignore_patterns("*.gguf", without))
    with (folder / "half-weights" / "model.safetensors").open("r+b") as file:
        file.truncate(3_000_000)
    write_sparse_gguf(folder / "huge.gguf", starter_gguf, layers=layers_beyond_memory(), width=WIDE, context_length=8192)
    write_huge_folder(folder / "huge", starter_dir)
    return folder


Start = Callable[[], PaddockServer]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, broken_models: Path, loras_dir: Path) -> Iterator[Start]:
    """Starts servers for tests that break them."""
    started: list[PaddockServer] = []

    def begin() -> PaddockServer:
        started.append(PaddockServer(tmp_path_factory.mktemp("failing"), broken_models, loras_dir, "--no-ui"))
        return started[-1]

    yield begin
    for server in started:
        server.close()


@pytest.fixture(scope="module")
def failing(start: Start) -> PaddockServer:
    return start()


def answers(server: PaddockServer, model: str = "") -> bool:
    """Whether the starter model answers."""
    reply = client_of(server).chat.completions.create(model=model, **ASKED)
    return reply.model == STARTER and reply.choices[0].message.content.startswith(ANSWER)


# ---- models that cannot be loaded ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "status", "kind", "words"), BROKEN, ids=[row[0] for row in BROKEN])
def test_a_model_that_cannot_be_loaded(failing: PaddockServer, name: str, status: int, kind: str, words: tuple[str, ...]) -> None:
    assert answers(failing)
    for stream in (False, True) if status < 500 else (False,):  # for the large ones the other model has to make room
        with pytest.raises(openai.APIStatusError) as caught:
            client_of(failing).chat.completions.create(model=name, stream=stream, **ASKED)
        message = caught.value.body["message"]
        assert (caught.value.status_code, caught.value.body["type"]) == (status, kind), message
        assert all(word in message for word in words), message
        assert message.endswith(".") and "Traceback" not in message and "\n" not in message
    assert failing.process.poll() is None
    assert answers(failing), "the model that was loaded before does not answer any more"


def test_a_broken_file_does_not_even_disturb_the_model_that_is_loaded(failing: PaddockServer) -> None:
    assert answers(failing)
    engine = failing.engine().pid
    with pytest.raises(openai.APIStatusError):
        client_of(failing).chat.completions.create(model="half.gguf", **ASKED)
    assert failing.engine().pid == engine


def test_broken_models_are_not_in_the_list(failing: PaddockServer) -> None:
    listed = {model.id for model in client_of(failing).models.list()}
    assert {STARTER, "starter"} <= listed
    assert listed.isdisjoint({"half.gguf", "text.gguf", "nothing.gguf", "no-config", "no-weights", "half-weights", "empty"})


# ---- engines that die ----------------------------------------------------------------------------------------------


def kill_in_the_middle(server: PaddockServer, stream: bool) -> tuple[str, openai.APIError]:
    """Kill the engine while it writes; the text so far, and what the client was told."""
    asked = {"model": STARTER, "prompt": "Once", "max_tokens": 900, "extra_body": {"ban_eos": True}}
    text = ""
    with pytest.raises(openai.APIError) as caught:
        if stream:
            for chunk in client_of(server).completions.create(**asked, stream=True):
                if not text:
                    server.engine().kill()
                text += chunk.choices[0].text
        else:
            engine = server.engine()
            before = server.counters()["decode_tokens"]
            with ThreadPoolExecutor(1) as pool:
                reply = pool.submit(client_of(server).completions.create, **asked)
                wait_for(lambda: server.counters()["decode_tokens"] > before, "it writes")
                engine.kill()
                reply.result(20)
    return text, caught.value


@pytest.mark.parametrize("stream", [True, False])
def test_an_engine_that_is_killed_in_the_middle_of_a_reply(failing: PaddockServer, stream: bool) -> None:
    server = failing
    assert answers(server, STARTER)
    text, error = kill_in_the_middle(server, stream)
    assert bool(text) == stream
    assert f"The engine of {STARTER} ended unexpectedly (killed by signal 9, SIGKILL" in error.message
    assert error.message.endswith("the text so far is kept. Send again to restart it.")
    assert error.type == "engine_crashed"
    if isinstance(error, openai.APIStatusError):
        assert error.status_code == 502
    assert server.process.poll() is None
    assert answers(server), "the engine was not started again"


def test_an_engine_that_dies_again_and_again_is_not_started_for_ever(start: Start) -> None:
    server = start()
    for _ in range(CRASHES_ALLOWED + 1):
        assert answers(server, STARTER)
        engine = server.engine()
        engine.kill()
        wait_for(lambda: not server.loaded(), "the server has noticed")
    for model in (STARTER, ""):
        with pytest.raises(openai.InternalServerError) as caught:
            client_of(server).chat.completions.create(model=model, **ASKED)
        assert caught.value.status_code == 502
        message = caught.value.body["message"]
        assert message.startswith(f"The engine of {STARTER} crashed 4 times in 10 minutes and is not started again by itself.")
        assert "Last cause: The engine of" in message and "SIGKILL" in message
        assert message.endswith("Load it from the Models page with a smaller context, or choose another model.")
    assert server.process.poll() is None
    assert client_of(server).models.list().data
    reply = client_of(server).chat.completions.create(model=OTHER, **ASKED)  # another model is loaded as ever
    assert reply.choices[0].message.content.startswith(ANSWER)
    server.close()
