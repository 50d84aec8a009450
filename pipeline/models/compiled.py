"""A network compiled once for any number of rows, its small operations fused."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline.models.hooks import RowsTaken

# One row alone would be compiled for itself, and each size of latents is. What is not compiled runs as it is.
_FEWEST_ROWS: Final = 2
_MOST_SIZES: Final = 2


class CompiledNetwork(torch.nn.Module):
    """Calls a network's `forward`, compiled where that pays; hooks on the network itself do not see these calls.

    The first call of a kind takes a minute or more: with gradients or without, a new size of latents. `taken` is the
    hook on the network through which rows take from others.
    """

    def __init__(self, network: torch.nn.Module, taken: RowsTaken, backend: str = "inductor") -> None:
        super().__init__()
        self._as_it_is = [network]  # in a list, and so no submodule
        self._taken = taken
        self._compiled = torch.compile(network.forward, fullgraph=True, backend=backend)
        self._sizes = set[tuple[int, ...]]()

    def forward(self, z: Tensor, *rest: Any, **named: Any) -> Any:
        """The network's output for latents (n, c, h, w), and whatever else it takes, rows first."""
        size = tuple(z.shape[1:])
        if len(z) < _FEWEST_ROWS or (size not in self._sizes and len(self._sizes) == _MOST_SIZES):
            return self._as_it_is[0].forward(z, *rest, **named)
        self._sizes.add(size)
        from torch._dynamo import mark_dynamic  # takes seconds, which no other network should pay

        rows = self._taken.rows
        if rows is None and not torch.is_grad_enabled():
            # Each its own: one graph, whether rows take from others or not.
            rows = torch.arange(len(z), device=z.device)
        # One timestep expanded to all rows has a stride of 0, for which there would be one more graph.
        z, rest, named, rows = pytree.tree_map_only(Tensor, Tensor.contiguous, (z, rest, named, rows))
        for tensor in pytree.tree_leaves((z, rest, named, rows)):
            if isinstance(tensor, Tensor):
                mark_dynamic(tensor, 0)
        with self._taken.from_rows(rows):
            return self._compiled(z, *rest, **named)
