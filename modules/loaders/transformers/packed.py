"""Matrix products of several rows on a processor by oneDNN, which reads the weights once for all of them.

PyTorch's own product of a few float32 rows reads the weights once for each, or nearly so. A single row is as quick there as anywhere and stays there.
In blocks of 64 outputs side by side the weights are read quicker still by several rows and slower by one, so both orders are kept where memory is given
for that. Knows modules; nothing of slots or architectures.
"""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

ROWS_HINT = 8  # any number above 1 gives the same blocks
CHECKED_ROWS = 3
HEAD_RATIO = 16  # outputs for each input from which oneDNN is quicker without blocks too: heads over a vocabulary
TOLERANCE = (("torch.float32", 1e-4), ("torch.bfloat16", 3e-2))  # of the largest result: sums are taken in another order


def use_onednn(model: Any, *, blocks: bool) -> int:
    """Let the plain linear layers of a model on a processor multiply several rows by oneDNN; how many do. Others are left as they are.

    Source: `torch.ops.mkldnn`, which PyTorch's own compiler uses in the same way.

    Args:
        model: as transformers made it, before adapters.
        blocks: keep the weights a second time, in blocks.
    """
    import torch

    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise") or getattr(model, "is_quantized", False):
        return 0
    done, kind = 0, _rows_linear()
    for module in model.modules():
        plain = type(module) is torch.nn.Linear and not hasattr(module, "_hf_hook")
        plain = plain and (blocks or module.out_features >= HEAD_RATIO * module.in_features)
        if not plain or module.weight.device.type != "cpu" or str(module.weight.dtype) not in dict(TOLERANCE):
            continue
        try:
            done += _prepare(module, kind, blocks=blocks)
        except (RuntimeError, AttributeError, NotImplementedError) as error:  # a PyTorch without oneDNN for this processor: the rest stays plain
            log.info("linear layers stay as they are: %s", str(error).splitlines()[0][:200])
            break
    return done


def _prepare(module: Any, kind: type[torch.nn.Linear], *, blocks: bool) -> bool:
    """Turn one layer into the other kind if that computes the same."""
    import torch

    with torch.no_grad():
        weight = torch.ops.mkldnn._reorder_linear_weight.default(module.weight.detach(), ROWS_HINT) if blocks else None
        if not _agrees(module, module.weight if weight is None else weight):
            return False
    module._blocks = weight
    module.__class__ = kind
    return True


def _agrees(module: Any, weight: torch.Tensor) -> bool:
    import torch

    states = torch.linspace(-1, 1, CHECKED_ROWS * module.in_features, dtype=module.weight.dtype).reshape(1, CHECKED_ROWS, module.in_features)
    expected = torch.nn.functional.linear(states, module.weight, module.bias)
    found = torch.ops.mkldnn._linear_pointwise.default(states, weight, module.bias, "none", [], "")
    limit = dict(TOLERANCE)[str(module.weight.dtype)] * float(expected.abs().max().clamp_min(1e-6))
    return float((found - expected).abs().max()) <= limit


def _rows_linear() -> type[torch.nn.Linear]:
    import torch

    multiply, linear = torch.ops.mkldnn._linear_pointwise.default, torch.nn.functional.linear

    class RowsLinear(torch.nn.Linear):
        """A linear layer that multiplies one row as before and several rows by oneDNN."""

        _blocks: torch.Tensor | None

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            if input.numel() <= self.in_features:
                return linear(input, self.weight, self.bias)
            blocks = self._blocks
            return multiply(input, self.weight if blocks is None else blocks, self.bias, "none", [], "")

        def __deepcopy__(self, memo: dict[int, Any]) -> torch.nn.Linear:
            """As it was before: a copy, which an adapter may change, has no blocks."""
            plain = torch.nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
            plain.weight = copy.deepcopy(self.weight, memo)
            plain.bias = copy.deepcopy(self.bias, memo)
            return plain

    return RowsLinear
