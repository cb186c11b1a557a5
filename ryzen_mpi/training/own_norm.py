"""The norm of a rank's own gradient, before the ranks' are added up: what tells which rank a bad one came from.

Of every parameter a stretch is looked at, another one at every step: at most BYTES of the whole gradient, so that it
costs less than a hundredth of a step, whatever the model. After the reduction it would be too late: a NaN of one rank
is everybody's then.
"""

from __future__ import annotations

from torch import Tensor, nn

from ryzen_mpi.training.strategy import square_sum

BYTES = 2 << 20
LEAST = 1024
"""Elements of a parameter that are looked at in any case: calling the kernel costs as much."""


class OwnNorm:
    """Adds up squares while backward delivers. Made before the strategy, whose hooks take the gradients away. Local.

    Attributes:
        square: estimate of the squared L2 norm of what was delivered since `begin`; that of several micro-batches is
            the sum of theirs.
    """

    def __init__(self, model: nn.Module) -> None:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        whole = sum(parameter.numel() for parameter in parameters)
        self.square, self._step = 0.0, 0
        self._hooks = []
        for parameter in parameters:
            looked_at = min(parameter.numel(), max(LEAST, parameter.numel() * (BYTES // 4) // whole))
            hook = self._hook(parameter.numel(), looked_at)
            self._hooks.append(parameter.register_post_accumulate_grad_hook(hook))

    def remove(self) -> None:
        """Looks no more: the bare side of benchmarks."""
        for hook in self._hooks:
            hook.remove()

    def begin(self, step: int) -> None:
        """A step starts; its number tells which stretches are looked at."""
        self.square, self._step = 0.0, step

    def _hook(self, size: int, length: int):
        turns = -(-size // length)

        def add(parameter: Tensor) -> None:
            start = min(self._step % turns * length, size - length)
            stretch = parameter.grad.view(-1)[start : start + length]
            self.square += square_sum(stretch) * (size / length)

        return add
