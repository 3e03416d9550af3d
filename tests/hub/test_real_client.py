"""The test hub speaks the hub's protocol: the real client of the hub lists, reads and downloads from it, and ours sees the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants, errors, hf_hub_download, hf_hub_url
from huggingface_hub.file_download import get_hf_file_metadata

from modules.hub.client import HubClient
from modules.hub.repository import SearchFilters
from modules.hub.transport import Access
from tests.hub.hub_server import COMMIT, HubServer

FILES = {"README.md": b"# Tiny", "config.json": b"{}", "big file.gguf": b"G" * 5000, "sub/tokenizer.json": b"[]"}


@pytest.fixture
def api(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HfApi:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the tests run with the switch on; this hub is ours
    hub.page = 3
    hub.add("me/tiny", FILES)
    hub.add("me/other", {"a.gguf": b"G" * 10}, gated=True)
    hub.add("datasets/me/tiny", {"data/test.parquet": b"PAR1" * 500, "small.txt": b"words"}, branches=("main", "refs/convert/parquet"), commit="d" * 40)
    return HfApi(endpoint=hub.endpoint, token=False)


def test_the_real_client_lists_models_and_files(api: HfApi) -> None:
    assert [model.id for model in api.list_models(search="", filter="gguf", limit=10)] == ["me/other", "me/tiny"]
    assert api.model_info("me/tiny").sha == COMMIT
    found = {file.path: file for file in api.list_repo_tree("me/tiny", recursive=True, revision=COMMIT) if hasattr(file, "blob_id")}
    assert set(found) == set(FILES)
    assert found["big file.gguf"].lfs.size == 5000


@pytest.mark.parametrize("path", ["config.json", "big file.gguf"])
def test_the_real_client_downloads(api: HfApi, hub: HubServer, tmp_path: Path, path: str) -> None:
    got = hf_hub_download("me/tiny", path, local_dir=tmp_path, endpoint=hub.endpoint, token=False)
    assert Path(got).read_bytes() == FILES[path]
    known = get_hf_file_metadata(hf_hub_url("me/tiny", path, endpoint=hub.endpoint), token=False)
    assert (known.size, known.commit_hash) == (len(FILES[path]), COMMIT)
    assert all("authorization" not in seen.headers for seen in hub.gets("cdn"))


@pytest.mark.parametrize(("path", "size"), [("data/test.parquet", 2000), ("small.txt", 5)])
def test_the_real_client_sees_data_sets(api: HfApi, hub: HubServer, tmp_path: Path, path: str, size: int) -> None:
    assert api.dataset_info("me/tiny", revision="refs/convert/parquet").sha == "d" * 40
    assert api.model_info("me/tiny").sha == COMMIT, "a model of the same name is something else"
    got = hf_hub_download("me/tiny", path, repo_type="dataset", local_dir=tmp_path, endpoint=hub.endpoint, token=False)
    assert Path(got).stat().st_size == size
    with pytest.raises(errors.RepositoryNotFoundError):
        api.dataset_info("me/other")


async def test_ours_sees_the_same_data_set(api: HfApi, hub: HubServer) -> None:
    found = await HubClient(Access(hub.endpoint)).repository("me/tiny", "refs/convert/parquet", "dataset")
    assert (found.commit, {file.path: file.size for file in found.files}) == ("d" * 40, {"data/test.parquet": 2000, "small.txt": 5})


def test_the_real_client_understands_the_refusals(api: HfApi, hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(errors.GatedRepoError):
        hf_hub_download("me/other", "a.gguf", local_dir=tmp_path, endpoint=hub.endpoint, token=False)
    with pytest.raises(errors.RepositoryNotFoundError):
        api.model_info("me/absent")
    with pytest.raises(errors.RevisionNotFoundError):
        api.model_info("me/tiny", revision="nope")
    with pytest.raises(errors.RemoteEntryNotFoundError):
        hf_hub_download("me/tiny", "absent.json", local_dir=tmp_path, endpoint=hub.endpoint, token=False)


async def test_our_client_sees_what_the_real_one_sees(api: HfApi, access: Access) -> None:
    ours = await HubClient(access).repository("me/tiny")
    theirs = {
        (file.path, file.lfs.size if file.lfs else file.size, file.lfs.sha256 if file.lfs else "", "" if file.lfs else file.blob_id)
        for file in api.list_repo_tree("me/tiny", recursive=True)
        if hasattr(file, "blob_id")
    }
    assert {(file.path, file.size, file.sha256, file.git_sha1) for file in ours.files} == theirs
    rows = await HubClient(access).search(filters=SearchFilters(library="gguf"))
    assert [(row.repo, row.downloads, row.gated) for row in rows] == [
        (model.id, model.downloads, bool(model.gated)) for model in api.list_models(filter="gguf", limit=30, sort="downloads")
    ]


async def test_both_clients_filter_alike(api: HfApi, access: Access, hub: HubServer) -> None:
    hub.add("a/chat", {}, info={"pipeline_tag": "text-generation", "tags": ["gguf", "license:mit"], "gguf": {"total": 2_000_000_000}})
    hub.add("a/eyes", {}, info={"pipeline_tag": "image-text-to-text", "tags": ["gguf"], "gguf": {"total": 2_000_000_000}})
    hub.add("b/chat", {}, info={"tags": ["safetensors", "license:apache-2.0"], "safetensors": {"parameters": {"F16": 9_000_000_000}, "total": 9_000_000_000}})
    for ours, theirs in (
        ({"author": "a"}, {"author": "a"}),
        ({"task": "image-text-to-text"}, {"pipeline_tag": "image-text-to-text"}),
        ({"library": "gguf", "licence": "mit"}, {"filter": ["gguf", "license:mit"]}),
        ({"least_parameters": 1_000_000_000, "most_parameters": 4_000_000_000}, {"num_parameters": "min:1B,max:4B"}),
    ):
        rows = await HubClient(access).search(filters=SearchFilters(**ours))
        assert [row.repo for row in rows] == [model.id for model in api.list_models(**theirs, limit=30, sort="downloads")]
        assert rows
