"""The GGUF header reader: right on good files, a sentence on bad ones, always fast and bounded."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modules.core.errors import AppError, UnsupportedFormat
from modules.loaders.gguf_header import FILE_TYPES, TENSOR_TYPES, LongArray, read_gguf_header
from tests.tiny_models import TinyFiles


@pytest.fixture(scope="module")
def raw(tiny: TinyFiles) -> bytes:
    return tiny.gguf.read_bytes()


@pytest.fixture
def damaged(tmp_path: Path) -> Callable[[bytes], str]:
    """The sentence for a file of these bytes."""

    def sentence(data: bytes) -> str:
        path = tmp_path / "bad.gguf"
        path.write_bytes(data)
        with pytest.raises(UnsupportedFormat) as caught:
            read_gguf_header(path, keep_tokens=True)
        return caught.value.message

    return sentence


def write(path: Path, architecture: str = "llama", **fields: object) -> Path:
    """A small file with one tensor and any metadata."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in fields.items():
        name = key.replace("__", ".")
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, list):
            writer.add_array(name, value)
        else:
            writer.add_string(name, str(value))
    import numpy as np

    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_facts_of_a_good_file(tiny: TinyFiles) -> None:
    header = read_gguf_header(tiny.gguf)
    reader = gguf.GGUFReader(tiny.gguf)
    assert header.architecture == "llama"
    assert header.kind == "model"
    assert header.quantization == "F16"
    assert header.token_count == 320
    assert header.tokens == ()
    assert header.number("context_length") == 256
    assert header.number("no.such.key", 7) == 7
    assert "<|im_start|>" in header.text("tokenizer.chat_template")
    assert {tensor.name: tensor.shape for tensor in header.tensors} == {t.name: tuple(int(n) for n in t.shape) for t in reader.tensors}
    assert [tensor.size_bytes for tensor in header.tensors] == [int(t.n_bytes) for t in reader.tensors]
    assert header.parameters == sum(int(t.n_elements) for t in reader.tensors)
    assert isinstance(header.metadata["tokenizer.ggml.tokens"], LongArray)
    assert len(read_gguf_header(tiny.gguf, keep_tokens=True).tokens) == 320


def test_tables_agree_with_the_gguf_package() -> None:
    assert {int(key): (key.name, *sizes) for key, sizes in gguf.GGML_QUANT_SIZES.items()} == dict(TENSOR_TYPES)
    named = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf.LlamaFileType if int(kind) < 1000}
    assert {code: name.removesuffix("_MOE") for code, name in named.items()} == dict(FILE_TYPES)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.05, 0.5, 0.999])
def test_a_cut_file_says_so(raw: bytes, damaged: Callable[[bytes], str], share: float) -> None:
    message = damaged(raw[: int(len(raw) * share)])
    assert "bad.gguf is cut short" in message
    assert "download it again" in message


def test_a_half_file_says_what_it_lacks(raw: bytes, damaged: Callable[[bytes], str]) -> None:
    assert f"it has {len(raw) / 1e3:.1f} kB, the file has {len(raw) // 2 / 1e3:.1f} kB" in damaged(raw[: len(raw) // 2])


@pytest.mark.parametrize(
    ("place", "data", "words"),
    [
        (0, b"GGML", "not a GGUF file"),
        (4, struct.pack("<I", 1), "version 1"),
        (4, struct.pack(">I", 3), "big-endian"),
        (4, struct.pack("<I", 99), "version 99"),
        (8, struct.pack("<Q", 2**63), "tensors"),
        (16, struct.pack("<Q", 2**40), "metadata keys"),
        (24, struct.pack("<Q", 2**62), "a text of"),
    ],
)
def test_absurd_counts(raw: bytes, damaged: Callable[[bytes], str], place: int, data: bytes, words: str) -> None:
    assert words in damaged(raw[:place] + data + raw[place + len(data) :])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"llama__block_count": 0}, "llama.block_count is 0"),
        ({"llama__block_count": 1000}, "llama.block_count is 1000"),
        ({"llama__attention__layer_norm_rms_epsilon": float("nan")}, "epsilon is nan"),
        ({"llama__attention__layer_norm_rms_epsilon": 0.0}, "epsilon is 0.0"),
        ({"llama__context_length": 2**31}, "context_length"),
        ({"llama__block_count": "many"}, "block_count is many"),
        ({"general__type": "x", "llama__block_count": 4_000_000_000}, "llama.block_count is 4000000000"),
        ({"general__alignment": 33}, "alignment is 33"),
        ({"tokenizer__ggml__tokens": ["a", "b", "a"]}, "two tokens"),
        ({"tokenizer__ggml__tokens": ["a", "b"], "tokenizer__ggml__scores": [0.5]}, "1 entries of scores"),
        ({"tokenizer__ggml__tokens": ["a", "b"], "tokenizer__ggml__eos_token_id": 2}, "eos token is number 2 of 2"),
    ],
)
def test_values_that_would_abort_the_native_loader(tmp_path: Path, fields: dict[str, object], words: str) -> None:
    path = write(tmp_path / "odd.gguf", **fields)
    with pytest.raises(UnsupportedFormat, match=words.replace(".", r"\.")):
        read_gguf_header(path, keep_tokens=True)


def test_a_thousand_random_mutations_give_a_header_or_a_sentence(raw: bytes, tmp_path: Path) -> None:
    rng = random.Random(7)
    path = tmp_path / "mutated.gguf"
    header_bytes = 16_000
    slowest = 0.0
    refused = 0
    for _ in range(1000):
        data = bytearray(raw[: rng.choice((len(raw), len(raw), rng.randrange(len(raw))))])
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(min(header_bytes, max(len(data), 1))) if data else 0
            chunk = rng.choice((b"\xff" * 8, b"\0" * 8, rng.randbytes(4), rng.randbytes(1), struct.pack("<Q", 2 ** rng.randrange(64))))
            data[place : place + len(chunk)] = chunk
        path.write_bytes(data)
        begin = time.process_time()
        try:
            read_gguf_header(path, keep_tokens=True)
        except AppError as error:
            refused += 1
            assert error.message.endswith(".")
            assert len(error.message) < 600
        slowest = max(slowest, time.process_time() - begin)
    assert slowest < 1.0
    assert refused > 500


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400))
def test_any_bytes_after_the_magic(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "any.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0" + tail)
    with pytest.raises(UnsupportedFormat):
        read_gguf_header(path)


def test_many_small_texts_are_bounded(tmp_path: Path) -> None:
    """A list that claims millions of texts in a large file ends at the limit, not after minutes."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 8, 60_000_000)
    path = tmp_path / "sparse.gguf"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(1 << 30)
    begin = time.process_time()
    with pytest.raises(UnsupportedFormat, match="60000000 texts"):
        read_gguf_header(path)
    assert time.process_time() - begin < 1.0
