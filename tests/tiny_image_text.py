"""Tiny image-text models for the transformers loader: folders with random weights, tokenizer and image processor, one for each family that is treated differently.

llava: one square, causal. qwen2_vl and its kin: tiles of any size, three numbers for a position. gemma3: the places of an image see each other, behind
a sliding window. idefics3 and smolvlm: several parts with words between them. qwen3_vl: images reach into several layers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.tiny_models import BASE, TEMPLATE, write_tokenizer

FAMILIES = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3", "idefics3", "smolvlm", "internvl", "mistral3")
VOCAB = 340
TEXT = {**BASE, "vocab_size": VOCAB, "max_position_embeddings": 512}
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
QWEN = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]}}
# Family → the tokens of its images, and what the tokenizer calls some of them
MARKS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "llava": (("<image>",), {}),
    "llava_next": (("<image>",), {}),
    "lfm2_vl": (("<image>",), {}),
    "qwen2_vl": (QWEN, {}),
    "qwen2_5_vl": (QWEN, {}),
    "qwen3_vl": (QWEN, {}),
    "qwen3_5": (QWEN, {}),
    "gemma3": (
        ("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
        {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
    ),
    "idefics3": (("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"), {}),
    "smolvlm": (("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"), {}),
    "mistral3": (("[IMG]", "[IMG_BREAK]", "[IMG_END]"), {}),
    "internvl": (
        ("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
        {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"},
    ),
}  # fmt: skip
# Family → config class, what it has for text and for the tower, and beside them
CONFIGS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "llava": ("LlavaConfig", {"model_type": "llama"}, {"model_type": "clip_vision_model", **TOWER, "image_size": 28, "patch_size": 7}, {}),
    "llava_next": (
        "LlavaNextConfig", {"model_type": "llama"}, {"model_type": "clip_vision_model", **TOWER, "image_size": 28, "patch_size": 7},
        {"image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]]},
    ),
    "qwen2_vl": (
        "Qwen2VLConfig", MROPE, {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}, {}),
    "qwen2_5_vl": (
        "Qwen2_5_VLConfig", MROPE,
        {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64, "num_heads": 2, "patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]},
        {}),
    "qwen3_vl": (
        "Qwen3VLConfig", {"head_dim": 32, "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [6, 5, 5], "mrope_interleaved": True}},
        {"depth": 3, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64, "num_heads": 2, "patch_size": 14, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
        {}),
    "lfm2_vl": (
        "Lfm2VlConfig", {"model_type": "lfm2", "layer_types": ["conv", "full_attention"]},
        {"model_type": "siglip2_vision_model", **TOWER, "patch_size": 7, "num_patches": 16}, {}),
    "qwen3_5": (
        "Qwen3_5Config",
        {"head_dim": 16, "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 2,
         "linear_key_head_dim": 8, "linear_value_head_dim": 8},
        {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 64, "num_heads": 2, "patch_size": 14, "num_position_embeddings": 16}, {}),
    "gemma3": (
        "Gemma3Config",
        {"head_dim": 32, "sliding_window": 16, "query_pre_attn_scalar": 32, "layer_types": ["sliding_attention", "full_attention"]},
        {"model_type": "siglip_vision_model", **TOWER, "image_size": 56, "patch_size": 7}, {"mm_tokens_per_image": 16}),
    "idefics3": ("Idefics3Config", {"model_type": "llama"}, {"model_type": "idefics3_vision", **TOWER, "image_size": 28, "patch_size": 7}, {"scale_factor": 2}),
    "smolvlm": ("SmolVLMConfig", {"model_type": "llama"}, {"model_type": "smolvlm_vision", **TOWER, "image_size": 28, "patch_size": 7}, {"scale_factor": 2}),
    "mistral3": (
        "Mistral3Config", {"model_type": "mistral", "head_dim": 32, "sliding_window": None},
        {"model_type": "pixtral", **TOWER, "head_dim": 16, "image_size": 112, "patch_size": 14}, {"spatial_merge_size": 2, "vision_feature_layer": -1}),
    "internvl": (
        "InternVLConfig", {"model_type": "qwen2"},
        {"model_type": "internvl_vision", **TOWER, "image_size": [28, 28], "patch_size": [7, 7]}, {"downsample_ratio": 0.5, "image_seq_length": 4}),
}  # fmt: skip
SQUARE = {"size": {"height": 28, "width": 28}}
TILES = {"size": {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 16}, "patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
# Family → image processor and its settings, and those of the processor around it
PROCESSORS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llava": ("CLIPImageProcessor", {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}, {"patch_size": 7, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}),
    "llava_next": (
        "LlavaNextImageProcessor",
        {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}, "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]]},
        {"patch_size": 7, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "qwen2_vl": ("Qwen2VLImageProcessor", TILES, {}),
    "qwen2_5_vl": ("Qwen2VLImageProcessor", TILES, {}),
    "qwen3_vl": ("Qwen2VLImageProcessor", TILES, {}),
    "qwen3_5": ("Qwen2VLImageProcessor", TILES, {}),
    "lfm2_vl": ("Lfm2VlImageProcessor", {}, {}),
    "gemma3": ("Gemma3ImageProcessor", {"size": {"height": 56, "width": 56}}, {"image_seq_length": 16}),
    "idefics3": ("Idefics3ImageProcessor", {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}, {"image_seq_len": 4}),
    "smolvlm": ("SmolVLMImageProcessor", {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}, {"image_seq_len": 4}),
    "mistral3": ("PixtralImageProcessor", {"size": {"longest_edge": 112}, "patch_size": {"height": 14, "width": 14}}, {"patch_size": 14, "spatial_merge_size": 2}),
    "internvl": ("GotOcr2ImageProcessor", {**SQUARE, "crop_to_patches": True, "min_patches": 1, "max_patches": 4}, {"image_seq_length": 4}),
}  # fmt: skip
LISTS = (  # a template that knows contents as lists of parts only, as Idefics3 and LLaVA have them
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}{% if part.type == 'image' %}<image>"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def image_text_folder(folder: Path, family: str, seed: int = 0) -> Path:
    """Write a model folder of a family, once."""
    import torch
    import transformers

    if (folder / "model.safetensors").is_file():
        return folder
    write_tokenizer(folder)
    marks, names = MARKS[family]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **names)
    tokenizer.add_special_tokens({"additional_special_tokens": list(marks)})
    tokenizer.chat_template = LISTS if family in ("idefics3", "smolvlm") else TEMPLATE
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | names), encoding="utf-8")
    image, own, around = PROCESSORS[family]
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": image, **own}), encoding="utf-8")
    (folder / "processor_config.json").write_text(json.dumps(around), encoding="utf-8")
    torch.manual_seed(seed)
    config = tiny_image_config(family, {name: tokenizer.convert_tokens_to_ids(name) for name in marks})
    model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if not parameter.any():  # a projection that training would begin from nothing
            parameter.data.normal_(0, 0.3)
        elif parameter.dim() > 1:
            parameter.data.mul_(6 if "layers" in name or "lm_head" in name else 1)
        elif "weight" not in name:
            parameter.data.normal_(0, 0.1)
        parameter.data = parameter.data.half().float()
    model.half().save_pretrained(folder)
    return folder


def tiny_image_config(family: str, ids: dict[str, int]) -> Any:
    """The config of a tiny model of a family."""
    import transformers

    name, text, tower, own = CONFIGS[family]
    marks = {
        "image_token_id": ids.get("<image>") or ids.get("<|image_pad|>") or ids.get("<image_soft_token>") or ids.get("[IMG]") or ids.get("<IMG_CONTEXT>"),
        **({"video_token_id": ids["<|video_pad|>"], "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"]} if "<|video_pad|>" in ids else {}),
        **({"boi_token_id": ids["<start_of_image>"], "eoi_token_id": ids["<end_of_image>"]} if family == "gemma3" else {}),
    }  # fmt: skip
    return getattr(transformers, name)(text_config=TEXT | text, vision_config=tower, **own, **marks)
