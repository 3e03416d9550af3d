"""The sizes of a model that decide what it takes: layers, what each keeps of a token, recurrent state, the share of the weights a token reads.

From a GGUF header or from config.json with the header of the weights; nothing is loaded. Knows no loader, no option and no machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from modules.loaders.folder_header import FolderHeader
from modules.loaders.gguf_header import TENSOR_TYPES, GgufHeader, Tensor

# Architectures whose files may not say which of their layers see only a window: every so many sees everything
WINDOW_PERIODS: Mapping[str, int] = MappingProxyType({"gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "gpt-oss": 2, "olmo2": 4, "exaone4": 4})
WITHOUT_ATTENTION = ("mamba", "rwkv", "arwkv", "rwkv6qwen2")
LEAST_SHARE = 0.01
TABLE, OUTPUT = "token_embd.weight", "output.weight"
# Types whose numbers are small whole ones times a scale of 32, so that eight bits (Q8_0) hold them exactly → what a byte of them becomes.
# llama.cpp takes them where a row is no multiple of the 256 numbers of its K types, and computes with them as they are on every processor.
WIDER: Mapping[str, float] = MappingProxyType({"Q5_0": 34 / 22, "IQ4_NL": 34 / 18})
WIDE = "Q8_0"
TILED = 38 / 34  # bytes of a block in tiles, by those stored: four more hold its sum (ggml-cpu/amx/mmq.cpp)
LEAST_WIDENED = 0.2  # of the weights: for less the whole file is not worth holding in memory of its own
WIDE_ROWS = 32  # a matrix is multiplied in tiles where its rows are a multiple of this
# Kinds of models whose attention transformers computes step by step
WITHOUT_FUSED_ATTENTION = frozenset({
    "bloom", "codegen", "deepseek_v4", "gemma2", "gpt_neo", "gpt_neox_japanese", "gpt_oss", "gptj", "mimo_v2_flash", "mpt", "openai-gpt", "rwkv",
    "vaultgemma", "xglm",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class CacheLayers:
    """Layers that keep alike: so many numbers of each token, of all tokens or of the last `window`."""

    layers: int
    numbers: int  # keys and values of one token in one layer
    window: int = 0


@dataclass(frozen=True)
class Shape:
    """What the headers of a model say about its size."""

    name: str
    stored_bytes: int  # the weights as they lie on the disk
    parameters: int
    layers: int
    width: int
    heads: int
    head_width: int  # numbers of a query
    inner: int  # of the feed-forward part
    vocabulary: int
    trained_tokens: int  # 0: not said
    cache: tuple[CacheLayers, ...] = ()
    state_numbers: int = 0  # of one sequence, whatever its length
    scan_numbers: int = 0  # the state that a layer of the mamba kind makes of each token
    reads: tuple[tuple[str, float], ...] = (("F32", 1.0),)  # type of number → the share of the weights that a token reads: chosen experts, no tables
    merges: bool = False  # a vocabulary with merges, which takes more room
    tower_parameters: int = 0  # of the parameters, what only looks at images or listens; a token does not read it
    writes_scores: bool = False  # its attention has no fused form: the scores of a step are written out
    wide_table_bytes: int = 0  # of the table of words in eight bits, or as it is, where it is the output too: in tiles it is kept a second time
    held_bytes: int = 0  # of the weights in memory, where that is more than is stored
    widens: tuple[tuple[str, float], ...] = ()  # type of number → the share of the weights that eight bits can hold as well, where it is worth it

    @property
    def read_share(self) -> float:
        """Of the weights, for one token."""
        return min(1.0, sum(share for _, share in self.reads))

    def widened(self) -> Shape:
        """With everything in eight bits that they hold exactly."""
        grown = 1 + sum(share * (WIDER[kind] - 1) for kind, share in self.widens)
        reads = dict(self.reads)
        for kind, share in self.widens:
            reads[kind] = max(0.0, reads.get(kind, 0.0) - share)
            reads[WIDE] = reads.get(WIDE, 0.0) + share * WIDER[kind]
        shares = tuple((kind, share / grown) for kind, share in reads.items() if share)
        held = self.stored_bytes * (grown + reads[WIDE] * (TILED - 1)) + self.wide_table_bytes
        return replace(self, stored_bytes=int(self.stored_bytes * grown), reads=shares, widens=(), held_bytes=int(held))


def can_widen(tensor: Tensor, *, tied: bool) -> bool:
    """Whether a tensor is a matrix that tokens are multiplied with, of numbers that eight bits hold exactly; `tied`: the table of words is the output too."""
    is_multiplied = (tied and tensor.name == TABLE) or "embd" not in tensor.name
    return is_multiplied and len(tensor.shape) == 2 and tensor.shape[1] % WIDE_ROWS == 0 and TENSOR_TYPES.get(tensor.type_id, ("",))[0] in WIDER


def gguf_shape(headers: Sequence[GgufHeader], stored_bytes: int) -> Shape:
    """The shape of a GGUF model from the headers of its parts, the first of which holds the metadata."""
    header = headers[0]
    layers = header.number("block_count", 1)
    recurrent = _recurrent_layers(header, layers)
    return Shape(
        name=header.path.name,
        stored_bytes=stored_bytes,
        parameters=sum(part.parameters for part in headers),
        layers=layers,
        width=header.number("embedding_length", 1),
        heads=max(1, header.number("attention.head_count", 1)),
        head_width=header.number("attention.key_length", header.number("embedding_length", 1) // max(1, header.number("attention.head_count", 1))),
        inner=header.number("feed_forward_length"),
        vocabulary=header.token_count or header.number("vocab_size"),
        trained_tokens=header.number("context_length"),
        cache=_gguf_cache(header, layers),
        state_numbers=recurrent * _gguf_state(header),
        reads=_gguf_reads(headers),
        merges="tokenizer.ggml.merges" in header.metadata,
        wide_table_bytes=_wide_table_bytes(headers),
        widens=_gguf_widens(headers),
    )


def is_tied(headers: Sequence[GgufHeader]) -> bool:
    """Whether the table of words of a GGUF model is its output too; encoders have no output."""
    writes = headers[0].metadata.get(f"{headers[0].architecture}.attention.causal", True) is not False
    return writes and not any(tensor.name == OUTPUT for header in headers for tensor in header.tensors)


def _wide_table_bytes(headers: Sequence[GgufHeader]) -> int:
    if not is_tied(headers):
        return 0
    tables = [tensor for header in headers for tensor in header.tensors if tensor.name == TABLE]
    return int(sum(table.size_bytes * (WIDER[TENSOR_TYPES[table.type_id][0]] if can_widen(table, tied=True) else 1) for table in tables))


def _each_layer(header: GgufHeader, key: str, layers: int, default: int) -> tuple[int, ...]:
    """A field that holds one number for all layers or one for each."""
    value = header.metadata.get(f"{header.architecture}.{key}", default)
    if isinstance(value, tuple):
        numbers = tuple(int(number) for number in value[:layers] if isinstance(number, int))
        return numbers + (max(numbers, default=default),) * (layers - len(numbers))
    return (value if isinstance(value, int) else default,) * layers


def _without_attention(header: GgufHeader) -> bool:
    return header.architecture.startswith(WITHOUT_ATTENTION)


def _full_interval(header: GgufHeader) -> int:
    """Of how many layers one has attention, the others a recurrent state; 0 where that is not the rule."""
    return header.number("full_attention_interval")


def _recurrent_layers(header: GgufHeader, layers: int) -> int:
    if _without_attention(header):
        return layers
    if interval := _full_interval(header):
        return layers - layers // interval
    empty = _each_layer(header, "attention.head_count_kv", layers, 1).count(0)
    return empty or layers  # both in every layer


def _gguf_cache(header: GgufHeader, layers: int) -> tuple[CacheLayers, ...]:
    if _without_attention(header):
        return ()
    width, heads = header.number("embedding_length", 1), max(1, header.number("attention.head_count", 1))
    key = header.number("attention.key_length", width // heads)
    value = header.number("attention.value_length", width // heads)
    if header.number("attention.key_length_mla"):  # the latent vector is kept once and serves as both
        value = 0
    seen_key, seen_value = header.number("attention.key_length_swa", key), header.number("attention.value_length_swa", value)  # in the layers with a window
    window, period = header.number("attention.sliding_window"), WINDOW_PERIODS.get(header.architecture, 0)
    pattern = _each_layer(header, "attention.sliding_window_pattern", layers, period)
    stated = isinstance(header.metadata.get(f"{header.architecture}.attention.sliding_window_pattern"), tuple)
    interval = _full_interval(header)
    counts: dict[tuple[int, int], int] = {}
    kept = layers - header.number("attention.shared_kv_layers")
    for layer, kv_heads in enumerate(_each_layer(header, "attention.head_count_kv", layers, heads)[: max(1, kept)]):
        if interval and (layer + 1) % interval:
            continue
        windowed = bool(pattern[layer]) if stated else pattern[layer] > 1 and layer % pattern[layer] < pattern[layer] - 1
        place = (kv_heads * (seen_key + seen_value if windowed else key + value), window if windowed else 0)
        counts[place] = counts.get(place, 0) + 1
    return tuple(CacheLayers(count, numbers, seen) for (numbers, seen), count in counts.items() if numbers)


def _gguf_state(header: GgufHeader) -> int:
    """Numbers of the recurrent state of one layer."""
    width = header.number("embedding_length", 1)
    inner, state = header.number("ssm.inner_size"), header.number("ssm.state_size")
    if inner and state:
        return max(0, header.number("ssm.conv_kernel") - 1) * (inner + 2 * header.number("ssm.group_count") * state) + state * inner
    if head := header.number("wkv.head_size"):
        return width * (header.number("token_shift_count", 2) + head)
    return width * max(0, header.number("shortconv.l_cache") - 1)


def _gguf_reads(headers: Sequence[GgufHeader]) -> tuple[tuple[str, float], ...]:
    tensors = [tensor for header in headers for tensor in header.tensors]
    total = sum(tensor.size_bytes for tensor in tensors)
    if not total:
        return (("F16", 1.0),)
    experts, used = headers[0].number("expert_count"), headers[0].number("expert_used_count")
    is_apart = not is_tied(headers)  # else the table is read whole, as the output
    shares: dict[str, float] = {}
    for tensor in tensors:
        share = tensor.size_bytes / total
        if experts and used and "_exps." in tensor.name:
            share *= min(used, experts) / experts
        if not (is_apart and tensor.name == TABLE):
            kind = TENSOR_TYPES[tensor.type_id][0] if tensor.type_id in TENSOR_TYPES else "F16"
            shares[kind] = shares.get(kind, 0.0) + share
    return tuple(shares.items()) or (("F16", LEAST_SHARE),)


def _gguf_widens(headers: Sequence[GgufHeader]) -> tuple[tuple[str, float], ...]:
    """The shares of a model in one file; of a type that is not known nobody knows where it ends."""
    if len(headers) > 1 or not all(tensor.size_bytes for tensor in headers[0].tensors):
        return ()
    tensors, tied = headers[0].tensors, is_tied(headers)
    total, shares = sum(tensor.size_bytes for tensor in tensors), dict[str, float]()
    for tensor in tensors:
        if can_widen(tensor, tied=tied):
            kind = TENSOR_TYPES[tensor.type_id][0]
            shares[kind] = shares.get(kind, 0.0) + tensor.size_bytes / total
    return tuple(shares.items()) if sum(shares.values()) >= LEAST_WIDENED else ()


def folder_shape(header: FolderHeader) -> Shape:
    """The shape of a model folder from its config.json and the headers of its weights."""
    layers = header.number("num_hidden_layers", "n_layer", "num_layers", "n_layers") or 1
    width = header.number("hidden_size", "n_embd", "d_model") or 1
    heads = header.number("num_attention_heads", "n_head", "num_heads") or 1
    return Shape(
        name=header.path.name,
        stored_bytes=header.size_bytes,
        parameters=header.parameters,
        layers=layers,
        width=width,
        heads=heads,
        head_width=header.number("head_dim") or width // max(1, heads),
        inner=header.number("intermediate_size", "n_inner", "ffn_dim") or 4 * width,
        vocabulary=header.number("vocab_size"),
        trained_tokens=header.number("max_position_embeddings", "n_positions", "seq_length", "max_sequence_length"),
        cache=_folder_cache(header, layers, width, heads),
        state_numbers=_folder_state(header, layers, width),
        scan_numbers=_scan(header, width)[0] if {"mamba", "recurrent"} & set(_layer_types(header, layers)) else 0,
        reads=(("F32", _folder_share(header, layers, width)),),
        tower_parameters=header.tower_parameters,
        writes_scores=str(header.config.get("model_type", "")) in WITHOUT_FUSED_ATTENTION,
    )


def _layer_types(header: FolderHeader, layers: int) -> tuple[str, ...]:
    """What each layer is; attention over everything where nothing is said."""
    stated: Any = header.field("layer_types", "layers_block_type", "block_types")
    if isinstance(stated, list) and len(stated) == layers:
        return tuple(str(kind) for kind in stated)
    if str(header.config.get("model_type", "")).startswith(WITHOUT_ATTENTION):
        return ("mamba",) * layers
    return ("attention",) * layers


def _folder_cache(header: FolderHeader, layers: int, width: int, heads: int) -> tuple[CacheLayers, ...]:
    size = header.number("head_dim") or width // max(1, heads)
    numbers = 2 * (header.number("num_key_value_heads") or heads) * size
    if header.number("kv_lora_rank"):  # latent attention, which transformers keeps unfolded
        numbers = heads * (header.number("qk_nope_head_dim") + header.number("qk_rope_head_dim") + header.number("v_head_dim"))
    kinds = _layer_types(header, layers)
    windowed = sum("sliding" in kind or "chunked" in kind for kind in kinds)
    full = sum("attention" in kind and "linear" not in kind for kind in kinds) - windowed
    window = header.number("sliding_window", "attention_chunk_size")
    found = (CacheLayers(full, numbers), CacheLayers(windowed, numbers, window))
    return tuple(group for group in found if group.layers > 0)


def _folder_state(header: FolderHeader, layers: int, width: int) -> int:
    total = 0
    for kind in _layer_types(header, layers):
        if kind == "conv":
            total += width * header.number("conv_L_cache")
        elif kind == "linear_attention":
            key, value = (header.number(f"linear_num_{part}_heads") * header.number(f"linear_{part}_head_dim") for part in ("key", "value"))
            total += value * header.number("linear_key_head_dim") + (2 * key + value) * header.number("linear_conv_kernel_dim")
        elif kind in ("mamba", "recurrent"):
            total += sum(_scan(header, width))
    return total


def _scan(header: FolderHeader, width: int) -> tuple[int, int]:
    """Numbers of the state and of the convolution of one layer of the mamba kind."""
    inner = width * (header.number("mamba_expand", "expand") or 2)
    return inner * header.number("mamba_d_state", "state_size", "ssm_state_size"), inner * header.number("mamba_d_conv", "conv_kernel")


def _folder_share(header: FolderHeader, layers: int, width: int) -> float:
    if not header.parameters:
        return 1.0
    experts, used = header.number("num_local_experts", "num_experts", "n_routed_experts"), header.number("num_experts_per_tok")
    idle = float(header.tower_parameters)
    if experts and used:
        inner = header.number("moe_intermediate_size", "intermediate_size")
        idle += layers * experts * 3 * width * inner * (1 - min(used, experts) / experts)
    if header.config.get("tie_word_embeddings") is False:
        idle += header.number("vocab_size") * width
    return min(1.0, max(LEAST_SHARE, 1 - idle / header.parameters))
