"""Tiny GGUF files with random weights whose layers carry a state: hybrid (lfm2: short convolutions beside attention) and recurrent (mamba).

The spreads of the weights are chosen so that choices have margins, differ between prompts and depend on the first token of a prompt for long.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from tests.tiny_models import VOCAB, finish_gguf, write_tokenizer, write_vocabulary

WIDTH = 64
INNER = 128
STATE_CONTEXT = 1024
EPSILON = 1e-5
CONVOLUTION = 3  # tokens that a short convolution sees
HEAD_WIDTH = 32
HYBRID_KV_HEADS = (0, 1, 0, 1)  # of each layer: none where it is a convolution
RECURRENT_LAYERS = 3
SCAN_CONVOLUTION, SCAN_STATE, SCAN_RANK = 4, 8, 4
SHARPNESS = 0.5  # of attention: more, and the rounding of the cache shows in the logits
LOGIT_SPREAD = 3.0


def write_hybrid_gguf(base: Path) -> Path:
    """A GGUF file of two layers with a short convolution and two with attention."""
    path = base / "tiny-hybrid.gguf"
    if not path.exists():
        writer = _begin(path, base, "lfm2", len(HYBRID_KV_HEADS))
        writer.add_feed_forward_length(INNER)
        writer.add_head_count(WIDTH // HEAD_WIDTH)
        writer.add_head_count_kv(list(HYBRID_KV_HEADS))
        writer.add_rope_freq_base(10_000.0)
        writer.add_shortconv_l_cache(CONVOLUTION)
        _finish(writer, _hybrid_weights(), "token_embd_norm")
    return path


def write_recurrent_gguf(base: Path) -> Path:
    """A GGUF file of layers that scan a state, which forgets slowly; without attention."""
    path = base / "tiny-recurrent.gguf"
    if not path.exists():
        writer = _begin(path, base, "mamba", RECURRENT_LAYERS)
        writer.add_feed_forward_length(0)
        writer.add_head_count(0)
        writer.add_ssm_conv_kernel(SCAN_CONVOLUTION)
        writer.add_ssm_inner_size(INNER)
        writer.add_ssm_state_size(SCAN_STATE)
        writer.add_ssm_time_step_rank(SCAN_RANK)
        _finish(writer, _recurrent_weights(), "output_norm")
    return path


def _begin(path: Path, base: Path, architecture: str, layers: int) -> gguf.GGUFWriter:
    """A file with what both kinds say of themselves."""
    folder = base / "tiny-state-tokenizer"
    write_tokenizer(folder)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_license("mit")
    writer.add_context_length(STATE_CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(layers)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_vocab_size(VOCAB)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    write_vocabulary(writer, folder)
    return writer


def _finish(writer: gguf.GGUFWriter, layers: dict[str, np.ndarray], norm: str) -> None:
    """Add the weights of the layers and those around them."""
    generator = np.random.default_rng(0)
    writer.add_tensor("token_embd.weight", generator.standard_normal((VOCAB, WIDTH), np.float32))
    for name, weights in layers.items():
        writer.add_tensor(name, np.ascontiguousarray(weights, np.float32))
    writer.add_tensor(f"{norm}.weight", np.ones(WIDTH, np.float32))
    writer.add_tensor("output.weight", _matrix(generator, VOCAB, WIDTH, LOGIT_SPREAD))
    finish_gguf(writer)


def _matrix(generator: np.random.Generator, rows: int, columns: int, spread: float = 1.0) -> np.ndarray:
    """Weights that make numbers of this spread out of numbers of spread 1."""
    return generator.standard_normal((rows, columns), np.float32) * np.float32(spread / columns**0.5)


def _hybrid_weights() -> dict[str, np.ndarray]:
    generator, named = np.random.default_rng(1), dict[str, np.ndarray]()
    for layer, kv_heads in enumerate(HYBRID_KV_HEADS):
        own = {
            "attn_norm": np.ones(WIDTH), "ffn_norm": np.ones(WIDTH),
            "ffn_gate": _matrix(generator, INNER, WIDTH), "ffn_up": _matrix(generator, INNER, WIDTH), "ffn_down": _matrix(generator, WIDTH, INNER),
        }  # fmt: skip
        if kv_heads:
            own |= {
                "attn_q": _matrix(generator, WIDTH, WIDTH), "attn_k": _matrix(generator, kv_heads * HEAD_WIDTH, WIDTH),
                "attn_v": _matrix(generator, kv_heads * HEAD_WIDTH, WIDTH), "attn_output": _matrix(generator, WIDTH, WIDTH),
                "attn_q_norm": np.full(HEAD_WIDTH, SHARPNESS), "attn_k_norm": np.ones(HEAD_WIDTH),
            }  # fmt: skip
        else:
            own |= {
                "shortconv.conv": _matrix(generator, WIDTH, CONVOLUTION), "shortconv.in_proj": _matrix(generator, 3 * WIDTH, WIDTH),
                "shortconv.out_proj": _matrix(generator, WIDTH, WIDTH),
            }  # fmt: skip
        named |= {f"blk.{layer}.{name}.weight": weights for name, weights in own.items()}
    return named


def _recurrent_weights() -> dict[str, np.ndarray]:
    generator, named = np.random.default_rng(2), dict[str, np.ndarray]()
    for layer in range(RECURRENT_LAYERS):
        steps = generator.uniform(0.05, 0.2, INNER)  # of time, of a token
        own = {
            "attn_norm.weight": np.ones(WIDTH),
            "ssm_in.weight": _matrix(generator, 2 * INNER, WIDTH),
            "ssm_conv1d.weight": _matrix(generator, INNER, SCAN_CONVOLUTION),
            "ssm_conv1d.bias": generator.standard_normal(INNER) * 0.1,
            "ssm_x.weight": _matrix(generator, SCAN_RANK + 2 * SCAN_STATE, INNER, 2.0),
            "ssm_dt.weight": _matrix(generator, INNER, SCAN_RANK, 0.5),
            "ssm_dt.bias": np.log(np.expm1(steps)),  # the softplus of it is the step
            "ssm_a": -generator.uniform(0.02, 0.2, (INNER, SCAN_STATE)),  # in a unit of time a state loses so much of itself
            "ssm_d": np.ones(INNER),
            "ssm_out.weight": _matrix(generator, WIDTH, INNER),
        }  # fmt: skip
        named |= {f"blk.{layer}.{name}": weights for name, weights in own.items()}
    return named
