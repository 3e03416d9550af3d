"""What can be made of an adapter: a chat that tries it, a GGUF file, a model of its own with it merged in, a zip archive.

Which model it belongs to is found by what it says of itself and by whether it fits; where that leaves a doubt the person is asked, with the
names to choose from. The work itself is in `modules/weights`. Knows no page.
"""

from __future__ import annotations

import asyncio
import io
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import AppError, InvalidRequest, NotFound, UnsupportedFormat
from modules.core.files import checked_name
from modules.core.job import JobSnapshot
from modules.core.model import AdapterChoice, ModelInfo
from modules.core.settings import Settings
from modules.loaders.model_info import AdapterInfo
from modules.loaders.model_paths import leads_out
from modules.services.adapters import AdapterService, origin_note
from modules.services.conversations import ConversationService
from modules.services.jobs import JobService
from modules.services.library_files import LibraryFiles
from modules.services.models import ModelService

NAMED, ALIKE, UNNAMED = 0, 1, 2  # how sure it is that a model is the adapter's base
PIECE_BYTES = 1 << 20
NAME_CHARACTERS = 90
UNSAFE = re.compile(r"[^\w .()+\-]+")
CHOICES_SHOWN = 20

Fits = Callable[[AdapterInfo, ModelInfo], None]


@dataclass(frozen=True)
class Trial:
    """A chat in which an adapter can be tried."""

    model: str
    conversation: str


@dataclass(frozen=True)
class Archive:
    """A file that is made while it is sent."""

    filename: str
    pieces: Iterator[bytes]


class AdapterFileService:
    """All verbs on one adapter's files that make something new. One event loop calls it."""

    def __init__(self, settings: Settings, models: ModelService, adapters: AdapterService, conversations: ConversationService, jobs: JobService) -> None:
        self._settings = settings
        self._models = models
        self._adapters = adapters
        self._conversations = conversations
        self._jobs = jobs

    async def start(self) -> None:
        """Remove what killed jobs left half-made; jobs that still run hold theirs."""
        await asyncio.to_thread(_tidy, (self._settings.models_dir, self._settings.loras_dir))

    # ---- try -------------------------------------------------------------------------------------------------------

    async def try_in_chat(self, owner: str, name: str, scale: float = 1.0, model: str = "") -> Trial:
        """A conversation with the adapter on its base model, which is loaded if it is not; other conversations stay as they are.

        Raises:
            NotFound: there is no such adapter, or its base model is not on this machine.
            InvalidRequest: it is not certain which model it belongs to; `choices` among the details names those it fits.
            AppError: the model cannot be loaded, or the adapter does not fit it.
        """
        adapter = await self._adapter(name)
        choice = AdapterChoice(name=name, scale=scale)
        base = await self._choose(adapter, model, await self._models.list(), self._fits_in_chat)
        if base.name in self._models.loaded_names():
            engine = await self._models.get(base.name)
        else:
            remembered = self._models.remembered(base.name)
            engine = await self._models.load(base.name, remembered.loader, remembered.options)
        await self._adapters.resolve(engine.card, (choice,))
        conversation = await self._conversations.create(owner)
        await self._conversations.update_settings(owner, conversation, {"adapters": [choice.model_dump()]})
        await self._conversations.rename(owner, conversation, f"Trying {name.split('/')[-1][:80]}")
        return Trial(base.name, conversation)

    def _fits_in_chat(self, adapter: AdapterInfo, model: ModelInfo) -> None:
        spec = next((spec for spec in self._models.loaders_for(model) if spec.adapter_check is not None), None)
        if spec is None or spec.adapter_check is None:
            raise UnsupportedFormat(f"{model.name} takes no adapters; choose another model.")
        spec.adapter_check(Path(model.path))(Path(adapter.path))

    # ---- convert and merge -----------------------------------------------------------------------------------------

    async def convert(self, owner: str, name: str, model: str = "") -> JobSnapshot:
        """Begin to make a GGUF adapter of a PEFT folder.

        Raises:
            NotFound: there is no such adapter, or no model that it belongs to.
            InvalidRequest: it is a GGUF file already, or it is not certain which model it belongs to.
            UnsupportedFormat: a GGUF file cannot hold it, or it is for another model; with the cure.
        """
        adapter = await self._peft(name, "is a GGUF adapter already; use it as it is")
        base = await self._choose(adapter, model, await self._models.list(), _fits_as_gguf)
        args = {"name": name, "folder": adapter.path, "base": base.name, "base_path": base.path, "target": _plain(name), "loras_dir": str(self._settings.loras_dir)}
        return await self._jobs.submit(owner, "convert_adapter", args)

    async def merge(self, owner: str, name: str, target: str = "", scale: float = 1.0, model: str = "") -> JobSnapshot:
        """Begin to make a model of the adapter and its base.

        Raises:
            NotFound: there is no such adapter, or its base model is not on this machine.
            InvalidRequest: a GGUF adapter, a name that cannot be one or is taken, or it is not certain which model it belongs to.
            UnsupportedFormat: it cannot be merged, or not into that model; with the cure.
        """
        adapter = await self._peft(name, "is a GGUF adapter, which cannot be merged; choose the PEFT folder it was made from")
        wanted = checked_name(target, "target") if target else ""
        if wanted and (self._settings.models_dir / wanted).exists():
            raise InvalidRequest(f"There is “{wanted}” among the models already; choose another name.", field="target")
        folders = [info for info in await self._models.list() if info.format == "safetensors"]
        base = await self._choose(adapter, model, folders, _fits_for_merging)
        args = {
            "name": name, "folder": adapter.path, "base": base.name, "base_path": base.path, "scale": scale,
            "target": wanted or _plain(f"{base.name.split('/')[-1]}-{name.split('/')[-1]}"), "models_dir": str(self._settings.models_dir),
        }  # fmt: skip
        return await self._jobs.submit(owner, "merge_adapter", args)

    # ---- which adapter, which model --------------------------------------------------------------------------------

    async def _adapter(self, name: str) -> AdapterInfo:
        found = next((info for info in await self._models.adapters() if info.name == name), None)
        if found is None:
            raise NotFound(f"There is no adapter “{name[:100]}” in {self._settings.loras_dir.name}/; refresh the list.", field="name")
        if found.problem:
            raise UnsupportedFormat(found.problem)
        return found

    async def _peft(self, name: str, otherwise: str) -> AdapterInfo:
        found = await self._adapter(name)
        if found.format != "peft":
            raise InvalidRequest(f"“{name[:100]}” {otherwise}.", field="name")
        return found

    async def _choose(self, adapter: AdapterInfo, asked: str, models: Sequence[ModelInfo], fits: Fits) -> ModelInfo:
        """The model an adapter is for: the one asked for, the one it names, or the only one it fits."""
        loaded = self._models.loaded_names()
        ranked = sorted((info for info in models if not info.problem), key=lambda info: (_rank(adapter, info), info.name not in loaded, info.format != "safetensors"))
        return await asyncio.to_thread(_chosen, adapter, asked, ranked, fits)

    # ---- download --------------------------------------------------------------------------------------------------

    async def download(self, name: str) -> Archive:
        """An adapter as a zip archive, made while it is sent; its files are stored as they are, since weights do not get smaller.

        Raises:
            NotFound: there is no such adapter.
        """
        adapter = await self._adapter(name)
        path = Path(adapter.path)
        known = LibraryFiles(self._settings.loras_dir)
        files = await asyncio.to_thread(lambda: [file for file in known.files(path) if not leads_out(self._settings.loras_dir.resolve(), file)])
        folder = path.name if path.is_dir() else ""
        members = [(f"{folder}/{file.relative_to(path).as_posix()}" if folder else file.name, file) for file in files]
        return Archive(f"{_plain(folder or path.stem)}.zip", _zipped(members))


