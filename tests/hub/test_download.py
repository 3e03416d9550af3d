"""The work of a download job: after any fault its target is absent or complete, and the same function goes on where it ended."""

from __future__ import annotations

import errno
import json
import os
import random
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import AppError, HubError, InvalidRequest, JobConflict
from modules.core.job import Cancelled
from modules.hub.download import DownloadArgs, download, free_name, run, target_of
from modules.hub.inventory import PARTIAL_FOLDER, damaged_files, installed, sweep
from tests.hub.conftest import Context, quick_policy
from tests.hub.hub_server import COMMIT, HubServer

BYTES = random.Random(5)
WEIGHTS = {f"model-0000{number}-of-00002.safetensors": BYTES.randbytes(300_000) for number in (1, 2)}
INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}).encode()
FOLDER = {**WEIGHTS, "model.safetensors.index.json": INDEX, "config.json": b"{}", "tokenizer.json": BYTES.randbytes(5000), "additional_chat_templates/a.jinja": b"x"}
PARTS = {f"Q8_0/M-Q8_0-0000{number}-of-00002.gguf": BYTES.randbytes(200_000) for number in (1, 2)}
SINGLE = {"Q4/M-Q4_K_M.gguf": BYTES.randbytes(400_000), "M-Q2_K.gguf": BYTES.randbytes(2000)}
ADAPTER = {"adapter_config.json": b"{}", "adapter_model.safetensors": BYTES.randbytes(9000)}


@pytest.fixture
def args(hub: HubServer, tmp_path: Path) -> DownloadArgs:
    hub.add("me/tiny", {**FOLDER, **PARTS, **SINGLE, "pytorch_model.bin": b"\x80pickle"}, info={"tags": ["license:mit"]})
    hub.add("me/lora", dict(ADAPTER))
    hub.add("me/gated", dict(SINGLE), gated=True)
    (tmp_path / "models").mkdir()
    (tmp_path / "loras").mkdir()
    (tmp_path / "datasets").mkdir()
    hub.add("datasets/me/tiny", {"data/test.parquet": BYTES.randbytes(9000)}, info={"tags": ["license:cc0-1.0"]})
    return DownloadArgs(datasets_dir=tmp_path / "datasets", repo="me/tiny", files=("Q4/M-Q4_K_M.gguf",), endpoint=hub.endpoint, models_dir=tmp_path / "models", loras_dir=tmp_path / "loras")


def chosen(args: DownloadArgs, files: Any, kind: str, **more: Any) -> DownloadArgs:
    return DownloadArgs.model_validate({**args.model_dump(), "files": tuple(files), "kind": kind, **more})


def tree(root: Path) -> dict[str, bytes]:
    """Everything below a folder but what is unfinished."""
    paths = [path for path in root.rglob("*") if path.is_file() and PARTIAL_FOLDER not in path.parts]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def without_record(root: Path) -> dict[str, bytes]:
    return {path: data for path, data in tree(root).items() if not path.endswith("paddock.json")}


def leftovers(root: Path) -> list[str]:
    return [path.name for path in (root / PARTIAL_FOLDER).rglob("*")]


def test_a_single_gguf_lies_in_a_folder_named_after_its_repository(args: DownloadArgs, context: Context, hub: HubServer) -> None:
    result = download(args, context, quick_policy())
    assert result["name"] == "me__tiny/M-Q4_K_M.gguf"
    assert without_record(args.models_dir) == {"me__tiny/M-Q4_K_M.gguf": SINGLE["Q4/M-Q4_K_M.gguf"]}
    assert leftovers(args.models_dir) == []
    assert (result["bytes"], result["moved_bytes"], result["files"], result["commit"], result["licence"]) == (400_000, 400_000, 1, COMMIT, "mit")
    second = download(chosen(args, ["M-Q2_K.gguf"], "gguf"), replace_context(context, "job2"), quick_policy())
    assert second["name"] == "me__tiny/M-Q2_K.gguf"
    found = installed(args.models_dir)
    assert [[file.placed for file in item.provenance.files] for item in found] == [["M-Q4_K_M.gguf"], ["M-Q2_K.gguf"]]
    assert (found[0].provenance.repo, found[0].provenance.commit, found[0].provenance.endpoint) == ("me/tiny", COMMIT, hub.endpoint)
    assert found[0].provenance.fetched.startswith("20")
    assert list(damaged_files(found[0])) == []


