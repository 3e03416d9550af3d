"""The adapter that a run learns: put on a base model, divided for the optimizer, kept in checkpoints, saved so that plain PEFT reads it.

LoRA and its kinds: rsLoRA, DoRA, PiSSA (`pissa.py`), LoRA+ (groups for the optimizer); word tables and new tokens (`word_table.py`).
Everything begins from `options.seed`. Knows nothing of data or steps.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.core.errors import InvalidRequest, UnsupportedFormat, first_line
from modules.loaders.adapter_config import CONFIG, WEIGHTS, check_adapter_config
from modules.loaders.folder_header import read_json
from modules.training import pissa, word_table
from modules.training.base_model import OTHER_SENSES, QUANTIZED
from modules.training.fingerprint import check_same_base
from modules.training.options import TrainingOptions

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel

NAMED = 12  # layers that a sentence lists
WITH_STATE = frozenset({"mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h"})  # their kernels read some weights directly, past an adapter
PISSA_NEEDS_WEIGHTS = "pissa takes its beginning out of the base weights, which 8 and 4 bits cannot hold exactly; turn pissa off, or set precision to bfloat16."
BESIDE_STATE = frozenset({"out_proj", "conv1d"})


def attach(model: Any, options: TrainingOptions, *, initial: Path, continue_from: Path | None = None) -> PeftModel:
    """Put a new adapter on a base model, or the one to continue from.

    `initial` is a folder of the run; what a resumed run needs to begin the same way is kept there.

    Raises:
        InvalidRequest: options that do not fit the model, each other, or the adapter to continue from.
        UnsupportedFormat: the adapter to continue from is damaged or no LoRA.
    """
    import torch
    from peft import get_peft_model

    check_options(options, continue_from)
    _check_quantized(model, options)
    token_ids = word_table.grow(model, options)
    config = _config(model, options, token_ids)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        try:
            adapted = get_peft_model(model, config)
        except (ValueError, RuntimeError) as error:
            raise InvalidRequest(f"An adapter with these options does not suit this model: {first_line(error)}.", field="target_modules") from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # small steps are lost in shorter numbers
    word_table.keep_type(model)
    if continue_from is not None:
        check_same_base(continue_from, Path(model.name_or_path), initial)
        _continue(adapted, options, continue_from)
    if options.pissa:
        pissa.begin(adapted, initial, options.seed)
    adapted.train()
    return adapted


def parameter_groups(model: Any, options: TrainingOptions) -> list[dict[str, Any]]:
    """What is trained, for the optimizer: LoRA+ gives second matrices a faster rate; vectors are not pulled towards zero."""
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_second = ".lora_B." in name
            rate = options.learning_rate * (options.lora_plus_ratio if is_second and options.lora_plus_ratio else 1)
            decay = options.weight_decay if parameter.dim() > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()]


def weights(model: Any) -> dict[str, torch.Tensor]:
    """Everything that is trained, whole also where it is divided among devices (then every rank must ask)."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            value = parameter.detach()
            found[name] = value.full_tensor() if hasattr(value, "full_tensor") else value
    return found


