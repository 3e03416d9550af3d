"""Which projector (mmproj) belongs to a GGUF model: looked for beside it, judged by its header. Nothing is loaded.

Knows names and headers; what a projector does is `projector.py`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import NotFound, UnsupportedFormat
from modules.loaders.gguf_header import GgufHeader, read_gguf_header

# What these write for an image depends on what stands before it, so an image has no ids of its own
DEPENDENT_KINDS = frozenset({"hunyuanvl", "deepseek4v"})


@dataclass(frozen=True)
class Choice:
    """The projector for a model: its header, or none; and what the person should know about that."""

    header: GgufHeader | None = None
    note: str = ""


def choose_projector(model: Path, wanted: str) -> Choice:
    """The projector for a model.

    Args:
        model: the model's file.
        wanted: "none", "auto" (the only projector in the model's folder, if there is one that can be used), or the name of a file there.

    Raises:
        NotFound: there is no file of that name.
        UnsupportedFormat: it is no projector for images, or broken.
    """
    beside = projectors_beside(model)
    names = ", ".join(file.name for file in beside)
    if wanted == "none" or (wanted == "auto" and not beside):
        return Choice()
    if wanted == "auto":
        if len(beside) > 1:
            return Choice(note=f"Several projectors lie beside the model ({names}), so it was loaded without one; set mmproj to one of them for images.")
        try:
            return Choice(read_projector(beside[0]))
        except UnsupportedFormat as error:
            return Choice(note=without_projector(error))
    path = model.with_name(wanted)
    if not path.is_file():
        raise NotFound(f"There is no projector {wanted} beside {model.name} (there: {names or 'none'}); correct mmproj, or set it to none.", field="mmproj")
    return Choice(read_projector(path))


def without_projector(error: UnsupportedFormat) -> str:
    """What to tell when the only projector beside a model cannot be used."""
    return f"The model was loaded without seeing images: {error.message}"


def projectors_beside(model: Path) -> list[Path]:
    """Files in a model's folder that are named as projectors are."""
    return sorted(file for file in model.parent.glob("*.gguf") if "mmproj" in file.name.lower() and file.is_file())


def read_projector(path: Path) -> GgufHeader:
    """The header of a projector that can be used.

    Raises:
        UnsupportedFormat: it cannot, with the reason.
    """
    header = read_gguf_header(path)
    if header.kind != "mmproj":
        raise UnsupportedFormat(f"{path.name} is not a projector but a GGUF {header.kind}; choose another file, or set mmproj to none.")
    if header.metadata.get("clip.has_vision_encoder") is not True:
        raise UnsupportedFormat(f"{path.name} is a projector for sound, not for images; set mmproj to none.")
    kind = header.text("clip.vision.projector_type") or header.text("clip.projector_type")
    if kind in DEPENDENT_KINDS:
        raise UnsupportedFormat(f"{path.name} is a projector of the kind {kind}, which Paddock does not run yet; set mmproj to none.")
    return header
