"""Rows of every kind of file: what stands there comes out, and what is wrong is named with file and line, never with another error."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modules.core.errors import InvalidRequest, NotFound
from modules.training import json_rows, rows
from modules.training.rows import DataRow, read_rows

TWO = [{"a": "one", "n": 1}, {"a": "zwei, “ü”\nnext", "n": None}]
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8)
objects = st.dictionaries(st.text(max_size=5), values, max_size=4)
quick = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path) -> list[Any]:
    return [row.values for row in read_rows(path)]


def places(path: Path) -> list[str]:
    return [row.where for row in read_rows(path)]


def refusal(path: Path) -> str:
    with pytest.raises(InvalidRequest) as told:
        list(read_rows(path))
    assert told.value.message.endswith("."), told.value.message
    return told.value.message


def lines(content: list[Any]) -> str:
    return "".join(json.dumps(item) + "\n" for item in content)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", lines(TWO)),
        ("a.ndjson", "\n\r\n" + lines(TWO).replace("\n", "\r\n")),
        ("a.jsonl", lines(TWO).rstrip()),
        ("a.json", json.dumps(TWO)),
        ("A.JSON", json.dumps(TWO, indent=2, ensure_ascii=False)),
        ("a.json", json.dumps({"version": 1, "data": TWO})),
        ("a.json", lines(TWO)),
        ("a.json", json.dumps(TWO[0], indent=1) + json.dumps(TWO[1], indent=1)),
    ],
)
def test_every_way_to_write_json_gives_the_same_rows(tmp_path: Path, name: str, content: str, mark: str) -> None:
    assert read(file(tmp_path, name, mark + content)) == TWO


def test_a_json_object_that_is_a_row_stays_one(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "Hello"}]}
    assert read(file(tmp_path, "a.json", json.dumps(row))) == [row]
    assert read(file(tmp_path, "b.json", json.dumps({"a": [1, 2]}))) == [{"a": [1, 2]}]


def test_bare_texts_and_conversations_get_their_usual_columns(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Hello"}]
    assert read(file(tmp_path, "a.json", json.dumps(["one", talk]))) == [{"text": "one"}, {"messages": talk}]
    assert read(file(tmp_path, "a.jsonl", lines([talk]))) == [{"messages": talk}]


def test_places_are_file_and_line(tmp_path: Path) -> None:
    assert places(file(tmp_path, "a.jsonl", "\n" + lines(TWO))) == ["a.jsonl, line 2", "a.jsonl, line 3"]
    assert places(file(tmp_path, "a.json", '[\n{"a":\n1},\n{"a": 2}]')) == ["a.json, row 1 (line 2)", "a.json, row 2 (line 4)"]
    assert places(file(tmp_path, "a.csv", '\na,b\n1,"x\ny"\n\n2,z\n')) == ["a.csv, line 3", "a.csv, line 6"]
    assert places(file(tmp_path, "a.txt", "x")) == ["a.txt"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": }\n', "a.jsonl, line 2 is not JSON: Expecting value (column 7)"),
        ("a.jsonl", '{"a": 1}\n\n[1]\n', "a.jsonl, line 3: a row must be an object"),
        ("a.jsonl", '[\n{"a": 1}\n]', "let the name end in .json"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xe4"}\n', "a.jsonl, line 2 is not UTF-8"),
        ("a.jsonl", "[" * 100_000, "line 1 is nested too deeply"),
        ("a.jsonl", '{"a": ' + "9" * 5000 + "}", "a number too long"),
        ("a.json", '[\n{"a": 1},\n{"a": 2]', "a.json, line 3 is not JSON"),
        ("a.json", '[\n{"a": 1}\n{"a": 2}]', "a.json, line 3: “{” stands where “,”"),
        ("a.json", '[\n{"a": 1},\n', "a.json, line 3 is not JSON"),
        ("a.json", '[\n{"a": 1}\n', "a.json, line 3: the file ends before its list does"),
        ("a.json", '[{"a": 1}]\n\nx', "a.json, line 3: something follows"),
        ("a.json", '[\n5]', "a.json, row 1 (line 2): a row must be an object"),
        ("a.json", "5", "this one is a number"),
        ("a.json", '{"a": tru}' + " " * 100, "a.json, line 1 is not JSON"),
        ("a.json", b'[\n"\xff"]', "a.json, line 2 is not UTF-8"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.json", '{"a": 1}\n\n{"a"}', "a.json, line 3 is not JSON"),
        ("a.csv", "a,a\n1,2\n", "a.csv, line 1 names the column “a” twice"),
        ("a.csv", "a,\n1,2\n", "leaves a column without a name"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "a.csv, line 3 has 3 fields, the first line names 2"),
        ("a.csv", 'a,b\n1,2\n"x"y,2\n', "a.csv, line 3 is not CSV"),
        ("a.csv", 'a,b\n1,2\n1,"x\n\n\n', "a.csv, line 3 is not CSV"),
        ("a.csv", b"a,b\n1,\xff\n", "a.csv, line 2 is not UTF-8"),
        ("a.txt", b"one\ntwo\n\xff", "a.txt, line 3 is not UTF-8"),
        ("a.txt", "Grün".encode("utf-16"), "a.txt is UTF-16 text; save it as UTF-8."),
        ("a.jsonl", gzip.compress(b"{}", mtime=0), "unpack it first"),
        ("a.csv", b"PK\x03\x04rest", "save the table as CSV"),
        ("a.json", b"PAR1rest", "let its name end in .parquet"),
        ("a.parquet", b"PAR1 and nothing of it PAR1", "a.parquet cannot be read as Parquet"),
        ("a.parquet", b"", "a.parquet cannot be read as Parquet"),
        ("a.xlsx", b"x", "a.xlsx is of no kind that can be read"),
        ("a", b"x", "is of no kind that can be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    assert said in refusal(file(tmp_path, name, content))


def test_the_rows_before_a_wrong_one_are_there(tmp_path: Path) -> None:
    reading = read_rows(file(tmp_path, "a.jsonl", '{"a": 1}\n{\n'))
    assert next(reading).values == {"a": 1}
    with pytest.raises(InvalidRequest):
        next(reading)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_an_empty_file_has_no_rows(tmp_path: Path, name: str) -> None:
    assert read(file(tmp_path, name, "")) == []
    assert read(file(tmp_path, name, "\ufeff \n\n")) == []


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "|"), ("a.csv", "\t"), ("a.tsv", "\t")])
def test_tables_with_other_separators(tmp_path: Path, name: str, mark: str) -> None:
    assert read(file(tmp_path, name, f'question{mark}answer\r\n"one, ""two""{mark}"{mark}x\r\n')) == [{"question": f'one, "two"{mark}', "answer": "x"}]


def test_a_long_field_of_a_table(tmp_path: Path) -> None:
    assert read(file(tmp_path, "a.csv", "a\n" + "x" * 300_000)) == [{"a": "x" * 300_000}]


def test_a_plain_text_is_one_document_and_its_beginning_can_be_had_alone(tmp_path: Path) -> None:
    path = file(tmp_path, "a.txt", "ä\r\n" * 3000)
    assert read(path) == [{"text": "ä\n" * 3000}]
    head = next(read_rows(path, head_chars=101)).values["text"]
    assert head == ("ä\n" * 101)[:101]


def test_parquet_gives_lists_and_objects_without_what_is_absent(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]
    table = pyarrow.Table.from_pylist([{"messages": talk, "n": 1}, {"messages": None, "n": None}] * 200)
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    found = list(read_rows(tmp_path / "a.parquet"))
    assert len(found) == 400
    assert found[0] == DataRow("a.parquet, row 1", {"messages": [talk[0], {"role": "assistant", "tool_calls": [{"id": "1"}]}], "n": 1})
    assert found[399] == DataRow("a.parquet, row 400", {"messages": None, "n": None})
    raw = (tmp_path / "a.parquet").read_bytes()
    for place in range(8, len(raw), 97):  # a bit that fell over anywhere is a sentence or another value, nothing else
        broken = file(tmp_path, "b.parquet", raw[:place] + bytes([raw[place] ^ 255]) + raw[place + 1 :])
        try:
            list(read_rows(broken))
        except InvalidRequest as error:
            assert "b.parquet" in error.message


def test_a_folder_is_all_its_files_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    file(folder, "b.jsonl", lines([{"n": 2}]))
    file(folder, "a/x.csv", "n\n3\n")
    file(folder, "a.json", json.dumps([{"n": 1}]))
    for about in ("README.txt", ".hidden.jsonl", "dataset_infos.json", "picture.png", ".git/x.jsonl", "LICENSE.txt"):
        file(folder, about, "not data")
    file(tmp_path, "outside.jsonl", lines([{"n": 9}]))
    (folder / "link.jsonl").symlink_to(tmp_path / "outside.jsonl")
    (folder / "linked").symlink_to(tmp_path)
    assert [(row.where, row.values) for row in read_rows(folder)] == [
        ("set/a.json, row 1 (line 1)", {"n": 1}), ("set/b.jsonl, line 1", {"n": 2}), ("set/a/x.csv, line 2", {"n": "3"}),
    ]  # fmt: skip


def test_a_folder_without_data_and_a_path_without_anything(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no file that can be read" in refusal(tmp_path / "empty")
    with pytest.raises(NotFound):
        list(read_rows(tmp_path / "gone.jsonl"))


@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [("ROWS_LIMIT", 3, "more than 3 rows"), ("FILE_LIMIT_BYTES", 10, "larger than"), ("ROW_LIMIT_BYTES", 5, "line 1 is longer than")],
)
def test_limits_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, said: str) -> None:
    monkeypatch.setattr(rows, limit, value)
    assert said in refusal(file(tmp_path, "a.jsonl", lines([{"n": 1}] * 4)))


def test_a_text_and_a_json_object_that_are_too_long_are_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "TEXT_LIMIT_BYTES", 100)
    assert "Divide it" in refusal(file(tmp_path, "a.txt", "x" * 101))
    monkeypatch.setattr(json_rows, "VALUE_LIMIT_CHARS", 1000)
    monkeypatch.setattr(json_rows, "CHUNK_BYTES", 100)
    assert "as a list, or one a line" in refusal(file(tmp_path, "a.json", json.dumps({"data": ["x" * 100] * 100})))


@quick
@given(content=st.lists(objects, max_size=6), chunk=st.integers(1, 30), indent=st.sampled_from([None, 1]), ascii_only=st.booleans())
def test_a_json_list_read_in_pieces_of_any_size_is_what_it_was(tmp_path: Path, content: list[Any], chunk: int, indent: int | None, ascii_only: bool) -> None:
    path = file(tmp_path, "a.json", json.dumps(content, indent=indent, ensure_ascii=ascii_only))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "CHUNK_BYTES", chunk)
        assert read(path) == content


@quick
@given(content=st.dictionaries(st.text(max_size=5), st.one_of(values, st.floats(allow_nan=False, allow_infinity=False)), max_size=6), chunk=st.integers(1, 30))
def test_an_object_read_member_by_member_is_what_it_was(content: dict[str, Any], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "CHUNK_BYTES", chunk)
        source = json_rows.JsonSource(io.BytesIO(json.dumps(content).encode()), "a.json")
        assert {name: source.value() for name in source.members()} == content


@quick
@given(content=st.lists(values, max_size=5), name=st.sampled_from(["a.json", "a.jsonl"]))
def test_any_json_is_rows_or_a_sentence(tmp_path: Path, content: list[Any], name: str) -> None:
    path = file(tmp_path, name, lines(content) if name == "a.jsonl" else json.dumps(content))
    try:
        assert all(isinstance(row.values, dict) and row.where.startswith(name) for row in read_rows(path))
    except InvalidRequest as error:
        assert error.message.startswith(f"{name}, ")


@quick
@given(content=st.binary(max_size=60), name=st.sampled_from(["a.json", "a.jsonl", "a.csv", "a.tsv", "a.txt", "a.parquet"]))
def test_any_bytes_are_rows_or_a_sentence(tmp_path: Path, content: bytes, name: str) -> None:
    try:
        list(read_rows(file(tmp_path, name, content)))
    except InvalidRequest as error:
        assert name in error.message


@quick
@given(table=st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=6), min_size=2, max_size=2), max_size=5))
def test_a_table_that_was_written_comes_back(tmp_path: Path, table: list[list[str]]) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([["one", "two"], *table])
    assert [list(row.values()) for row in read(path)] == [row for row in table if any(row)]


def test_the_first_rows_of_a_large_list_need_not_the_rest_of_the_file(tmp_path: Path) -> None:
    """A look costs the first piece of a file: what is broken behind it is not met."""
    path = tmp_path / "a.json"
    path.write_text("[" + ",".join(['{"a": "' + "x" * 1000 + '"}'] * 5000) + ", broken")
    head: Iterator[DataRow] = islice(read_rows(path), 20)
    assert len(list(head)) == 20
    assert "is not JSON" in refusal(path)


def test_a_long_gap_in_a_json_text_is_gone_over_at_once() -> None:
    source = json_rows.JsonSource(io.BytesIO(b" \n" * (3 << 20) + b"[1]"), "gap.json")
    assert (source.next_char(), source.line, source.passed) == ("[", (3 << 20) + 1, 6 << 20)
