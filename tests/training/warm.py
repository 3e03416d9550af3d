"""What a run imports, imported once by the process that runs are forked from."""

import gc

import peft  # noqa: F401
import torch
import transformers.models.llama.modeling_llama
import transformers.trainer  # noqa: F401

import modules.training.rank
import modules.training.trainer  # noqa: F401

torch.set_num_threads(1)
gc.freeze()  # of a million objects that no child needs to look at
