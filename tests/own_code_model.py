"""A tiny model whose architecture transformers does not know: its Python files, random weights and a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

CONFIGURATION = '''
from transformers import PretrainedConfig


class PonyConfig(PretrainedConfig):
    model_type = "pony_of_the_meadow"

    def __init__(self, vocab_size=320, hidden_size=32, num_hidden_layers=1, max_position_embeddings=256, **more):
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.max_position_embeddings = max_position_embeddings
        super().__init__(**more)
'''
MODELING = '''
import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from .configuration_pony import PonyConfig


class PonyForCausalLM(PreTrainedModel):
    config_class = PonyConfig
    base_model_prefix = "pony"

    def __init__(self, config):
        super().__init__(config)
        self.embed = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.mix = torch.nn.Linear(config.hidden_size, config.hidden_size)
        self.head = torch.nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids=None, **more):
        seen = self.embed(input_ids).cumsum(1) / torch.arange(1, input_ids.shape[1] + 1)[None, :, None]
        return CausalLMOutput(logits=self.head(torch.tanh(self.mix(seen))))
'''
TOKENIZATION = '''
from transformers import PreTrainedTokenizerFast


class PonyTokenizer(PreTrainedTokenizerFast):
    pass
'''
CODE = {"configuration_pony.py": CONFIGURATION, "modeling_pony.py": MODELING, "tokenization_pony.py": TOKENIZATION}


def write_own_code_model(folder: Path) -> Path:
    """The whole folder, without importing any of its code."""
    import torch
    from safetensors.torch import save_file

    from tests.tiny_models import VOCAB, write_tokenizer

    write_tokenizer(folder)
    draw = torch.Generator().manual_seed(3)
    shapes = {"embed.weight": (VOCAB, 32), "mix.weight": (32, 32), "mix.bias": (32,), "head.weight": (VOCAB, 32), "head.bias": (VOCAB,)}
    save_file({name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["PonyForCausalLM"], "model_type": "pony_of_the_meadow", "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 1, "max_position_embeddings": 256,
        "auto_map": {"AutoConfig": "configuration_pony.PonyConfig", "AutoModelForCausalLM": "modeling_pony.PonyForCausalLM"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings |= {"tokenizer_class": "PonyTokenizer", "auto_map": {"AutoTokenizer": [None, "tokenization_pony.PonyTokenizer"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    for name, text in CODE.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder
