"""PyTorch's FSDP2 as ZeRO 2 (`reshard_after_forward=False`), layer by layer, over Gloo."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from peer_sides.models import build
from peer_sides.step import PeerStep, count, make_optimizer
from ryzen_mpi.config import Settings
from ryzen_mpi.data.source import TokenSource


class Fsdp2Step(PeerStep):
    """Collective. The default process group must be Gloo's."""

    def __init__(self, settings: Settings, source: TokenSource, kind: str) -> None:
        model = build(kind, settings)
        parameters = count(model)
        narrow = torch.bfloat16 if settings.hardware.dtype == "bfloat16" else None
        policy = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32)
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for part in (*model.blocks, model):
            fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
        optimizer = make_optimizer(model, settings)  # after: it holds the shards
        rank, ranks = dist.get_rank(), dist.get_world_size()
        super().__init__(settings, source, rank, ranks, model, optimizer, parameters)
