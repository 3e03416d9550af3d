"""Tiny vision models with random weights: a text model and its projector (mmproj), one of each kind that the runner treats differently.

llava: causal, one position for each token. gemma3: the tokens of an image see each other. qwen2vl: an image takes fewer positions than tokens.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.tiny_models import write_folder, write_gguf

WIDTH, HEADS, INNER, LAYERS = 32, 2, 64, 2
TEXT_WIDTH = 64  # of the tiny text models
KINDS = ("llava", "gemma3", "qwen2vl")
# Kind → projector type, image side, patch side, tensors beside the encoder: name → shape
SIZES: dict[str, tuple[str, int, int, dict[str, tuple[int, ...]]]] = {
    "llava": ("mlp", 35, 7, {
        "v.class_embd": (WIDTH,), "v.position_embd.weight": (26, WIDTH), "v.pre_ln.weight": (WIDTH,), "v.pre_ln.bias": (WIDTH,),
        "mm.0.weight": (TEXT_WIDTH, WIDTH), "mm.0.bias": (TEXT_WIDTH,), "mm.2.weight": (TEXT_WIDTH, TEXT_WIDTH), "mm.2.bias": (TEXT_WIDTH,),
    }),
    "gemma3": ("gemma3", 56, 7, {
        "v.patch_embd.bias": (WIDTH,), "v.position_embd.weight": (64, WIDTH), "v.post_ln.weight": (WIDTH,), "v.post_ln.bias": (WIDTH,),
        "mm.input_projection.weight": (WIDTH, TEXT_WIDTH), "mm.soft_emb_norm.weight": (WIDTH,),
    }),
    "qwen2vl": ("qwen2vl_merger", 56, 14, {
        "v.patch_embd.weight.1": (WIDTH, 3, 14, 14), "v.post_ln.weight": (WIDTH,), "v.post_ln.bias": (WIDTH,),
        "mm.0.weight": (4 * WIDTH, 4 * WIDTH), "mm.0.bias": (4 * WIDTH,), "mm.2.weight": (TEXT_WIDTH, 4 * WIDTH), "mm.2.bias": (TEXT_WIDTH,),
    }),
}  # fmt: skip


def _layer(index: int) -> dict[str, tuple[int, ...]]:
    name = f"v.blk.{index}"
    shapes: dict[str, tuple[int, ...]] = {}
    for part, rows, columns in (
        ("attn_q", WIDTH, WIDTH), ("attn_k", WIDTH, WIDTH), ("attn_v", WIDTH, WIDTH), ("attn_out", WIDTH, WIDTH),
        ("ffn_up", INNER, WIDTH), ("ffn_down", WIDTH, INNER),
    ):  # fmt: skip
        shapes |= {f"{name}.{part}.weight": (rows, columns), f"{name}.{part}.bias": (rows,)}
    for part in ("ln1", "ln2"):
        shapes |= {f"{name}.{part}.weight": (WIDTH,), f"{name}.{part}.bias": (WIDTH,)}
    return shapes


def write_projector(path: Path, kind: str, seed: int = 0, text_width: int = TEXT_WIDTH) -> Path:
    """An mmproj file with random weights."""
    projector, image_side, patch_side, own = SIZES[kind]
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", projector)
    for key, value in (
        ("embedding_length", WIDTH), ("feed_forward_length", INNER), ("block_count", LAYERS), ("projection_dim", text_width),
        ("attention.head_count", HEADS), ("image_size", image_side), ("patch_size", patch_side), ("projector.scale_factor", 2),
    ):  # fmt: skip
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.25, 0.25, 0.25])
    writer.add_bool("clip.use_gelu", True)
    shapes = {"v.patch_embd.weight": (WIDTH, 3, patch_side, patch_side), **own}
    for layer in range(LAYERS):
        shapes |= _layer(layer)
    for name, shape in shapes.items():
        sizes = tuple(text_width if size == TEXT_WIDTH and name.startswith("mm.") else size for size in shape)
        scale = 1.0 / np.sqrt(np.prod(sizes[1:])) if len(sizes) > 1 else 0.1
        values = random.normal(0.0, scale, sizes) + float(name.endswith(("ln.weight", "ln1.weight", "ln2.weight")))
        writer.add_tensor(name, (values * (6.0 if name.startswith("mm.") else 1.0)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@dataclass(frozen=True)
class VisionFiles:
    """A text model and the projector beside it."""

    model: Path
    projector: Path


def vision_files(base: Path, kind: str) -> VisionFiles:
    """Make the files of a kind in a folder of their own, once."""
    folder = base / f"tiny-{kind}"
    files = VisionFiles(folder / f"{kind}.gguf", folder / "mmproj-tiny.gguf")
    if not files.projector.exists():
        text: dict[str, tuple[str, dict[str, Any]]] = {
            "llava": ("llama", {}),
            "gemma3": ("gemma3_text", {"num_hidden_layers": 6, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]}),
            "qwen2vl": ("qwen2", {}),
        }
        name, settings = text[kind]
        source = write_folder(base / f"tiny-{kind}-text", name, **settings)
        folder.mkdir(exist_ok=True)
        write_gguf(files.model, source, rope_sections=(4, 6, 6, 0) if kind == "qwen2vl" else ())
        write_projector(files.projector, kind)
    return files


def picture(seed: int, size: tuple[int, int] = (70, 56), form: str = "PNG") -> bytes:
    """An image file with random pixels in coarse squares, so that also a lossy form keeps them apart."""
    from PIL import Image

    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()
