"""Write the shipped folder: safetensors, tokenizer, GGUF file and model card.

Knows the file names. Knows nothing of training.
"""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaForCausalLM

from tools.starter import tokenizer as tokenizers_format
from tools.starter.gguf_file import write_gguf

GGUF_NAME = "starter-Q8_0.gguf"
CARD = """---
license: same as Paddock
language: en
---
# Starter

A **tiny demo model** ({parameters:,} parameters) that comes with Paddock, so that every page works offline from the
first minute. It makes small talk, tells short stories and answers questions about using Paddock. It is not clever: it
knows next to nothing else, it often misunderstands, and it should not be relied upon. For real work load a larger model
on the Models page.

* Architecture: Llama, {layers} layers, hidden size {hidden}, {heads} heads ({kv} key/value heads), tied embeddings.
* Context: {context} tokens. Vocabulary: {vocabulary} BPE tokens with byte fallback. Chat template inside (ChatML style).
* Files: `model.safetensors` (float16) with its tokenizer for transformers, `{gguf}` for llama.cpp.
* Text: written for this purpose and expanded by our own script (`tools/starter/`); no outside data, no outside weights.
* Training: {steps} steps of {tokens} tokens in {minutes:.0f} minutes on {threads} processor thread(s).
* Made by `python -m tools.train_starter`.

## Score

Greedy replies to {total} hand-written questions that training never saw (`tools/starter/held_back.yaml`); a reply is
right when it contains the required words of its subject:

| how it was asked | right |
| --- | --- |
{rows}
"""


def write_folder(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path, context_length: int) -> None:
    """Write weights, configuration, tokenizer and the GGUF file into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizers_format.write(tokenizer, out, context_length)
    begin, end, pad = (tokenizers_format.token_id(tokenizer, text) for text in (
        tokenizers_format.BEGIN, tokenizers_format.TURN_END, tokenizers_format.END))
    half = LlamaForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half = half.to(torch.float16)
    half.generation_config = GenerationConfig(
        bos_token_id=begin, eos_token_id=[end, pad], pad_token_id=pad, do_sample=True, temperature=0.3, top_p=0.9)
    half.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # the writer makes it private; this file is for everybody
    write_gguf(out, out / GGUF_NAME, "q8_0")


def write_card(out: Path, report: dict[str, Any]) -> None:
    """Write README.md from the evaluation report."""
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    rows = "\n".join(f"| {name} | {entry['right']} of {entry['total']} ({100 * entry['share']:.1f} %) |"
                     for name, entry in (("alone, float16 folder", report["held_back"]),
                                         ("alone, Q8_0 file", report["held_back_q8_0"]),
                                         ("after three other turns", report["held_back_later_turn"]),
                                         ("with a system prompt", report["held_back_system_prompt"])))
    recipe = report["recipe"]
    (out / "README.md").write_text(CARD.format(
        parameters=report["parameters"], layers=config["num_hidden_layers"], hidden=config["hidden_size"],
        heads=config["num_attention_heads"], kv=config["num_key_value_heads"], vocabulary=config["vocab_size"],
        context=config["max_position_embeddings"], gguf=GGUF_NAME, steps=recipe["steps"],
        tokens=recipe["tokens_per_step"], minutes=report["training_s"] / 60, threads=report["threads"],
        total=report["held_back"]["total"], rows=rows), encoding="utf-8")
