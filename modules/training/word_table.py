"""Word tables in an adapter: learned as a whole, or the rows of new tokens alone; with the output's rows where the two are not one.

Knows what a vocabulary needs to grow. What a tokenizer does with a new token is `tokens.py`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.core.errors import InvalidRequest
from modules.training.options import TrainingOptions

if TYPE_CHECKING:
    import torch


def is_tied(model: Any) -> bool:
    """Whether the output reads its weights from the word table."""
    outputs = model.get_output_embeddings()
    return outputs is not None and outputs.weight is model.get_input_embeddings().weight


def grow(model: Any, options: TrainingOptions) -> list[int]:
    """Make room for new tokens, and tell their ids. New rows begin as the mean of all others, the same in every run."""
    if not options.new_tokens:
        return []
    import torch

    from modules.training.tokens import load_tokenizer

    tokenizer = load_tokenizer(Path(model.name_or_path), options.new_tokens)
    token_ids = sorted(tokenizer.convert_tokens_to_ids(list(options.new_tokens)))
    before = model.get_input_embeddings().weight.shape[0]
    if token_ids[-1] >= before:
        model.resize_token_embeddings(token_ids[-1] + 1, mean_resizing=False)
        with torch.no_grad():
            for module in (model.get_input_embeddings(), model.get_output_embeddings()):
                if module is not None:
                    module.weight[before:] = module.weight[:before].float().mean(0).to(module.weight)
        model.requires_grad_(False)  # the new table came with gradients
    return token_ids


def settings(model: Any, options: TrainingOptions, token_ids: list[int]) -> Mapping[str, Any]:
    """What PEFT is to be told about word tables.

    Raises:
        InvalidRequest: a model without a word table of its own.
    """
    if not options.train_embeddings and not token_ids:
        return {}
    tied = is_tied(model)
    table, output = _name(model, model.get_input_embeddings()), _name(model, model.get_output_embeddings())
    if not table or not output:
        raise InvalidRequest("This model has no word table and output that could be learned; turn train_embeddings and new_tokens off.", field="train_embeddings")
    if options.train_embeddings:
        return {"modules_to_save": [table, output]} | ({"ensure_weight_tying": True} if tied else {})
    return {"trainable_token_indices": {table: token_ids} | ({} if tied else {output: token_ids})}


def keep_type(model: Any) -> None:
    """Let learned tables, which are float32, take and hand on numbers of the type that the rest of the model reckons in."""
    dtype: torch.dtype = model.dtype
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    for table in tables:
        for learned in getattr(table, "modules_to_save", {}).values():
            learned.register_forward_pre_hook(lambda module, inputs: tuple(_like(module.weight, value) for value in inputs))
            learned.register_forward_hook(lambda _module, _inputs, output: output.to(dtype))


def _like(weight: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return value.to(weight.dtype) if value.is_floating_point() else value


def save_tokenizer(base: Path, options: TrainingOptions, folder: Path) -> None:
    """Write the tokenizer that knows the new tokens beside the adapter."""
    from modules.training.tokens import load_tokenizer

    load_tokenizer(base, options.new_tokens).save_pretrained(str(folder))


def _name(model: Any, wanted: Any) -> str:
    """The end of a module's name."""
    return next((name.rpartition(".")[2] for name, module in model.named_modules() if module is wanted), "")
