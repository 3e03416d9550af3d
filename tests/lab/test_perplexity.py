"""Perplexity: the numbers against independent ones, windows against their definition, cuts that change no token, and every way a job can end."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modules.core.errors import AppError, InvalidRequest, LoadFailed, NotFound
from modules.core.job import Cancelled
from modules.core.model import Adapter
from modules.lab.perplexity import STANDING, PerplexityArgs, model_version, own_options, run
from modules.lab.text_pieces import PieceEncoder, pieces, read_text, text_facts
from modules.lab.windows import Frame, Sums
from modules.loaders.registry import LOADERS, find_loader
from modules.loaders.transformers.tokenizer import TransformersTokenizer
from tests.e2e.adapter_files import write_adapter
from tests.tiny_models import write_folder
from tests.weights.job import Job

ROOT = Path(__file__).resolve().parents[2]
STORY = (
    "Once upon a time, there was a little girl named Lily. She liked to play in the garden with her dog. One day, she saw a big red ball under "
    "the old tree. “Whose ball is this?” she asked.\nHer brother came out of the house; he was holding 2 cups of milk.\n\n"
)
ONE_THREAD = {"threads": 1, "threads_batch": 1}
ALIKE = 2e-3  # relative: llama.cpp keeps keys and values as float16. Largest seen: 9e-5


def text_file(folder: Path, text: str) -> Path:
    path = folder / "text.txt"
    path.write_text(text, encoding="utf-8")
    return path


def measure(model: Path, text: Path, job: Job | None = None, **more: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"model": model.name, "path": model, "text_name": text.name, "text_path": text, "options": ONE_THREAD if model.suffix else {"threads": 1}, "window": 64, "stride": 16}
    folder = text.parent / f"job-{len(list(text.parent.iterdir()))}"
    folder.mkdir()
    return dict(run(PerplexityArgs(**{**values, **more}), job or Job(folder)))


def direct(model: Path, text: str, window: int, stride: int) -> tuple[float, int]:
    """Token by token: each has a forward pass of its own, over the window that the definition gives it. (Mean surprise, tokens.)"""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    front = [tokenizer.bos_token_id] if tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id] else []
    room = window - len(front)
    total = 0.0
    places = range(0 if front else 1, len(ids))
    for place in places:
        moves = max(0, math.ceil((place + 1 - room) / stride))  # the first window that reaches so far
        seen = front + ids[moves * stride : place]
        with torch.inference_mode():
            logits = network(input_ids=torch.tensor([seen])).logits[0, -1].double().numpy()
        total += float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[ids[place]])
    return total / len(places), len(places)


# ---- windows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_bos", [False, True])
@pytest.mark.parametrize(("window", "stride"), [(16, 1), (16, 5), (16, 15), (16, 16), (16, 4000), (24, 8), (64, 32)])
def test_every_token_counts_once_and_has_its_context(window: int, stride: int, has_bos: bool) -> None:
    for tokens in (0, 1, 2, 15, 16, 17, 23, 24, 25, 63, 64, 100, 257):
        frame = Frame.fitted(window, stride, tokens, has_bos=has_bos)
        counted = []
        for number, span in frame.spans():
            assert 0 <= span.begin <= span.first < span.end <= tokens
            assert span.end - span.begin + has_bos <= window
            context = span.first - span.begin + has_bos
            assert context >= (window - frame.stride if number else 1)
            counted += range(span.first, span.end)
        assert counted == list(range(0 if has_bos else 1, tokens)), (tokens, frame)
        assert frame.scored == len(counted)


def test_sums_are_written_down_without_loss() -> None:
    sums = Sums().plus(np.array([-0.1, -3.7], np.float32), 0.25).plus(np.array([-1 / 3], np.float32), 0.1)
    assert Sums(**json.loads(json.dumps(sums.to_dict()))) == sums
    assert sums.perplexity == pytest.approx(math.exp((0.1 + 3.7 + 1 / 3) / 3))
    assert sums.bits_per_byte(10) == pytest.approx((0.1 + 3.7 + 1 / 3) / math.log(2) / 10)
    spread = np.std([0.1, 3.7, 1 / 3]) / math.sqrt(2)
    assert sums.deviation == pytest.approx(sums.perplexity * spread)


# ---- numbers -------------------------------------------------------------------------------------------------------


def test_one_window_is_the_loss_of_the_text(starter_dir: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(starter_dir)(STORY, return_tensors="pt")["input_ids"]
    network = AutoModelForCausalLM.from_pretrained(starter_dir, dtype=torch.float32).eval()
    with torch.inference_mode():
        loss = float(network(input_ids=ids, labels=ids).loss)
    found = measure(starter_dir, text_file(tmp_path, STORY), window=512, stride=512)
    assert found["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert (found["loader"], found["window"], found["stride"]) == ("transformers", 512, 511)


def test_strides_against_one_forward_pass_for_each_token(starter_dir: Path, tmp_path: Path) -> None:
    mean, tokens = direct(starter_dir, STORY, 24, 7)
    found = measure(starter_dir, text_file(tmp_path, STORY), window=24, stride=7)
    assert found["tokens"] == tokens
    assert found["perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(mean * tokens / math.log(2) / found["bytes"], rel=1e-5)
    assert found["bytes"] <= len(STORY.encode())


def test_both_loaders_and_the_definition_agree_on_a_real_model(testdata: Path, tmp_path: Path) -> None:
    """stories260K has a BOS token, SentencePiece and a GGUF file of the same weights."""
    models = testdata / "models"
    text = (testdata / "datasets" / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")[:500]
    mean, tokens = direct(models / "stories260K", text, 48, 20)
    for name in ("stories260K", "stories260K-f16.gguf"):
        found = measure(models / name, text_file(tmp_path, text), window=48, stride=20)
        assert (found["tokens"], found["bytes"]) == (tokens, len(text.encode())), name
        assert found["perplexity"] == pytest.approx(math.exp(mean), rel=1e-5 if name == "stories260K" else ALIKE), name


def test_an_adapter_is_measured_too(starter_dir: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "odd-words", starter_dir)
    text = text_file(tmp_path, STORY)
    plain = measure(starter_dir, text)
    by_scale = {scale: measure(starter_dir, text, adapters=[Adapter(path=str(tmp_path / "odd-words"), name="odd-words", scale=scale)]) for scale in (1e-9, 1.0)}
    assert by_scale[1e-9]["perplexity"] == pytest.approx(plain["perplexity"], rel=1e-4)
    assert abs(math.log(by_scale[1.0]["perplexity"] / plain["perplexity"])) > 0.05
    assert by_scale[1.0]["adapters"][0]["name"] == "odd-words"


def test_the_models_own_context_is_taken_and_a_longer_one_is_cut(starter_gguf: Path, tmp_path: Path) -> None:
    found = measure(starter_gguf, text_file(tmp_path, STORY), window=0)
    assert found["window"] == find_loader(starter_gguf).load(starter_gguf, LOADERS[0].options(slots=1, **ONE_THREAD), lambda *_: None).runner.context_length
    more = measure(starter_gguf, text_file(tmp_path, STORY), window=100_000)
    assert more["window"] == found["window"]
    assert "Context cut from 100000" in more["notes"][0]


def test_options_that_change_no_number_are_left_out() -> None:
    for spec in LOADERS:
        assert own_options(spec, {"slots": 9, "context_length": 77, "draft_lookup": True}) == {}
    assert own_options(LOADERS[0], {"kv_type": "q8_0", "cache_tokens": 4096}) == {"kv_type": "q8_0"}
    with pytest.raises(InvalidRequest, match="kv_type"):
        own_options(LOADERS[0], {"kv_type": "q1"})


# ---- cuts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama2", "smollm2-135m-instruct", "gpt2"])
def test_a_text_in_pieces_has_the_tokens_of_the_whole(testdata: Path, name: str) -> None:
    from transformers import AutoTokenizer

    folder = testdata / "tokenizers" / name
    tokenizer = TransformersTokenizer(AutoTokenizer.from_pretrained(folder), folder, 1_000_000)
    text = (testdata / "datasets" / "wikitext-2-raw" / "wiki.test.raw").read_text(encoding="utf-8")[:20_000]
    cut = list(pieces([text[:7000], text[7000:7001], text[7001:]], 300))
    assert "".join(cut) == text
    assert max(map(len, cut)) <= 300
    encoder = PieceEncoder(tokenizer, 4096)
    assert [token for piece in cut for token in encoder.encode(piece)] == tokenizer.encode(text, add_special=False, parse_special=False)


def test_a_text_without_spaces_is_cut_all_the_same(starter_gguf: Path, tmp_path: Path) -> None:
    text = "天地玄黄宇宙洪荒" * 700 + " \n" * 3000
    assert "".join(pieces([text])) == text
    assert max(map(len, pieces([text]))) == 2048
    assert measure(starter_gguf, text_file(tmp_path, text[:150]), stride=63)["bytes"] > 400


def test_a_file_is_read_as_its_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntw\xc3\xb6\n")
    assert "".join(read_text(tmp_path / "a.txt")) == "one\ntwö\n"
    assert text_facts(["one\nt", "wö\n"]) == text_facts(read_text(tmp_path / "a.txt"))
    (tmp_path / "a.txt").write_bytes("Grüße".encode("latin-1"))
    with pytest.raises(InvalidRequest, match="a.txt is not UTF-8 text"):
        list(read_text(tmp_path / "a.txt"))
    with pytest.raises(NotFound, match="no longer there"):
        list(read_text(tmp_path / "b.txt"))


# ---- ends ----------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from modules.lab import perplexity
from tests.weights.job import Job
perplexity.SAVE_INTERVAL_S = 0
args = perplexity.PerplexityArgs.model_validate_json(sys.argv[1])
class Doomed(Job):
    def progress(self, done, total, unit, **metrics):
        if total and done > total / 2:
            os.kill(os.getpid(), signal.SIGKILL)
perplexity.run(args, Doomed(Path(sys.argv[2])))
"""


