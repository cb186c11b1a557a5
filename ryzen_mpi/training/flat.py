"""All parameters in one flat vector, all gradients in another.

One vector means one fused optimiser call, one norm, contiguous buckets to reduce, and later one arena that the ranks of
a node share. Under bfloat16 the model computes with a rounded copy while master weights and moments stay float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ALIGNMENT = 64
"""Elements a parameter's place is rounded up to, so that vector loads never straddle two parameters."""


@dataclass(frozen=True)
class Place:
    """Where a parameter lies in the flat vectors."""

    name: str
    offset: int
    shape: torch.Size

    @property
    def end(self) -> int:
        return self.offset + self.shape.numel()


def _private(size: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(size, dtype=dtype)


class FlatParameters:
    """The parameters of `model`, moved into flat vectors; the model's own tensors become views.

    `gradient_memory(size, dtype)` gives the zeroed memory of the gradient: in an arena, or this rank's own.

    Attributes:
        master: [size] weights the optimiser updates (float32, or float64 for a float64 computation).
        working: [size] weights the model computes with; `master` itself unless the computation is bfloat16.
        gradient: [size] in master's precision; sums of what backward delivered.
        places: in the order in which backward reaches them, those that decay first.
        decayed: length of the front part that weight decay applies to (matrices; not norms).
    """

    def __init__(
        self,
        model: nn.Module,
        compute: torch.dtype,
        gradient_memory: Callable[[int, torch.dtype], Tensor] | None = None,
    ) -> None:
        wide = torch.promote_types(compute, torch.float32)
        self.parameters = dict(model.named_parameters())
        backward_order = list(self.parameters)[::-1]
        ordered = sorted(backward_order, key=lambda name: self.parameters[name].ndim < 2)  # stable
        self.places: list[Place] = []
        size = 0
        self.decayed = 0
        for name in ordered:
            parameter = self.parameters[name]
            self.places.append(Place(name, size, parameter.shape))
            size += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
            if parameter.ndim >= 2:
                self.decayed = size
        self.master = torch.zeros(size, dtype=wide)
        self.gradient = (gradient_memory or _private)(size, wide)
        self.working = self.master if compute == wide else torch.zeros(size, dtype=compute)
        for place in self.places:
            parameter = self.parameters[place.name]
            self.view(self.master, place).copy_(parameter.data)
            parameter.data = self.view(self.working, place)
        self.publish()

    @staticmethod
    def view(vector: Tensor, place: Place) -> Tensor:
        """The part of a flat `vector` at `place`, in the parameter's shape."""
        return vector[place.offset : place.end].view(place.shape)

    def publish(self) -> None:
        """Rounds master into what the model computes with."""
        if self.working is not self.master:
            self.working.copy_(self.master)

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """Views of `vector` by parameter name."""
        return {place.name: self.view(vector, place) for place in self.places}
