"""What of a run can be refused before its job begins, from options, headers and small files alone. The job asks the same things again, of the loaded model.

Imports no torch: the web process looks here when Train is pressed. What only a loaded network knows is left to the job.
"""

from __future__ import annotations

from pathlib import Path

from modules.loaders.adapter_config import CONFIG, learned_tokens
from modules.loaders.folder_header import read_json, read_weight_header, weight_files
from modules.loaders.transformers.adapter_check import adapter_check
from modules.training.adapter import check_kind, check_options, nothing_called
from modules.training.base_model import base_header, layer_names
from modules.training.distributed import check_machines
from modules.training.fingerprint import check_same_base
from modules.training.options import TrainingOptions
from modules.training.spec import TrainArgs
from modules.training.tokens import check_new_tokens

READ_BYTES = 1 << 30  # of weights, to tell two models of the same shape apart: about a second
# Kinds whose files name their layers as the loaded network does; of others only the job can tell
PLAINLY_NAMED = frozenset(
    {
        "bloom", "cohere", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "granite", "lfm2", "llama", "mamba", "ministral", "mistral",
        "olmo", "olmo2", "opt", "phi", "phi3", "qwen2", "qwen3", "smollm3", "stablelm", "starcoder2",
    }
)  # fmt: skip


def refuse_early(args: TrainArgs) -> None:
    """Refuse a run that would end right after its beginning.

    Raises:
        AppError: with the field to change and the cure.
    """
    options = args.options
    check_machines(options)
    check_options(options, args.continue_from)
    check_new_tokens(options.new_tokens)
    _check_layers(args.base_path, options)
    if args.continue_from is not None:
        check_same_base(args.continue_from, args.base_path, most_bytes=READ_BYTES)
        check_kind(args.continue_from, options)
        if not learned_tokens(read_json(args.continue_from / CONFIG)):  # else the network grows before it is asked
            adapter_check(args.base_path)(args.continue_from)


def _check_layers(base: Path, options: TrainingOptions) -> None:
    if options.target_all or base_header(base).config.get("model_type") not in PLAINLY_NAMED:
        return
    modules = {name.rpartition(".")[0].rpartition(".")[2] for file in weight_files(base) for name in read_weight_header(file)} | {"lm_head"}
    for end in options.target_modules:
        if end.rpartition(".")[2] not in modules:
            raise nothing_called(end, layer_names(base))
