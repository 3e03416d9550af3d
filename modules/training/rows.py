"""Rows of data files: JSON, JSONL, CSV, Parquet, plain text, and folders of these. Values as they stand, with the place where they stood.

Everything but plain text and Parquet is read in pieces, so that a look at the first rows of a large file is cheap. Nothing of a file is ever executed.
Knows no meaning of a column (`formats.py`).
"""

from __future__ import annotations

import codecs
import csv
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from modules.core.errors import InvalidRequest, NotFound
from modules.hub.choices import OWN_RECORD
from modules.training.json_rows import json_rows, line_row

FILE_LIMIT_BYTES = 32 << 30
TEXT_LIMIT_BYTES = 256 << 20  # of a plain text, which is one document
ROW_LIMIT_BYTES = 64 << 20
GROUP_LIMIT_BYTES = 4 << 30  # of a Parquet file's row group, unpacked
ROWS_LIMIT = 5_000_000
FILES_LIMIT = 10_000
DEPTH_LIMIT = 8
TEXT_SUFFIXES = (".txt", ".text", ".raw")
DELIMITERS = ",;\t|"
FOREIGN_BEGINNINGS = (  # what is often taken for text, and what to do
    (codecs.BOM_UTF16_LE, "UTF-16 text; save it as UTF-8"),
    (codecs.BOM_UTF16_BE, "UTF-16 text; save it as UTF-8"),
    (b"\x1f\x8b", "packed with gzip; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd; unpack it first"),
    (b"PK\x03\x04", "a zip or Excel file; unpack it, or save the table as CSV"),
    (b"PAR1", "a Parquet file; let its name end in .parquet"),
)


@dataclass(frozen=True, slots=True)
class DataRow:
    """A row: its columns, and where it stood, like “talk.jsonl, line 12”."""

    where: str
    values: dict[str, Any]


def read_rows(path: Path, *, head_chars: int = 0) -> Iterator[DataRow]:
    """All rows of a file, or of the files of a folder in the order of their names; with `head_chars` a plain text is only its beginning.

    Raises:
        NotFound: there is no such file.
        InvalidRequest: a file is of no known kind, is too large, or is wrong; the message names it and the line.
    """
    count = 0
    for file, name in data_files(path):
        try:
            if file.stat().st_size > FILE_LIMIT_BYTES:
                raise InvalidRequest(f"{name} is larger than {FILE_LIMIT_BYTES >> 30} GiB, the most that is read; divide it.")
            for row in _reader_of(file)(file, name, head_chars):
                count += 1
                if count > ROWS_LIMIT:
                    raise InvalidRequest(f"{path.name} has more than {ROWS_LIMIT:,} rows, the most that are read; choose a part of it.")
                yield row
        except OSError as error:
            raise InvalidRequest(f"{name} cannot be read: {error.strerror or error}. Check the file and its permissions.") from error


def data_files(path: Path) -> list[tuple[Path, str]]:
    """The files that hold the rows, and how messages name them.

    Raises:
        NotFound: there is no such file.
        InvalidRequest: none of them is of a known kind, or there are too many.
    """
    if not path.exists():
        raise NotFound(f"There is no data set {path.name} any more; choose another one from the list.")
    if not path.is_dir():
        _reader_of(path)
        return [(path, printable(path.name))]
    found = []
    for folder, folders, files in os.walk(path):
        here = Path(folder)
        folders[:] = sorted(each for each in folders if not each.startswith(".") and len(here.relative_to(path).parts) < DEPTH_LIMIT)
        found += [here / name for name in sorted(files) if _holds_rows(here / name)]
        if len(found) > FILES_LIMIT:
            raise InvalidRequest(f"{path.name} holds more than {FILES_LIMIT:,} files, the most that are read; join them.")
    if not found:
        raise InvalidRequest(f"{path.name} holds no file that can be read. {known_kinds()}")
    return [(file, printable(file.relative_to(path.parent).as_posix())) for file in found]


def _holds_rows(file: Path) -> bool:
    """Whether a file of a folder is data: no link, which could lead anywhere."""
    return holds_rows(file.name) and not file.is_symlink() and file.is_file()


def holds_rows(name: str) -> bool:
    """Whether a file of that name is data, among others in a folder: not what tells of the data or of where it came from."""
    about = name.lower().startswith((".", "readme", "license", "licence", "dataset_info")) or name == OWN_RECORD
    return is_readable(Path(name)) and not about


def printable(text: str) -> str:
    """The text as proper Unicode: what cannot be sent anywhere becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def is_readable(file: Path) -> bool:
    """Whether a file's name says that it is of a kind that is read."""
    return file.suffix.lower() in READERS


def known_kinds() -> str:
    """A sentence about what can be read."""
    return f"Files that end in {', '.join(sorted(READERS))} are read."


def _reader_of(file: Path) -> Callable[[Path, str, int], Iterator[DataRow]]:
    reader = READERS.get(file.suffix.lower())
    if reader is None or not file.is_file():
        raise InvalidRequest(f"{file.name} is of no kind that can be read. {known_kinds()}")
    return reader


def _opened(path: Path, name: str) -> BinaryIO:
    """A file at its first byte of text, behind the mark that some programs put in front of UTF-8."""
    file = path.open("rb")
    beginning = file.read(4)
    kind = next((kind for mark, kind in FOREIGN_BEGINNINGS if beginning.startswith(mark)), "")
    if kind:
        file.close()
        raise InvalidRequest(f"{name} is {kind}.")
    file.seek(len(codecs.BOM_UTF8) if beginning.startswith(codecs.BOM_UTF8) else 0)
    return file