def test_a_data_set_comes_from_a_repository_of_its_own_kind(args: DownloadArgs, context: Context, hub: HubServer) -> None:
    hub.fault("drop", "lfs/datasets", value=4000)
    wanted = chosen(args, ["data/test.parquet"], "dataset", name="test text")
    result = download(wanted, context, quick_policy())
    assert (result["name"], result["licence"], result["bytes"]) == ("test text/test.parquet", "cc0-1.0", 9000)
    assert [seen.start > 0 for seen in hub.gets("cdn", "/lfs/datasets/me/tiny/data/test.parquet")] == [False, True], "it went on where the connection broke"
    item = installed(args.datasets_dir)[0]
    assert (item.provenance.kind, item.provenance.repo_type, list(damaged_files(item))) == ("dataset", "dataset", [])
    assert tree(args.models_dir) == {}
    with pytest.raises(HubError, match="There is no data set me/lora on"):
        download(chosen(args, ["a.parquet"], "dataset", repo="me/lora"), replace_context(context, "job2"), quick_policy())


@pytest.mark.parametrize(("files", "kind", "name", "root"), [
    (FOLDER, "folder", "me__tiny", "models"), (PARTS, "gguf", "me__tiny/M-Q8_0-00001-of-00002.gguf", "models"), (ADAPTER, "adapter", "me__lora", "loras"),
    (["M-Q2_K.gguf"], "adapter", "me__tiny/M-Q2_K.gguf", "loras"), (["pytorch_model.bin"], "file", "me__tiny/pytorch_model.bin", "models"),
])  # fmt: skip
def test_each_kind_goes_to_its_place(args: DownloadArgs, context: Context, hub: HubServer, files: Any, kind: str, name: str, root: str) -> None:
    repo = "me/lora" if "me__lora" in name else "me/tiny"
    result = download(chosen(args, files, kind, repo=repo), context, quick_policy())
    assert result["name"] == name
    folder = args.models_dir.parent / root
    assert (folder / name).exists()
    sources = {path.removeprefix("Q8_0/"): file.data for path, file in hub.repos[repo].files.items() if path in files}
    assert without_record(folder) == {f"{name.partition('/')[0]}/{path}": data for path, data in sources.items()}
    assert leftovers(folder) == []


def test_progress_is_one_sum(args: DownloadArgs, context: Context) -> None:
    download(chosen(args, FOLDER, "folder"), context, quick_policy())
    total = sum(map(len, FOLDER.values()))
    done = [report[0] for report in context.reports]
    assert done == sorted(done)
    assert context.reports[-1][:2] == (total, total)
    assert (context.reports[-1][2]["files_done"], context.reports[-1][2]["files"]) == (len(FOLDER), len(FOLDER))
    assert any(report[2]["file"] in FOLDER for report in context.reports)


@pytest.mark.parametrize("files", [FOLDER, PARTS, ["Q4/M-Q4_K_M.gguf"]], ids=["folder", "parts", "single"])
def test_cancel_then_resume_at_the_same_commit(args: DownloadArgs, context: Context, hub: HubServer, files: Any) -> None:
    args = chosen(args, files, "folder" if files is FOLDER else "gguf")
    hub.fault("slow", "^/lfs/", count=-1, value=1 << 20)
    context.stop = lambda done: done > 150_000
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        download(args, context, quick_policy())
    assert time.monotonic() - begun < 2
    assert tree(args.models_dir) == {}
    hub.faults.clear()
    before = hub.repos["me/tiny"].files
    hub.add("me/tiny", {path: file.data + b"changed" for path, file in before.items()}, commit="b" * 40)
    hub.repos["me/tiny"].files = before  # the branch has moved; the old commit still has the old bytes
    hub.repos["me/tiny"].branches = ("main", COMMIT)
    context.stop = lambda done: False
    result = download(args, context, quick_policy())
    assert result["commit"] == COMMIT
    assert result["moved_bytes"] < result["bytes"]
    assert set(without_record(args.models_dir).values()) == {before[path].data for path in files}


