"""Whether a model fits before it is there, and how fast it would write: from its headers, read from the hub or the disk.

Remembers shapes by commit, and what models really took once they are loaded. Knows no page.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from modules.core.errors import AppError, InvalidRequest, OutOfMemory, UnsupportedFormat
from modules.core.generation import EngineCard
from modules.core.settings import Settings
from modules.loaders.fit import Fit, Needs, Room, judge
from modules.loaders.folder_header import parse_folder_header
from modules.loaders.gguf_header import TENSOR_TYPES, GgufHeader, parse_gguf_prefix
from modules.loaders.llama_cpp import memory as llama_cpp_memory
from modules.loaders.llama_cpp.memory import was_mapped
from modules.loaders.llama_cpp.options import LlamaCppOptions
from modules.loaders.llama_cpp.projector_file import choose_projector
from modules.loaders.machine import RESERVE_BYTES, available_bytes, graphics_bytes, size_text
from modules.loaders.shape import Shape, folder_shape, gguf_shape
from modules.services.fit_advice import Advice, Judged, best_settings, recommended
from modules.services.fit_expected import Expected, local_shape
from modules.services.fit_learning import FitLearner, is_quiet
from modules.services.fit_records import FitRecords
from modules.services.machine_speed import MachineSpeed
from modules.services.models import ModelService

if TYPE_CHECKING:
    from modules.services.hub import HubService

RECORDS_FILE = "fit.json"
CONTEXT_TOKENS = 8192
USERS = 4
AT_ONCE = 4
SHAPES_KEPT = 500
FILES_LIMIT = 2000
PARTS_LIMIT = 100
PREFIX_STEPS = (256 << 10, 2 << 20, 8 << 20, 32 << 20, 64 << 20)
CONFIG_BYTES = 4 << 20
INDEX_BYTES = 16 << 20
UNKNOWN_SIZE = 1 << 50
COMMIT_LENGTH = 40
WEIGHTS: Mapping[str, str] = MappingProxyType({"gguf": ".gguf", "folder": ".safetensors"})


@dataclass(frozen=True)
class FitReport:
    """The verdict on one model, for one user and for several."""

    sentence: str
    one: Fit
    several: Fit
    tokens_per_s: float  # about; 0 if unknown
    correction: float  # of the formula, by what models of this machine took
    measuring: bool = False  # the speed will be known soon


class FitService:
    """Looks at headers, judges, and learns from loads. One event loop calls it."""

    def __init__(self, settings: Settings, hub: HubService, models: ModelService) -> None:
        self._settings = settings
        self._hub = hub
        self._models = models
        self.records = FitRecords(settings.state_dir / RECORDS_FILE)
        self.speed = MachineSpeed(settings.state_dir, lambda: is_quiet(models))
        self._learner = FitLearner(models, self.records, self.speed)
        self._shapes: dict[tuple[str, str, str], Shape] = {}
        self._reading: dict[tuple[str, str, str], asyncio.Lock] = {}
        self._places = asyncio.Semaphore(AT_ONCE)

    def start(self) -> None:
        """Learn from every load and every reply from now on."""
        self._learner.start()

    async def close(self) -> None:
        """Stop measuring, and finish what is being stored."""
        await self.speed.close()
        await self._learner.close()

    # ---- judge -----------------------------------------------------------------------------------------------------

    async def remote(
        self, repo: str, revision: str, files: Sequence[str], kind: str, *, size_bytes: int = 0, projector_bytes: int = 0
    ) -> FitReport:
        """Of a choice of a repository; only headers are read. With its size, one header serves all quantizations of a model.

        `projector_bytes` is the size of the file that lets it see images; 0: there is none.

        Raises:
            InvalidRequest: neither a GGUF model nor a folder.
            UnsupportedFormat: headers that say nothing.
            HubError: with the cure.
        """
        if kind not in ("gguf", "folder"):
            raise InvalidRequest(f"What a “{kind[:20]}” takes cannot be told; ask for gguf or folder.", field="kind")
        paths = sorted(files)[:FILES_LIMIT]
        weights = [path for path in paths if path.lower().endswith(WEIGHTS[kind])]
        if not weights:
            raise InvalidRequest(f"There is no file *{WEIGHTS[kind]} among these.", field="files")
        key = (repo, revision, _family(weights[0]) if size_bytes and kind == "gguf" else weights[0])
        shape = await self._remembered(key, paths, weights, kind)
        if size_bytes and kind == "gguf":
            shape = replace(shape, stored_bytes=size_bytes, reads=_reads(shape, weights[0]), widens=())  # which only its own header tells
        return await self._report(shape, "llama.cpp" if kind == "gguf" else "transformers", projector_bytes=projector_bytes if kind == "gguf" else 0)

    async def _remembered(self, key: tuple[str, str, str], paths: Sequence[str], weights: Sequence[str], kind: str) -> Shape:
        """The shape of a model, read once for each commit, whoever asks meanwhile."""
        repo, revision, _ = key
        async with self._reading.setdefault(key, asyncio.Lock()), self._places:
            shape = self._shapes.get(key)
            if shape is None:
                work = self._remote_gguf(repo, revision, weights) if kind == "gguf" else self._remote_folder(repo, revision, paths, weights)
                shape = await work
                if len(revision) == COMMIT_LENGTH:  # a branch can move
                    self._shapes[key] = shape
        while len(self._shapes) > SHAPES_KEPT:
            self._shapes.pop(next(iter(self._shapes)))
        if len(self._reading) > SHAPES_KEPT:
            self._reading = {name: lock for name, lock in self._reading.items() if lock.locked()}
        return shape

    async def local(self, name: str) -> FitReport:
        """Of a model in the model folder, loaded as it was last.

        Raises:
            NotFound: no such model.
            UnsupportedFormat: it is broken.
        """
        info = await self._models.find(name)
        shape = await asyncio.to_thread(local_shape, Path(info.path))
        if info.format != "gguf":
            return await self._report(shape, "transformers", name)
        wanted = str(self._models.remembered(info.name).options.get("mmproj") or "auto")
        projector_bytes = await asyncio.to_thread(_projector_bytes, Path(info.path), wanted)
        return await self._report(shape, "llama.cpp", name, projector_bytes=projector_bytes)

    async def advice(self, name: str, loader: str) -> Advice:
        """The best settings to load a model with on this machine.

        Raises:
            NotFound: no such model.
            UnsupportedFormat: it is broken.
            OutOfMemory: it does not fit with any.
        """
        info = await self._models.find(name)
        shape = await asyncio.to_thread(local_shape, Path(info.path))
        sees = loader == "llama.cpp" and await asyncio.to_thread(_projector_bytes, Path(info.path), "auto") > 0
        found = await asyncio.to_thread(self._advised, shape, loader, self._cards(name), may_be_more=loader == "llama.cpp" and not sees)
        if found is None:
            raise OutOfMemory(f"{name} does not fit into the free memory of this machine with any settings; choose a smaller quantization or close programs.")
        return found

    def _advised(self, shape: Shape, loader: str, cards: Sequence[EngineCard], *, may_be_more: bool) -> Advice | None:
        graphics, measured = graphics_bytes(loader), self.speed.known(loader)
        room = Room(max(0, available_bytes() + self._own_bytes(cards, shape, on_gpu=graphics > 0) - RESERVE_BYTES), graphics)

        def needs_of(options: dict[str, Any]) -> Needs:
            dtype = str(options.get("dtype") or ("bfloat16" if graphics else "float32"))
            return Expected(shape, loader, options, dtype, measured, on_gpu=graphics > 0).needs

        return best_settings(shape, loader, needs_of, room, may_be_more=may_be_more and llama_cpp_memory.has_whole_layers(shape))

    async def recommend(
        self, repo: str, revision: str, choices: Sequence[Mapping[str, Any]], projector_bytes: int = 0
    ) -> tuple[str, str] | None:
        """Label of the best choice of a repository for this machine, and why; None if none fits. Choices whose headers say nothing do not count."""

        async def judged(choice: Mapping[str, Any]) -> Judged | None:
            size_bytes = int(choice["bytes"]) if choice["kind"] == "gguf" else 0
            try:
                report = await self.remote(repo, revision, choice["files"], choice["kind"], size_bytes=size_bytes, projector_bytes=projector_bytes)
            except (InvalidRequest, UnsupportedFormat):
                return None
            return Judged(choice["label"], choice["kind"], choice.get("quantization", ""), int(choice["bytes"]), report.one)

        found = await asyncio.gather(*map(judged, choices))
        return recommended([choice for choice in found if choice is not None])

    async def _report(self, shape: Shape, loader: str, name: str = "", *, projector_bytes: int = 0) -> FitReport:
        cards = self._cards(name) if loader == "llama.cpp" else []
        report = await asyncio.to_thread(self._judged, shape, loader, name, projector_bytes, cards)
        if not report.one.gpu_layers and not report.tokens_per_s and report.one.kind != "no":
            self.speed.want(loader)
        return replace(report, measuring=self.speed.measuring(loader))

    def _cards(self, name: str) -> list[EngineCard]:
        return [card for card in self._models.status().loaded if card.name == name]

    def _own_bytes(self, cards: Sequence[EngineCard], shape: Shape, *, on_gpu: bool) -> int:
        """Memory that is free once a model is loaded anew; the file of one that is mapped counts as free while it is loaded."""
        own = 0
        for card in cards:
            options = self._models.remembered(card.name).options
            mapped = card.loader == "llama.cpp" and was_mapped(LlamaCppOptions(**options), card.notes, on_gpu=on_gpu)
            own += max(0, card.memory_bytes - (shape.stored_bytes if mapped else 0))
        return own

    def _judged(self, shape: Shape, loader: str, name: str, projector_bytes: int, cards: Sequence[EngineCard] = ()) -> FitReport:
        graphics = graphics_bytes(loader)
        room = Room(max(0, available_bytes() + self._own_bytes(cards, shape, on_gpu=graphics > 0) - RESERVE_BYTES), graphics)
        measured = self.speed.known(loader)
        beside = projector_bytes + llama_cpp_memory.PROJECTOR_WORK_BYTES if projector_bytes else 0
        found = []
        correction = 1.0
        for users in (1, USERS):
            expected = Expected(shape, loader, {"slots": users}, "bfloat16" if graphics else "float32", measured, on_gpu=graphics > 0)
            wanted, held = expected.needs, min(CONTEXT_TOKENS, shape.trained_tokens or CONTEXT_TOKENS) * users
            correction = self.records.ratio(loader, wanted.peak(held), name)
            scaled = wanted.scaled(correction)
            scaled = replace(scaled, fixed=scaled.fixed + beside)
            found.append(judge(shape, scaled, room, context_length=CONTEXT_TOKENS, users=users))
        one, several = found
        speed = 0.0 if one.gpu_layers or one.kind == "no" else expected.tokens_per_s() * self.records.speed_ratio(loader, wanted.peak(held), name)
        sentence = one.sentence + (f" About {_rounded(speed)} tokens/s." if speed else "")
        if beside:
            sentence += f" Its projector for images is counted, {size_text(beside)}."
        if one.kind != "no":
            sentence += f" For {USERS} users at once: {_context_text(several)}."
        return FitReport(sentence, one, several, speed, correction)

    # ---- headers of the hub ----------------------------------------------------------------------------------------

    async def _remote_gguf(self, repo: str, revision: str, parts: Sequence[str]) -> Shape:
        if len(parts) > PARTS_LIMIT:
            raise InvalidRequest(f"A GGUF model has 1 to {PARTS_LIMIT} files, not {len(parts)}.", field="files")
        headers = [await self._gguf_header(repo, revision, path) for path in parts]
        unknown = [tensor.name for header in headers for tensor in header.tensors if not tensor.size_bytes]
        if headers[0].kind != "model" or unknown:
            raise UnsupportedFormat(f"The header of {parts[0]} does not tell what it takes; go by the size of the file.")
        return gguf_shape(headers, sum(tensor.size_bytes for header in headers for tensor in header.tensors))

    async def _gguf_header(self, repo: str, revision: str, path: str) -> GgufHeader:
        data = b""
        for step in PREFIX_STEPS:
            asked = step - len(data)
            more = await self._hub.read_range(repo, revision, path, len(data), asked)
            data += more
            size = UNKNOWN_SIZE if len(more) == asked else len(data)
            header = await asyncio.to_thread(parse_gguf_prefix, path.rpartition("/")[2], data, size)
            if header is not None:
                return header
        raise UnsupportedFormat(f"The header of {path} is longer than {PREFIX_STEPS[-1] >> 20} MB; go by the size of the file.")

    async def _remote_folder(self, repo: str, revision: str, files: Sequence[str], weights: Sequence[str]) -> Shape:
        index_path = next((path for path in files if path.endswith(".safetensors.index.json")), "")
        config_path = next((path for path in files if path.rpartition("/")[2] == "config.json"), "")
        if not config_path:
            raise InvalidRequest("A folder has a config.json beside its weights; without it nothing says what it takes.", field="files")
        config = await self._json(repo, revision, config_path, CONFIG_BYTES)
        total = 0
        if index_path:
            stated = (await self._json(repo, revision, index_path, INDEX_BYTES)).get("metadata")
            total = stated.get("total_size", 0) if isinstance(stated, dict) else 0
        head, needed = b"", PREFIX_STEPS[0]
        while needed <= PREFIX_STEPS[-1]:
            more = await self._hub.read_range(repo, revision, weights[0], len(head), needed - len(head))
            if not more:
                raise UnsupportedFormat(f"{weights[0]} is cut short; choose another model.")
            head += more
            found = await asyncio.to_thread(parse_folder_header, repo, config, head, total if isinstance(total, int) else 0, len(weights))
            if not isinstance(found, int):
                return folder_shape(found)
            needed = found
        raise UnsupportedFormat(f"The header of {weights[0]} is longer than {PREFIX_STEPS[-1] >> 20} MB; go by the size of the files.")

    async def _json(self, repo: str, revision: str, path: str, limit: int) -> dict[str, Any]:
        try:
            value = json.loads(await self._hub.read_range(repo, revision, path, 0, limit))
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise UnsupportedFormat(f"{path} is not a JSON object; choose another model.")
        return value


def _projector_bytes(model: Path, wanted: str) -> int:
    """Size of the projector that a model would be loaded with; 0 where it is none, or not to be found."""
    try:
        header = choose_projector(model, wanted).header
    except AppError:
        return 0
    return header.size_bytes if header is not None else 0


def _family(path: str) -> str:
    """What the files of all quantizations of a model have in common."""
    from modules.hub.names import quantization_in

    found = quantization_in(path)
    start = path.upper().rfind(found.upper()) if found else -1
    return path if start < 0 else path[:start] + path[start + len(found) :]


def _reads(shape: Shape, path: str) -> tuple[tuple[str, float], ...]:
    """What a token reads of a quantization that only its name tells, by the header of another one of the same model."""
    from modules.hub.names import quantization_in

    label = quantization_in(path).removeprefix("UD-")
    kind = next((name for name, _, _ in TENSOR_TYPES.values() if label == name or label.startswith(f"{name}_")), "")
    return ((kind, shape.read_share),) if kind else shape.reads


def _rounded(speed: float) -> str:
    """Two digits: more would claim too much."""
    if speed < 10:
        return f"{speed:.1f}"
    scale = 10 ** (len(str(int(speed))) - 2)
    return str(int(round(speed / scale) * scale))


def _context_text(fit: Fit) -> str:
    return "does not fit" if fit.kind == "no" else f"{fit.context_length} tokens each"
