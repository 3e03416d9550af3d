"""What people paste is understood or refused with a sentence; no name of a hub leaves its folder."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.core.errors import InvalidRequest
from modules.core.files import RESERVED_NAMES
from modules.hub.names import (
    RepoRef,
    checked_path,
    checked_repo,
    checked_revision,
    folder_name,
    parse_dataset_reference,
    parse_reference,
    quantization_in,
)

UNDERSTOOD = [
    ("owner/name", RepoRef("owner/name")),
    ("  owner/name/ ", RepoRef("owner/name")),
    ("owner/name:4.0bpw", RepoRef("owner/name", "4.0bpw")),
    ("owner/name:gptq-4bit-32g-actorder_True", RepoRef("owner/name", "gptq-4bit-32g-actorder_True")),
    ("owner/name@v1.0", RepoRef("owner/name", "v1.0")),
    ("owner/name:feature/x", RepoRef("owner/name", "feature/x")),
    ("owner/name:q4_k_m", RepoRef("owner/name", quantization="Q4_K_M")),
    ("hf.co/owner/name:Q8_0", RepoRef("owner/name", quantization="Q8_0")),
    ("hf.co/owner/name", RepoRef("owner/name")),
    ("huggingface.co/owner/name", RepoRef("owner/name")),
    ("https://huggingface.co/owner/name", RepoRef("owner/name")),
    ("https://HuggingFace.co/owner/name?library=transformers#use", RepoRef("owner/name")),
    ("https://huggingface.co/owner/name/tree/main", RepoRef("owner/name")),
    ("https://huggingface.co/owner/name/tree/dev/sub", RepoRef("owner/name", "dev", "sub")),
    ("https://huggingface.co/owner/name/tree/refs%2Fpr%2F3", RepoRef("owner/name", "refs/pr/3")),
    ("https://huggingface.co/owner/name/blob/refs/pr/3/a.gguf", RepoRef("owner/name", "refs/pr/3", "a.gguf")),
    ("https://huggingface.co/owner/name/blob/main/Q4/a%20b.gguf", RepoRef("owner/name", "main", "Q4/a b.gguf")),
    ("https://huggingface.co/owner/name/resolve/main/a.gguf?download=true", RepoRef("owner/name", "main", "a.gguf")),
    ("https://huggingface.co/owner/name?show_file_info=a.gguf", RepoRef("owner/name", "main", "a.gguf")),
    ("https://huggingface.co/owner/name/discussions/7", RepoRef("owner/name")),
    ("https://huggingface.co/api/models/owner/name", RepoRef("owner/name")),
    ("owner/name/a.gguf", RepoRef("owner/name", "main", "a.gguf")),
    ("owner/name/tree/dev", RepoRef("owner/name", "dev")),
    ("<https://hf.co/owner/name>", RepoRef("owner/name")),
    ("http://127.0.0.1:99/owner/name", RepoRef("owner/name")),
]
REFUSED = [
    "", " ", "gpt2", "a b/c", "https://huggingface.co/", "https://huggingface.co/owner", "https://huggingface.co/datasets/owner/name",
    "https://huggingface.co/spaces/owner/name", "https://evil.example/owner/name", "https://huggingface.co@evil.example/owner/name",
    "https://huggingface.co.evil.example/owner/name", "ftp://huggingface.co/owner/name", "file:///etc/passwd", "http://[::1/owner/name",
    "https://huggingface.co:99999999/o/n", "../../etc", "owner/..", "owner/na--me", "owner/-name", "owner/name/../../x",
    "owner/name:../x", "owner/name:a..b", "https://hf.co/owner/name/resolve/main/..%2F..%2Fx", "owner/name/blob/main/con.gguf", "x" * 2000,
    "owner/name\0", "owner/name:-rf",
]  # fmt: skip
HOSTILE_PATHS = [
    "../x", "a/../x", "/etc/x", "..\\x", "a\\b", "C:x", "con", "CON.txt", "a/nul.gguf", "x.", "x ", " x", ".hidden", "a/.git/config", "-x", "a//b", "",
    "a/", "x\0", "x\n", "\u202egguf.exe", "a" * 201, "a/" * 9 + "b", "naïve.gguf", "a:b", "a|b", "a*b", "a?b", "~/x", "$HOME", "lpt1.json", "a%2fb", "aux .x",
]  # fmt: skip


@pytest.mark.parametrize(("text", "ref"), UNDERSTOOD)
def test_what_people_paste_is_understood(text: str, ref: RepoRef) -> None:
    assert parse_reference(text, "http://127.0.0.1:99") == ref


@pytest.mark.parametrize("text", REFUSED)
def test_everything_else_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_reference(text)
    assert refused.value.message.endswith((".", "…"))
    assert len(refused.value.message) < 400
    assert refused.value.message.isprintable()


@pytest.mark.parametrize(("text", "ref"), [
    ("owner/name", RepoRef("owner/name")),
    ("datasets/owner/name", RepoRef("owner/name")),
    ("owner/name/data/test-00000.parquet", RepoRef("owner/name", "main", "data/test-00000.parquet")),
    ("https://huggingface.co/datasets/owner/name", RepoRef("owner/name")),
    ("hf.co/datasets/owner/name/viewer/default/test", RepoRef("owner/name")),
    ("https://huggingface.co/datasets/owner/name/blob/main/a.txt", RepoRef("owner/name", "main", "a.txt")),
    ("https://huggingface.co/datasets/owner/name/resolve/refs%2Fconvert%2Fparquet/x/0.parquet?download=true", RepoRef("owner/name", "refs/convert/parquet", "x/0.parquet")),
    ("http://127.0.0.1:99/datasets/owner/name/tree/main/data", RepoRef("owner/name", "main", "data")),
])  # fmt: skip
def test_data_sets_are_understood(text: str, ref: RepoRef) -> None:
    assert parse_dataset_reference(text, "http://127.0.0.1:99") == ref


@pytest.mark.parametrize(("text", "words"), [
    ("https://huggingface.co/owner/name", "no link to a data set"), ("wikitext", "is no data set of the hub: give owner/name, like Salesforce/wikitext"),
    ("owner/name/../x", "not safe"), ("https://evil.example/datasets/owner/name", "are not fetched"), ("", "Paste a data set's name"), ("x" * 2000, "Paste a data set's name"),
])  # fmt: skip
def test_what_is_no_data_set_is_told(text: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        parse_dataset_reference(text)


@pytest.mark.parametrize("path", HOSTILE_PATHS)
def test_hostile_file_names_are_refused(path: str) -> None:
    with pytest.raises(InvalidRequest):
        checked_path(path)


@pytest.mark.parametrize("path", ["model.gguf", "Q4_K_M/Model (1) [x]=@+-00001-of-00002.gguf", "onnx/a.b.c", "console.json", "1_Pooling/config.json"])
def test_usual_file_names_pass_unchanged(path: str) -> None:
    assert checked_path(path) == path


@given(st.text(max_size=60) | st.from_regex(r"[a-z./\\:~ -]{0,30}", fullmatch=True))
def test_no_path_leaves_its_folder_on_any_system(path: str) -> None:
    try:
        checked_path(path)
    except InvalidRequest:
        return
    root = Path("/srv/root")
    assert (root / path).resolve().is_relative_to(root)
    assert not PureWindowsPath(path).is_absolute()
    assert not PureWindowsPath(path).drive
    assert all(part[0] != "." and part[-1] not in ". " and part.split(".")[0].lower() not in RESERVED_NAMES for part in path.split("/"))


@given(st.text(max_size=80) | st.from_regex(r"(https://)?(hf\.co/)?[\w./:@%-]{0,40}", fullmatch=True))
def test_any_text_is_refused_or_gives_safe_parts(text: str) -> None:
    try:
        ref = parse_reference(text)
    except InvalidRequest:
        return
    assert checked_repo(ref.repo) == ref.repo
    assert checked_revision(ref.revision) == ref.revision
    assert not ref.path or checked_path(ref.path) == ref.path
    assert "/" not in folder_name(ref.repo)


name = st.from_regex(r"[A-Za-z0-9](?:[A-Za-z0-9._]|-(?!-)){0,20}[A-Za-z0-9]", fullmatch=True).filter(lambda text: ".." not in text and "--" not in text)
segment = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_ =()-]{0,20}", fullmatch=True).filter(lambda text: text[-1] != " ")
branch = st.from_regex(r"[a-z0-9]{1,10}", fullmatch=True).filter(lambda text: text != "refs")


@given(name.filter(lambda text: text not in ("datasets", "spaces", "api", "models", "docs", "blog")), name, branch, st.lists(segment, min_size=1, max_size=3))
def test_links_come_back_as_what_they_were_made_of(owner: str, model: str, revision: str, segments: list[str]) -> None:
    from urllib.parse import quote

    path = "/".join(segments) + ".gguf"
    if any(part.split(".")[0].rstrip().lower() in RESERVED_NAMES for part in path.split("/")):
        return
    for page in ("blob", "resolve", "tree"):
        link = f"https://huggingface.co/{owner}/{model}/{page}/{revision}/{quote(path)}"
        assert parse_reference(link) == RepoRef(f"{owner}/{model}", revision, path)


@pytest.mark.parametrize(("path", "label"), [
    ("Model-7B-Q4_K_M.gguf", "Q4_K_M"), ("m.q8_0.gguf", "Q8_0"), ("m-UD-Q2_K_XL.gguf", "UD-Q2_K_XL"), ("m-IQ2_XXS.gguf", "IQ2_XXS"), ("m-f16.gguf", "F16"),
    ("m-BF16-00001-of-00003.gguf", "BF16"), ("Q6_K/m-00001-of-00002.gguf", "Q6_K"), ("m-MXFP4_MOE.gguf", "MXFP4_MOE"), ("m.gguf", ""), ("m-i1-IQ3_M.gguf", "IQ3_M"),
    ("m-Q4_0_4_4.gguf", "Q4_0_4_4"), ("FQ4_Kx.gguf", ""), ("m-TQ1_0.gguf", "TQ1_0"),
])  # fmt: skip
def test_the_quantization_is_read_from_the_name(path: str, label: str) -> None:
    assert quantization_in(path) == label


@pytest.mark.parametrize("revision", ["", "a..b", "/a", "a/", "-x", "a b", "a" * 101, "a//b", "a?b", "ü"])
def test_impossible_revisions_are_refused(revision: str) -> None:
    with pytest.raises(InvalidRequest):
        checked_revision(revision)
