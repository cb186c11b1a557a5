"""The backend's name in torch.distributed, and making it known there. Light: used at every `import torch`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

NAME = "ryzen"


def register(create: Callable[..., Any]) -> bool:
    """Tells torch.distributed who makes groups of backend NAME; False where it knows already, or is missing. Local."""
    import torch.distributed as dist

    if not dist.is_available() or hasattr(dist.Backend, NAME.upper()):
        return False
    dist.Backend.register_backend(NAME, create, extended_api=True, devices=["cpu"])
    return True
