"""The loaders there are, and the choice of one for a path. A new loader is one package and one row here.

Importing this module imports no back end.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from modules.core.errors import MissingRequirement, NotFound, UnsupportedFormat
from modules.loaders.folder_header import folder_problem
from modules.loaders.llama_cpp import LLAMA_CPP
from modules.loaders.spec import LoaderSpec
from modules.loaders.transformers import TRANSFORMERS

LOADERS: tuple[LoaderSpec, ...] = (LLAMA_CPP, TRANSFORMERS)


def find_loader(path: Path, name: str = "") -> LoaderSpec:
    """The loader called `name`, or the first that accepts `path` when the name is empty.

    Raises:
        NotFound: no such file or no such loader.
        UnsupportedFormat: no loader, or not the one asked for, reads these files.
        MissingRequirement: the loader's packages are not installed.
    """
    if not path.exists():
        raise NotFound(f"There is no model at {path.name}; refresh the list of models.")
    if name:
        spec = next((row for row in LOADERS if row.name == name), None)
        if spec is None:
            raise NotFound(f"There is no loader “{name}”; choose one of {', '.join(row.name for row in LOADERS)}.")
        if not spec.accepts(path):
            raise UnsupportedFormat(f"{path.name} is not for the loader {spec.title}: {_reason(path)}")
    else:
        spec = next((row for row in LOADERS if row.accepts(path)), None)
        if spec is None:
            raise UnsupportedFormat(f"No loader reads {path.name}: {_reason(path)}")
    _check_requirements(spec)
    return spec


def _reason(path: Path) -> str:
    if path.is_dir():
        problem = folder_problem(path)
        return problem or "it is a folder with safetensors weights, which the loader transformers reads."
    if path.suffix.lower() == ".gguf":
        return "it is a GGUF file, which the loader llama.cpp reads."
    return "Paddock loads GGUF files and folders with config.json and *.safetensors; convert it or download another version."


def _check_requirements(spec: LoaderSpec) -> None:
    missing = []
    for distribution in spec.requires:
        try:
            metadata.distribution(distribution)
        except metadata.PackageNotFoundError:
            missing.append(distribution)
    if missing:
        raise MissingRequirement(
            f"The loader {spec.title} needs {', '.join(missing)}, which is not installed; run “python3 launch.py” again to install it."
        )