def test_a_second_job_goes_on_where_a_cancelled_one_ended(args: DownloadArgs, context: Context, hub: HubServer) -> None:
    hub.fault("slow", "^/lfs/", count=-1, value=1 << 20)
    context.stop = lambda done: done > 150_000
    with pytest.raises(Cancelled):
        download(args, context, quick_policy())
    hub.faults.clear()
    result = download(args.model_copy(update={"name": "mine"}), replace_context(context, "job2"), quick_policy())
    assert result["name"] == "mine/M-Q4_K_M.gguf"
    assert result["moved_bytes"] <= 250_000


FAULTS = [("status", 503, "server"), ("corrupt", 0, "checksum"), ("truncate", 0, "short"), ("overlong", 5000, "size"), ("hang", 0.7, "timeout")]


@pytest.mark.parametrize(("kind", "value", "reason"), FAULTS)
def test_after_a_fault_the_target_is_absent_and_then_complete(
    args: DownloadArgs, context: Context, hub: HubServer, kind: str, value: float, reason: str
) -> None:
    args = chosen(args, FOLDER, "folder")
    hub.fault(kind, "^/lfs/.*model-00002", count=-1, value=value)
    policy = quick_policy(silence_s=0.4 if kind == "hang" else 5)
    with pytest.raises(HubError) as failed:
        download(args, context, replace(policy, retries=1))
    assert failed.value.details["reason"] == reason
    assert tree(args.models_dir) == {}
    hub.faults.clear()
    result = download(args, context, quick_policy())
    assert result["moved_bytes"] < result["bytes"]
    assert set(without_record(args.models_dir)) == {f"me__tiny/{path}" for path in FOLDER}


@pytest.mark.parametrize("files", [PARTS, ["Q4/M-Q4_K_M.gguf"]], ids=["parts", "single"])
def test_a_disk_that_fails_at_the_rename_leaves_nothing_half(
    args: DownloadArgs, context: Context, hub: HubServer, monkeypatch: pytest.MonkeyPatch, files: Any
) -> None:
    args = chosen(args, files, "gguf")

    def refuse(path: Path, target: Path) -> Path:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(HubError, match="cannot be written"):
            download(args, context, quick_policy())
    assert without_record(args.models_dir) == {}
    assert installed(args.models_dir) == ()
    hub.forget()
    assert download(args, context, quick_policy())["moved_bytes"] == 0
    assert hub.seen == []
    assert len(installed(args.models_dir)) == 1


def test_a_taken_name_is_refused_before_the_first_request(args: DownloadArgs, context: Context, hub: HubServer) -> None:
    (args.models_dir / "me__tiny").mkdir()
    with pytest.raises(JobConflict, match="another name"):
        download(chosen(args, FOLDER, "folder"), context, quick_policy())
    (args.models_dir / "me__tiny" / "M-Q4_K_M.gguf").touch()
    with pytest.raises(JobConflict):
        download(args, context, quick_policy())
    (args.models_dir / "file").touch()
    with pytest.raises(JobConflict):
        download(args.model_copy(update={"name": "file"}), context, quick_policy())
    assert hub.seen == []
    assert free_name(args) == "me__tiny-2"
    assert free_name(args, "Q4_K_M") == "me__tiny-Q4_K_M"


def test_a_run_after_the_rename_finds_its_work_done(args: DownloadArgs, context: Context, hub: HubServer) -> None:
    first = download(args, context, quick_policy())
    hub.forget()
    assert {**download(args, context, quick_policy()), "moved_bytes": 400_000} == first
    assert hub.seen == []
    with pytest.raises(JobConflict):  # but another job does not
        download(args, replace_context(context, "job2"), quick_policy())


def test_two_jobs_do_not_fetch_the_same(args: DownloadArgs, context: Context, hub: HubServer) -> None:
    hub.fault("slow", "^/lfs/", count=-1, value=1 << 20)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(download(args, context, quick_policy())))
    thread.start()
    while not hub.gets("cdn"):
        time.sleep(0.01)
    with pytest.raises(JobConflict, match="another job"):
        download(args, replace_context(context, "job2"), quick_policy())
    thread.join()
    assert results[0]["bytes"] == 400_000