def test_killed_in_the_middle_it_goes_on_and_comes_to_the_same_number(starter_gguf: Path, tmp_path: Path) -> None:
    text = text_file(tmp_path, STORY * 2)
    whole = measure(starter_gguf, text)
    args = PerplexityArgs(model="m", path=starter_gguf, version=model_version(starter_gguf), text_name="t", text_path=text, text_sha256=whole["text_sha256"], options=ONE_THREAD, window=64, stride=16)
    (tmp_path / "job").mkdir()
    done = subprocess.run([sys.executable, "-c", KILLED, args.model_dump_json(), str(tmp_path / "job")], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    standing = json.loads((tmp_path / "job" / STANDING).read_text())
    assert 0.4 * whole["tokens"] < standing["sums"]["scored"] < whole["tokens"]
    job = Job(tmp_path / "job")
    resumed = dict(run(args, job))
    assert next(done for done, total, _ in job.said if total) == standing["sums"]["scored"], "it began anew"
    same = ("perplexity", "bits_per_byte", "deviation", "tokens", "bytes")
    assert [resumed[name] for name in same] == [whole[name] for name in same]
    assert not list((tmp_path / "job").glob("*.part"))


def test_sums_of_other_windows_are_not_taken_over(starter_gguf: Path, tmp_path: Path) -> None:
    text, job = text_file(tmp_path, STORY), Job(tmp_path)
    first = measure(starter_gguf, text, job)
    assert measure(starter_gguf, text, job, stride=32)["perplexity"] != first["perplexity"]
    assert measure(starter_gguf, text, job)["perplexity"] == first["perplexity"]


def test_cancelled_it_ends_in_the_middle(starter_gguf: Path, tmp_path: Path) -> None:
    class Impatient(Job):
        def progress(self, done: float, total: float | None, unit: str, **metrics: Any) -> None:
            super().progress(done, total, unit)
            if total and done > total / 4:
                raise Cancelled("The job was asked to stop.")

    job = Impatient(tmp_path)
    with pytest.raises(Cancelled):
        measure(starter_gguf, text_file(tmp_path, STORY), job)
    done, total, unit = job.said[-1]
    assert (done < (total or 0), unit) == (True, "tokens")


def test_cancelled_while_the_model_is_loaded(starter_gguf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The library asks how far it is from native code, through which nothing can be raised."""
    for stop_after in range(3):
        job = Job(tmp_path, stop_after=stop_after)
        with pytest.raises(Cancelled):
            measure(starter_gguf, text_file(tmp_path, STORY), job)
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(("text", "count"), [("", 0), ("a", 1)])
def test_a_text_too_short_to_be_scored(starter_gguf: Path, tmp_path: Path, text: str, count: int) -> None:
    with pytest.raises(InvalidRequest, match=f"text.txt has {count} tokens for starter-Q8_0.gguf; at least 2 are needed. Choose a longer text."):
        measure(starter_gguf, text_file(tmp_path, text))


def test_what_changed_since_is_not_measured(starter_gguf: Path, tmp_path: Path) -> None:
    text = text_file(tmp_path, STORY)
    with pytest.raises(InvalidRequest, match="The text text.txt changed since this was asked for"):
        measure(starter_gguf, text, text_sha256="0" * 64)
    with pytest.raises(LoadFailed, match="The files of starter-Q8_0.gguf changed since"):
        measure(starter_gguf, text, version="0" * 16)
    with pytest.raises(NotFound, match="There is no model at gone.gguf"):
        measure(tmp_path / "gone.gguf", text)


def test_characters_that_llama_cpp_would_end_the_process_for(testdata: Path, tmp_path: Path) -> None:
    model = testdata / "models" / "tinystories656k-f16.gguf"
    with pytest.raises(InvalidRequest, match=r"text.txt cannot be read by tinystories656k-f16.gguf: This model's vocabulary has no .*é.* \(and no byte tokens\)"):
        measure(model, text_file(tmp_path, STORY.replace("“", '"').replace("”", '"') + "café"))


def test_characters_that_a_folder_would_read_as_unknown(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = write_folder(tmp_path / "words")
    words = Tokenizer(models.WordLevel({"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2, "[UNK]": 3, "one": 4, "two": 5}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens(["[UNK]"])
    words.save(str(folder / "tokenizer.json"))
    assert measure(folder, text_file(tmp_path, "one two " * 20))["tokens"] > 30
    with pytest.raises(InvalidRequest, match=r"text.txt cannot be read by words: This model's vocabulary has no"):
        measure(folder, text_file(tmp_path, "one two é two"))


def test_a_model_that_gives_no_numbers(starter_dir: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = Path(shutil.copytree(starter_dir, tmp_path / "sick", ignore=shutil.ignore_patterns("*.gguf")))
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][:] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AppError, match="sick gives no number for token 1 of the text: its files are damaged"):
        measure(folder, text_file(tmp_path, STORY))
