"""The processes of one run as each of them sees the others: which it is, who leads, what is agreed on.

A run in one process is the case of one rank, for which everything here does nothing. The leader alone reads the person's wishes and writes files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ranks:
    """See above."""

    rank: int = 0
    count: int = 1
    leader: int = 0  # its rank: it runs on the machine of the job, which need not hold rank 0
    divided: bool = False  # the base model is: no rank can compute without the others

    @property
    def leads(self) -> bool:
        """Whether this process is the leader."""
        return self.rank == self.leader

    def agreed(self, values: Sequence[float]) -> list[float]:
        """The leader's values, on every rank."""
        if self.count == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(list(values), dtype=torch.float64, device=_device())
        dist.broadcast(tensor, src=self.leader)
        return [float(value) for value in tensor.tolist()]

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over all ranks."""
        if self.count == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(list(values), dtype=torch.float64, device=_device())
        dist.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def shared(self, data: bytes) -> bytes:
        """The leader's bytes, on every rank."""
        if self.count == 1:
            return data
        import torch
        import torch.distributed as dist

        size = int(self.agreed([float(len(data))])[0])
        if not size:
            return b""
        tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8) if self.leads else torch.empty(size, dtype=torch.uint8)
        tensor = tensor.to(_device())
        dist.broadcast(tensor, src=self.leader)
        return bytes(tensor.cpu().numpy().tobytes())


def _device() -> str:
    """Where collectives take their numbers from: NCCL knows graphics memory alone."""
    import torch
    import torch.distributed as dist

    return f"cuda:{torch.cuda.current_device()}" if dist.get_backend() == "nccl" else "cpu"


ALONE = Ranks()