def put_weights(model: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back what `weights` gave.

    Raises:
        UnsupportedFormat: it belongs to another adapter.
    """
    import torch

    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    wrong = [name for name in {*trained, *tensors} if name not in trained or name not in tensors or trained[name].shape != tensors[name].shape]
    if wrong:
        raise UnsupportedFormat(f"This checkpoint belongs to another adapter: {len(wrong)} weights differ ({min(wrong)}); begin a new run.")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(_divided_like(parameter, tensors[name]))


def _divided_like(parameter: Any, tensor: torch.Tensor) -> torch.Tensor:
    if not hasattr(parameter, "device_mesh"):
        return tensor.to(parameter.device, parameter.dtype)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(parameter.device, parameter.dtype), parameter.device_mesh, parameter.placements)


def save(model: Any, options: TrainingOptions, folder: Path, *, initial: Path, base_name: str = "") -> None:
    """Write the adapter as plain PEFT reads it on the untouched base model; new tokens bring the tokenizer with them."""
    state, config = _saved_state(model), copy.deepcopy(model.peft_config["default"])
    # PEFT moves a tied output to a list that is not saved, and finds it again for some names of word tables only
    tied = {name.rpartition(".")[2] for name in getattr(config, "modules_to_tie", None) or ()}
    config.modules_to_save = sorted({*config.modules_to_save, *tied}) if config.modules_to_save else None
    if options.pissa:
        state = pissa.as_plain(state, initial)
        config.r, config.lora_alpha = 2 * config.r, config.lora_alpha * (2**0.5 if config.use_rslora else 2)
    write(state, config, folder, base_name or Path(model.get_base_model().name_or_path).name)
    if options.new_tokens:
        word_table.save_tokenizer(Path(model.get_base_model().name_or_path), options, folder)


def write(state: Mapping[str, torch.Tensor], config: LoraConfig, folder: Path, base_name: str) -> None:
    """An adapter folder from its weights and configuration, which names the base model but no place on this machine."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config.base_model_name_or_path, config.inference_mode, config.init_lora_weights = base_name, True, True
    if isinstance(config.target_modules, Iterable) and not isinstance(config.target_modules, str):
        config.target_modules = sorted(config.target_modules)
    save_file({name: tensor.cpu().contiguous() for name, tensor in sorted(state.items())}, folder / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def _saved_state(model: Any) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    whole = weights(model)
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    # a tied table is one parameter under two names, and a file of plain PEFT has both
    named = {name: whole[first[id(it)]] for name, it in model.named_parameters(remove_duplicate=False) if it.requires_grad}
    state: dict[str, torch.Tensor] = get_peft_model_state_dict(model, state_dict=named, save_embedding_layers=False)
    return {name: tensor.clone() for name, tensor in state.items()}


def check_options(options: TrainingOptions, continue_from: Path | None) -> None:
    """Refuse options that cannot go together, whatever the model.

    Raises:
        InvalidRequest: with the one to change.
    """
    if options.pissa and options.precision in QUANTIZED:
        raise InvalidRequest(PISSA_NEEDS_WEIGHTS, field="pissa")
    if options.pissa and continue_from is not None:
        raise InvalidRequest("pissa begins an adapter anew and cannot continue one; turn pissa off.", field="pissa")


def _check_quantized(model: Any, options: TrainingOptions) -> None:
    if options.pissa and getattr(model, "is_quantized", False):
        raise InvalidRequest(PISSA_NEEDS_WEIGHTS, field="pissa")
    if options.dora and getattr(model, "is_loaded_in_8bit", False) and model.device.type == "cpu":  # its library loses the weights' scales there
        raise InvalidRequest("dora on a model held in 8 bits needs a graphics card; set precision to 4bit or auto, or turn dora off.", field="dora")


def _config(model: Any, options: TrainingOptions, token_ids: list[int]) -> LoraConfig:
    from peft import LoraConfig

    linear = linear_layers(model)
    chosen, experts = (tuple(linear), ()) if options.target_all else _chosen(model, options, linear)
    is_transposed = any(type(module).__name__ == "Conv1D" for module in linear.values())
    alpha: Any = int(options.alpha) if float(options.alpha).is_integer() else options.alpha  # whole where it is, as other readers expect
    more: dict[str, Any] = {"target_parameters": list(experts)} if experts else {}
    if any(OTHER_SENSES.search(name) for name, _ in model.named_modules()):
        more["exclude_modules"] = rf".*{OTHER_SENSES.pattern}.*"
    return LoraConfig(
        r=options.rank,
        lora_alpha=alpha,
        lora_dropout=options.dropout,
        use_rslora=options.rslora,
        use_dora=options.dora,
        target_modules=sorted({name.rpartition(".")[2] for name in chosen}) if options.target_all else list(chosen),
        fan_in_fan_out=is_transposed,
        task_type="CAUSAL_LM",
        bias="none",
        **more,
        **word_table.settings(model, options, token_ids),
    )


def linear_layers(model: Any) -> dict[str, Any]:
    """Every linear layer that an adapter can change, by its whole name; not the one that makes the output, and no eyes or ears."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    outputs = model.get_output_embeddings()
    unsuitable = BESIDE_STATE if model.config.model_type in WITH_STATE else frozenset()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and module is not outputs
        and name.rpartition(".")[2] not in unsuitable
        and not OTHER_SENSES.search(name)
    }


def _chosen(model: Any, options: TrainingOptions, linear: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The ends of names of layers, and of the weights of experts, that the options ask for.

    Raises:
        InvalidRequest: a name that stands for nothing.
    """
    output = next((name for name, module in model.named_modules() if module is model.get_output_embeddings()), "")
    packed = [name for name, parameter in model.named_parameters() if parameter.dim() == 3]  # of all experts of a layer together
    layers: list[str] = []
    experts: dict[str, None] = {}
    for end in options.target_modules:
        found = _ending(linear, end)
        in_experts = _ending(packed, end)
        if _ending([output], end):
            if word_table.is_tied(model):
                raise InvalidRequest(
                    f"{end} shares its weights with the word table, which a LoRA would change twice; turn on train_embeddings instead.", field="target_modules"
                )
            found.append(output)
        if not found and not in_experts:
            raise nothing_called(end, {name.rpartition(".")[2] for name in linear} | {".".join(name.split(".")[-2:]) for name in packed})
        layers += [end] if found else []
        experts |= dict.fromkeys(".".join(name.split(".")[-2:]) for name in in_experts)
    if experts and (options.dora or options.pissa or options.dropout):
        raise InvalidRequest("The weights of experts are learned by plain LoRA alone; turn dora, pissa and dropout off.", field="target_modules")
    return tuple(layers), tuple(experts)


def _ending(names: Iterable[str], end: str) -> list[str]:
    return [name for name in names if name and f".{name}".endswith(f".{end}")]


def nothing_called(end: str, there: Iterable[str]) -> InvalidRequest:
    """The error for a name that no layer ends with."""
    names = sorted(there)
    shown = ", ".join(names[:NAMED]) + (" …" if len(names) > NAMED else "")
    return InvalidRequest(f"No layer of this model is called {end}; it has {shown}.", field="target_modules")


def check_kind(folder: Path, options: TrainingOptions) -> None:
    """Whether an adapter is of the kind that the options describe, so that learning can go on from it.

    Raises:
        InvalidRequest: it is of another kind.
        UnsupportedFormat: damaged or no LoRA.
    """
    config = read_json(folder / CONFIG)
    check_adapter_config(folder.name, config)
    wanted = {"r": options.rank, "lora_alpha": options.alpha, "use_rslora": options.rslora, "use_dora": options.dora}
    titles = {"r": "rank", "lora_alpha": "alpha", "use_rslora": "rslora", "use_dora": "dora"}
    other = [f"{titles[name]} {config.get(name, False)} (not {value})" for name, value in wanted.items() if config.get(name, False) != value]
    if other:
        raise InvalidRequest(f"The adapter {folder.name} has {', '.join(other)}; set the same to continue from it.", field="continue_from")


def _continue(model: Any, options: TrainingOptions, folder: Path) -> None:
    """Begin with the weights of an adapter.

    Raises:
        InvalidRequest: the options describe another kind of adapter.
        UnsupportedFormat: damaged or no LoRA.
    """
    from peft import set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_kind(folder, options)
    try:
        state = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError):
        raise UnsupportedFormat(f"The weights of the adapter {folder.name} cannot be read; download it again.") from None
    own = _saved_state(model)
    differing = sorted(name for name in {*own, *state} if name not in own or name not in state or own[name].shape != state[name].shape)
    if differing:
        raise InvalidRequest(
            f"The adapter {folder.name} and this run's options adapt different weights: {len(differing)} differ ({differing[0]}); choose the adapter's base "
            "model, and the layers, tokens and tables that it was made with.",
            field="continue_from",
        )
    set_peft_model_state_dict(model, {name: tensor.float() for name, tensor in state.items()})
