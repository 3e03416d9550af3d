"""What a run works with besides the model: its arguments, tokenizer, and the data as token sequences. Made the same way in every process of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.core.job import JobContext
from modules.training.data import Data, load_data
from modules.training.encoding import Encoder, left_out, refuse_if_empty
from modules.training.samples import Encoded
from modules.training.spec import TrainArgs
from modules.training.tokens import length_limit, load_tokenizer, pad_id

INITIAL = "initial"
REPORT_EVERY = 200  # samples between two looks at whether to stop


@dataclass(frozen=True)
class Material:
    """See above."""

    args: TrainArgs
    directory: Path  # of the job
    tokenizer: Any
    data: Data
    train: Sequence[Encoded]
    held_out: Sequence[Encoded]
    left_out: str = ""  # what of the samples teaches nothing, and why

    @property
    def pad_id(self) -> int:
        """What fills short rows; no label ever stands there."""
        return pad_id(self.tokenizer)

    @property
    def initial(self) -> Path:
        """Where the adapter keeps what it began with."""
        return self.directory / INITIAL

    @property
    def prefers(self) -> bool:
        """Whether preferences are learned rather than texts."""
        return any(sequence.role != "sample" for sequence in self.train)


def gather(args: TrainArgs, directory: Path, context: JobContext) -> Material:
    """Read the data and turn it into tokens.

    Raises:
        InvalidRequest: nothing would be learned, or a file cannot be read.
        Cancelled: the person asked to stop.
    """
    context.progress(0, None, "samples", phase="Reading the data")
    data = load_data(args)
    options = args.options
    tokenizer = load_tokenizer(args.base_path, options.new_tokens)
    limit = length_limit(args.base_path, options)
    encoder = Encoder(tokenizer, args.template, options, limit)
    train = _encoded(encoder, data.train, context)
    refuse_if_empty(encoder.report)
    held_out = _encoded(Encoder(tokenizer, args.template, options, limit), data.held_out, context)
    return Material(args, directory, tokenizer, data, train, held_out, left_out(encoder.report))


def _encoded(encoder: Encoder, samples: Sequence[Any], context: JobContext) -> list[Encoded]:
    found: list[Encoded] = []
    for sequence in encoder.encode(samples):
        found.append(sequence)
        if len(found) % REPORT_EVERY == 0:
            context.progress(len(found), None, "samples", phase="Reading the data")
    return found