def _rank(adapter: AdapterInfo, model: ModelInfo) -> int:
    """How sure it is that a model is the one that an adapter names; names are written in many ways."""
    base = adapter.base_model.rstrip("/")
    if not base:
        return UNNAMED
    if base == model.name or base.split("/")[-1] == model.name.split("/")[-1]:
        return NAMED
    return UNNAMED if origin_note(base, model) else ALIKE


def _chosen(adapter: AdapterInfo, asked: str, ranked: Sequence[ModelInfo], fits: Fits) -> ModelInfo:
    if asked:
        model = next((info for info in ranked if info.name == asked), None)
        if model is None:
            raise NotFound(f"There is no model “{asked[:100]}” that could be used for this; choose another one.", field="model")
        fits(adapter, model)
        return model
    refusal: AppError | None = None
    fitting: list[ModelInfo] = []
    for info in ranked:
        rank = _rank(adapter, info)
        try:
            fits(adapter, info)
        except AppError as error:
            refusal = refusal or (error if rank < UNNAMED else None)
            continue
        if rank < UNNAMED:
            return info
        fitting.append(info)
    if refusal is not None:
        raise refusal
    if len(fitting) == 1 and not adapter.base_model:
        return fitting[0]
    base = f"its base model “{adapter.base_model[:80]}” is not on this machine" if adapter.base_model else "it does not say which model it was made for"
    if not fitting:
        raise NotFound(f"There is no model here for {adapter.name}: {base}, and none of the others fits; get the model first.", field="model")
    names = [info.name for info in fitting][:CHOICES_SHOWN]
    raise InvalidRequest(f"{adapter.name}: {base}. It fits {', '.join(names[:5])}; choose the model it was made from.", field="model", choices=names)


def _fits_as_gguf(adapter: AdapterInfo, model: ModelInfo) -> None:
    from modules.loaders.llama_cpp.peft_adapter import read_pairs
    from modules.weights.adapter_gguf import read_base

    read_pairs(Path(adapter.path), read_base(Path(model.path)))


def _fits_for_merging(adapter: AdapterInfo, model: ModelInfo) -> None:
    from modules.weights.merge_plan import plan_merge

    plan_merge(Path(adapter.path), Path(model.path), 1.0)


def _tidy(folders: Sequence[Path]) -> None:
    from modules.weights.publishing import remove_abandoned

    for folder in folders:
        remove_abandoned(folder)


def _plain(name: str) -> str:
    """A name for a file made of one that may hold anything."""
    return UNSAFE.sub("-", name.removesuffix(".gguf")).strip("-. ")[:NAME_CHARACTERS].strip("-. ") or "adapter"


class _Sink(io.RawIOBase):
    """What a zip archive is written to: it keeps the bytes until they are fetched."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # a buffer of any kind, in the base's words
        """Keep some bytes."""
        self._pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """All since the last call."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def _zipped(members: Sequence[tuple[str, Path]]) -> Iterator[bytes]:
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, path in members:
            about = zipfile.ZipInfo.from_file(path, name, strict_timestamps=False)
            about.external_attr = 0o644 << 16
            with path.open("rb") as source, archive.open(about, "w", force_zip64=True) as member:
                while piece := source.read(PIECE_BYTES):
                    member.write(piece)
                    yield sink.take()
    yield sink.take()
