"""A model in several files, as llama-gguf-split writes it: only the first one says what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from modules.core.model import LoadedModel, Row
from modules.loaders.llama_cpp.random_model import RandomModel, write_random_gguf
from modules.loaders.model_info import read_info
from modules.loaders.registry import find_loader

pytestmark = pytest.mark.processes


def in_two_parts(path: Path) -> Path:
    """Both parts beside a file; the first one."""
    whole = gguf.GGUFReader(path)
    parts = [path.with_name(f"{path.stem}-{number:05d}-of-00002.gguf") for number in (1, 2)]
    half = len(whole.tensors) // 2
    for number, (part, tensors) in enumerate(zip(parts, (whole.tensors[:half], whole.tensors[half:]), strict=True)):
        writer: Any = gguf.GGUFWriter(part, "llama")
        if number:
            writer.kv_data[0].clear()
        else:
            for key, field in whole.fields.items():
                if not key.startswith("GGUF.") and key != "general.architecture":
                    sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
                    writer.add_key_value(key, field.contents(), field.types[0], sub_type=sub)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 2)
        writer.add_int32("split.tensors.count", len(whole.tensors))
        for tensor in tensors:
            writer.add_tensor(tensor.name, np.asarray(tensor.data), raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return parts[0]


def logits(model: LoadedModel) -> np.ndarray:
    found = np.array(model.runner.forward([Row(0, 0, list(range(40, 60)))])[0], np.float32)
    model.runner.close()
    return found


def test_it_is_known_and_computes_as_in_one_file(tmp_path: Path) -> None:
    path = write_random_gguf(tmp_path / "one.gguf", RandomModel(2, 64, 160, 2, 1, 320, context_length=256, head_width=32, quantization="Q5_0"))
    first = in_two_parts(path)
    info = read_info(first, tmp_path)
    assert not info.problem
    assert info.parameters == read_info(path, tmp_path).parameters

    def loaded(file: Path) -> LoadedModel:
        spec = find_loader(file)
        return spec.load(file, spec.options(slots=1, threads=1, threads_batch=1, widen_weights="off"), lambda *_: None)

    assert np.array_equal(logits(loaded(path)), logits(loaded(first)))