BAD_ARGS: list[dict[str, Any]] = [
    {"files": ("../x.gguf",)}, {"files": ("a.bin",)}, {"files": ("a.py",), "kind": "folder"}, {"files": ("a.json",)}, {"repo": "x"}, {"revision": "a..b"},
    {"name": "../x"}, {"name": ".partial"}, {"name": "con"}, {"files": ("M-00001-of-00002.gguf",)}, {"files": ("a.json", "A.json"), "kind": "folder"},
    {"files": ("x", "x/y"), "kind": "folder"}, {"endpoint": "file:///x"}, {"files": ("a.gguf", "a.gguf")},
]  # fmt: skip


@pytest.mark.parametrize("wrong", BAD_ARGS, ids=str)
def test_impossible_arguments_are_refused_before_the_first_request(args: DownloadArgs, context: Context, hub: HubServer, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        download(args.model_copy(update=wrong), context, quick_policy())
    assert hub.seen == []
    assert tree(args.models_dir.parent / "models") == {}


def test_what_the_repository_lacks_is_named(args: DownloadArgs, context: Context, hub: HubServer) -> None:
    with pytest.raises(HubError, match=r"absent\.gguf"):
        download(chosen(args, ["absent.gguf"], "gguf"), context, quick_policy())
    some = {path: data for path, data in FOLDER.items() if "00002-of" not in path or "index" in path}
    with pytest.raises(AppError, match="00002-of-00002"):
        download(chosen(args, some, "folder"), context, quick_policy())
    hub.add("me/tiny", {"a.safetensors": b"x" * 2000, "model.safetensors.index.json": INDEX})
    with pytest.raises(HubError, match="names 2 weight files"):
        download(chosen(args, ["a.safetensors", "model.safetensors.index.json"], "folder"), replace_context(context, "job2"), quick_policy())
    assert hub.gets("cdn") == []
    assert tree(args.models_dir) == {}


def test_the_token_comes_through_the_context_and_stays_there(args: DownloadArgs, context: Context, hub: HubServer, tmp_path: Path) -> None:
    hub.tokens["hf_verysecret"] = ("me/gated",)
    gated = args.model_copy(update={"repo": "me/gated", "token_to_mirror": True})
    with pytest.raises(HubError) as failed:
        download(gated, context, quick_policy())
    assert failed.value.details["reason"] == "gated"
    with pytest.raises(HubError) as failed:
        download(gated, replace_context(context, "job2", hf_token="hf_wrong"), quick_policy())
    assert failed.value.details["reason"] == "unauthorized"
    hub.forget()
    download(gated, replace_context(context, "job3", hf_token="hf_verysecret"), quick_policy())
    assert all("authorization" in request.headers for request in hub.gets("hub"))
    assert all("authorization" not in request.headers for request in hub.gets("cdn"))
    assert not any(b"hf_verysecret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    hub.forget()
    with pytest.raises(HubError, match="not sent to"):
        download(gated.model_copy(update={"token_to_mirror": False, "name": "other"}), replace_context(context, "job4", hf_token="hf_verysecret"), quick_policy())
    assert all("authorization" not in request.headers for request in hub.seen)


def test_no_space_is_said_before_the_first_byte(args: DownloadArgs, context: Context, hub: HubServer) -> None:
    with pytest.raises(HubError) as failed:
        download(args, context, replace(quick_policy(), reserve_bytes=1 << 60))
    assert failed.value.details["reason"] == "no_space"
    assert hub.gets("cdn") == []


def test_what_is_left_behind_is_swept_when_it_is_old(args: DownloadArgs, context: Context, hub: HubServer) -> None:
    hub.fault("truncate", "^/lfs/", value=100_000)
    hub.fault("status", "^/lfs/", count=-1, value=503)
    with pytest.raises(HubError):
        download(args, context, quick_policy())
    assert sweep(args.models_dir, 3600) == 0
    assert leftovers(args.models_dir)
    assert sweep(args.models_dir, 0) >= 100_000
    assert leftovers(args.models_dir) == []


def test_run_is_the_work_of_the_job(args: DownloadArgs, context: Context) -> None:
    assert run(chosen(args, ["M-Q2_K.gguf"], "gguf"), context)["bytes"] == 2000
    assert target_of(args) == args.models_dir / "me__tiny" / "M-Q4_K_M.gguf"


def replace_context(context: Context, folder: str, **secrets: str) -> Context:
    path = context.directory.with_name(folder)
    path.mkdir(exist_ok=True)
    return Context(path, secrets)