def _lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    with _opened(path, name) as file:
        number = 0
        while line := file.readline(ROW_LIMIT_BYTES + 1):
            number += 1
            if len(line) > ROW_LIMIT_BYTES:
                raise InvalidRequest(f"{name}, line {number} is longer than {ROW_LIMIT_BYTES >> 20} MiB, the most that is read; divide it.")
            try:
                yield number, line.decode()
            except UnicodeDecodeError as error:
                raise _not_utf8(name, number) from error


def _not_utf8(name: str, line: int) -> InvalidRequest:
    return InvalidRequest(f"{name}, line {line} is not UTF-8 text; save the file as UTF-8.")


def _jsonl(path: Path, name: str, _: int) -> Iterator[DataRow]:
    for number, line in _lines(path, name):
        if line.strip():
            yield DataRow(f"{name}, line {number}", line_row(line, f"{name}, line {number}"))


def _json(path: Path, name: str, _: int) -> Iterator[DataRow]:
    with _opened(path, name) as file:
        for where, values in json_rows(file, name):
            yield DataRow(where, values)


def _csv(path: Path, name: str, _: int) -> Iterator[DataRow]:
    lines = (text for _, text in _lines(path, name))
    beginning = [next(lines, "")]
    while beginning[-1] and not beginning[-1].strip():
        beginning.append(next(lines, ""))
    csv.field_size_limit(min(ROW_LIMIT_BYTES, sys.maxsize))  # the library's own limit is shorter than many a text
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(DELIMITERS, key=beginning[-1].count)
    reader = csv.reader(chain(beginning, lines), delimiter=delimiter, strict=True)
    header: list[str] = []
    begin = 1
    try:
        for cells in reader:
            where, begin = f"{name}, line {begin}", reader.line_num + 1
            if not header:
                header = _header(cells, where) if any(cell.strip() for cell in cells) else []
            elif any(cells):
                yield DataRow(where, _cells(header, cells, where))
    except csv.Error as error:
        raise InvalidRequest(f"{name}, line {begin} is not CSV: {error}. Put texts with quotes, commas or line breaks between double quotes, and double the quotes in them.") from error


def _header(cells: list[str], where: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    doubled = next((cell for cell in header if header.count(cell) > 1), "")
    if "" in header or doubled:
        what = f"names the column “{doubled[:60]}” twice" if doubled else "leaves a column without a name"
        raise InvalidRequest(f"{where} {what}; the first line must name every column, each once.")
    return header


def _cells(header: list[str], cells: list[str], where: str) -> dict[str, Any]:
    if len(cells) != len(header):
        raise InvalidRequest(f"{where} has {len(cells)} fields, the first line names {len(header)} columns. Correct this line; a comma inside a text needs double quotes around the text.")
    return dict(zip(header, cells, strict=True))


def _text(path: Path, name: str, head_chars: int) -> Iterator[DataRow]:
    size = path.stat().st_size
    if size > TEXT_LIMIT_BYTES and not head_chars:
        raise InvalidRequest(f"{name} has {size >> 20} MiB; a plain text may have {TEXT_LIMIT_BYTES >> 20} MiB. Divide it into several files of one folder.")
    with _opened(path, name) as file:
        raw = file.read(4 * head_chars or TEXT_LIMIT_BYTES + 1)
    try:
        text, _ = codecs.utf_8_decode(raw, "strict", not head_chars)  # a beginning may end within a character
    except UnicodeDecodeError as error:
        raise _not_utf8(name, raw.count(b"\n", 0, error.start) + 1) from error
    yield DataRow(name, {"text": text.replace("\r\n", "\n")[: head_chars or None]})


def _parquet(path: Path, name: str, _: int) -> Iterator[DataRow]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path, memory_map=False, pre_buffer=False) as file:
            largest = max((file.metadata.row_group(place).total_byte_size for place in range(file.num_row_groups)), default=0)
            if largest > GROUP_LIMIT_BYTES:
                raise InvalidRequest(f"{name} has a row group of {largest >> 30} GiB; at most {GROUP_LIMIT_BYTES >> 30} GiB are read. Write it with smaller ones.")
            for batch in file.iter_batches(batch_size=128, use_threads=False):
                for values in batch.to_pylist():
                    number += 1
                    yield DataRow(f"{name}, row {number}", {str(key): _without_absent(value) for key, value in values.items()})
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0][:200].rstrip(".") if str(error) else type(error).__name__
        raise InvalidRequest(f"{name} cannot be read as Parquet after row {number}: {reason}. Fetch or write the file again.") from error


def _without_absent(value: Any) -> Any:
    """The same without empty fields in what is nested: Parquet cannot tell them from absent ones."""
    if isinstance(value, dict):
        return {key: _without_absent(inner) for key, inner in value.items() if inner is not None}
    return [_without_absent(inner) for inner in value] if isinstance(value, list) else value


READERS: Mapping[str, Callable[[Path, str, int], Iterator[DataRow]]] = MappingProxyType({
    ".json": _json, ".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet, ".pq": _parquet,
    **dict.fromkeys(TEXT_SUFFIXES, _text),
})  # fmt: skip
