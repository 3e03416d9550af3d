"""The work of the job kind "merge_adapter": a model of its own from a base model and an adapter, written tensor by tensor.

No tensor is ever in memory as a whole, so that a model of any size can be merged; types and everything beside the weights stay the base's.
The model appears as a whole, with a note of what it was made from. Knows nothing of queues.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from modules.core.errors import NotFound, UnsupportedFormat
from modules.core.files import write_atomic
from modules.core.job import JobContext
from modules.loaders.adapter_config import WEIGHTS
from modules.loaders.fingerprint import fingerprint, read_fingerprint
from modules.loaders.folder_header import read_folder_header
from modules.loaders.model_info import read_info
from modules.weights.merge_arithmetic import pieces
from modules.weights.merge_plan import Made, MergePlan, plan_merge
from modules.weights.publishing import check_room, numbered, publish_folder, staging
from modules.weights.tensor_file import TensorWriter, stored_hash

SHARD_BYTES = 2_000_000_000
COPIED = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
OF_A_TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "vocab.*", "merges.txt")
LEFT_OUT = frozenset({"config.json", "model.safetensors.index.json", "adapter_config.json", "paddock.json", "training.json", "merged.json", "evaluation.json"})
COPY_LIMIT_BYTES = 256 << 20
NOTE = "merged.json"


class MergeAdapterArgs(BaseModel, frozen=True, extra="forbid"):
    """Which adapter to merge into which base model, how strongly, and what to call the result."""

    name: str = Field(min_length=1, max_length=400, description="The adapter, as the list names it.")
    folder: Path = Field(description="Its PEFT folder.")
    base: str = Field(min_length=1, max_length=400, description="The base model, as the list names it.")
    base_path: Path = Field(description="Its safetensors folder.")
    target: str = Field(min_length=1, max_length=100, description="Name of the result; a taken one gets a number.")
    scale: float = Field(1, ge=-4, le=4, description="How strongly the pairs of weights act; what was learned as a whole is taken as it is.")
    models_dir: Path = Field(description="Folder with models.")
    shard_bytes: int = Field(SHARD_BYTES, ge=1, le=1 << 40, description="Most bytes of one weight file; a larger tensor has one of its own.")


def run(args: MergeAdapterArgs, context: JobContext) -> Mapping[str, Any]:
    """Merge; the result appears as a whole.

    Raises:
        Cancelled: the person asked to stop; nothing is left.
        AppError: with the cure; nothing is left.
    """
    return _Merge(args, context).run()


class _Merge:
    """One run of the job."""

    def __init__(self, args: MergeAdapterArgs, context: JobContext) -> None:
        self._args = args
        self._context = context
        self._done = 0
        self._total = 0

    def run(self) -> Mapping[str, Any]:
        args = self._args
        if not args.base_path.is_dir():
            raise NotFound(f"The base model {args.base} is no longer there as a safetensors folder; choose another one.")
        plan = plan_merge(args.folder, args.base_path, args.scale)
        size = sum(made.promised.size_bytes for made in plan.made)
        check_room(args.models_dir, size + _extra_bytes(args))
        self._total = size + plan.base.size_bytes
        origin = self._origin()
        with staging(args.models_dir, self._context.directory.name) as folder:
            made = folder / "model"
            made.mkdir()
            hashes = self._write_weights(plan, made)
            self._write_beside(plan, made)
            note = {**origin, "files": hashes}
            write_atomic(made / NOTE, json.dumps(note, indent=1) + "\n")
            read_folder_header(made)  # whole, and in order
            target = publish_folder(made, args.models_dir, numbered(args.target))
        self._context.log(f"{target.name}: {plan.changed} of {len(plan.made)} tensors changed")
        return {"name": target.name, "path": str(target), "bytes": size, "tensors": len(plan.made), "changed": plan.changed}

    def _tell(self, count: int, what: str) -> None:
        self._done += count
        self._context.progress(self._done, self._total, "bytes", file=what)

    def _origin(self) -> dict[str, Any]:
        """What it is made from, in hashes; the base's files are read once.

        Raises:
            UnsupportedFormat: the adapter says that it was trained on another base model.
        """
        args = self._args
        found = fingerprint(args.base_path, read=lambda count: self._tell(count, f"Reading {args.base}"))
        recorded = read_fingerprint(args.folder)
        difference = recorded.difference(found) if recorded else ""
        if difference:
            raise UnsupportedFormat(f"The adapter {args.name} was trained on another base model: {args.base} differs in {difference}. Choose the model it was trained on.")
        adapter = {"name": args.name, "sha256": stored_hash(args.folder / WEIGHTS)}
        return {"format": 1, "base": {"name": args.base, **found.model_dump()}, "adapter": adapter, "scale": args.scale}

    def _write_weights(self, plan: MergePlan, folder: Path) -> dict[str, str]:
        shards = list(_shards(plan.made, self._args.shard_bytes))
        hashes, places = {}, {}
        for number, shard in enumerate(shards, 1):
            name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            with TensorWriter(folder / name, [made.promised for made in shard]) as writer:
                for made in shard:
                    places[made.name] = name
                    for piece in pieces(made):
                        writer.write(piece)
                        self._tell(len(piece), name)
                hashes[name] = writer.finish()
        if len(shards) > 1:
            total = sum(made.promised.size_bytes for made in plan.made)
            write_atomic(folder / "model.safetensors.index.json", json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=1) + "\n")
        return hashes

    def _write_beside(self, plan: MergePlan, folder: Path) -> None:
        """Everything but the weights: the base's, and the tokenizer that came with the adapter, if one did."""
        args = self._args
        for file in _beside(args.base_path, COPIED):
            shutil.copyfile(file, folder / file.name)
        if (args.folder / "tokenizer.json").is_file():
            for file in _beside(args.folder, OF_A_TOKENIZER):
                shutil.copyfile(file, folder / file.name)
        config = dict(plan.base.config)
        inner = config.get("text_config")
        if isinstance(inner, dict):
            config["text_config"] = {**inner, **plan.config}
        for key, value in plan.config.items():
            if not isinstance(inner, dict) or key in config:
                config[key] = value
        write_atomic(folder / "config.json", json.dumps(config, indent=2) + "\n")
        write_atomic(folder / "README.md", _readme(args))


def _shards(made: Sequence[Made], limit: int) -> Iterator[list[Made]]:
    """Tensors in their order, as many to a file as the limit allows."""
    shard: list[Made] = []
    size = 0
    for tensor in made:
        bytes_ = tensor.promised.size_bytes
        if shard and size + bytes_ > limit:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += bytes_
    yield shard


def _beside(folder: Path, patterns: Sequence[str]) -> list[Path]:
    found = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file() and file.name not in LEFT_OUT}
    return sorted(file for file in found if file.stat().st_size <= COPY_LIMIT_BYTES)


def _extra_bytes(args: MergeAdapterArgs) -> int:
    return sum(file.stat().st_size for folder in (args.base_path, args.folder) for file in _beside(folder, COPIED))


def _readme(args: MergeAdapterArgs) -> str:
    licence = read_info(args.base_path, args.models_dir).licence
    head = f"---\nlicense: {licence}\n---\n\n" if licence else ""
    return (
        f"{head}# {args.target}\n\nThe adapter {args.name} merged into {args.base} by Paddock, with scale {args.scale:g}. "
        f"The hashes of both are in `{NOTE}`; what was trained is told by the adapter's own card.\n"
    )
