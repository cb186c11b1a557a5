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
    order: int = 0
    """Of the parameter in the model."""

    @property
    def end(self) -> int:
        return self.offset + self.shape.numel()

    @property
    def room(self) -> int:
        """End of what it takes, where the next one begins."""
        return -(-self.end // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Layout:
    """Where the trained parameters of a model lie in a flat vector; a function of their names and shapes alone.

    Attributes:
        places: in the order in which backward reaches them, those that decay first.
        size: elements of the vector.
        decayed: length of the front part that weight decay applies to (matrices; not norms).
    """

    places: tuple[Place, ...]
    size: int
    decayed: int

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """That of a model's parameters, those that are frozen left out, shared ones once."""
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        order = {name: number for number, name in enumerate(trained)}
        ordered = sorted(list(trained)[::-1], key=lambda name: trained[name].ndim < 2)  # stable
        places: list[Place] = []
        size = decayed = 0
        for name in ordered:
            places.append(Place(name, size, trained[name].shape, order[name]))
            size = places[-1].room
            if trained[name].ndim >= 2:
                decayed = size
        return cls(tuple(places), size, decayed)

    def gaps(self) -> list[tuple[int, int]]:
        """Begin and end of what lies between the parameters and is zero in every vector."""
        return [(place.end, place.room) for place in self.places if place.end < place.room]


def _private(size: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(size, dtype=dtype)


def trained_parameters(model: nn.Module, compute: torch.dtype) -> dict[str, nn.Parameter]:
    """Those of a layout, by name; the frozen ones get memory of the precision the model computes in."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = torch.empty(parameter.shape, dtype=compute)
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


class FlatParameters:
    """Flat vectors for the parameters of `model`, whose own tensors become views; their values are not taken over.

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
        self.layout = Layout.of(model)
        self.parameters = trained_parameters(model, compute)
        self.places, self.decayed, size = self.layout.places, self.layout.decayed, self.layout.size
        self.master = torch.zeros(size, dtype=wide)
        self.gradient = (gradient_memory or _private)(size, wide)
        self.working = self.master if compute == wide else torch.zeros(size, dtype=compute)
        self._offsets = {place.name: place.offset for place in self.places}
        for place in self.places:
            self.parameters[place.name].data = self.view(self.working, place)

    def put(self, name: str, begin: int, values: Tensor) -> None:
        """Values of a parameter from its element `begin` on, into master."""
        start = self._offsets[name] + begin
        self.master[start : start + values.numel()].copy_(values.view(-1))

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


def layers_of(layout: Layout) -> dict[str, list[int]]:
    """Numbers of a layout's places by layer: `token`, `position`, `blocks.0`, ..., in the model's order."""
    layers: dict[str, list[int]] = {}
    for number, place in sorted(enumerate(layout.places), key=lambda item: item[1].order):
        parts = place.name.split(".")
        layers.setdefault(".".join(parts[:2]) if parts[0] == "blocks" else parts[0], []).append(number)
    return layers
