"""Libraries on top of PyTorch: HF Accelerate, Lightning Fabric, DeepSpeed; each starts its process group itself.

They find each other by MASTER_ADDR and the like, which `serve` sets. What their own documentation says of CPUs:
Accelerate (usage guide "Training on Intel CPU"): `cpu=True`, bfloat16, threads divided among the ranks. Fabric: `ddp`
on accelerator `cpu`, `bf16-mixed`. DeepSpeed (accelerator setup guide): a rank's cores bound, a compiler for its own
fused Adam, bfloat16; Gloo where oneCCL's bindings, which have come to their end, are not installed.
"""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

from peer_sides.models import build
from peer_sides.step import PeerStep, count, make_optimizer
from ryzen_mpi.cluster.world import World
from ryzen_mpi.config import Settings
from ryzen_mpi.data.source import TokenSource


class AccelerateStep(PeerStep):
    """HF Accelerate over DDP."""

    def __init__(self, world: World, settings: Settings, source: TokenSource, kind: str) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs

        inner = build(kind, settings)
        self.accelerator = Accelerator(
            cpu=True,
            mixed_precision="bf16" if settings.hardware.dtype == "bfloat16" else "no",
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )
        model, optimizer = self.accelerator.prepare(inner, make_optimizer(inner, settings))
        super().__init__(settings, source, world.rank, world.size, model, optimizer, count(inner))

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def clip(self, most: float) -> None:
        self.accelerator.clip_grad_norm_(self.model.parameters(), most)


class FabricStep(PeerStep):
    """Lightning Fabric over DDP."""

    def __init__(self, world: World, settings: Settings, source: TokenSource, kind: str) -> None:
        from lightning.fabric import Fabric
        from lightning.fabric.plugins.environments import LightningEnvironment
        from lightning.fabric.strategies import DDPStrategy

        inner = build(kind, settings)
        self.fabric = Fabric(
            accelerator="cpu",
            devices=world.local_size,
            num_nodes=world.nodes,
            strategy=DDPStrategy(
                cluster_environment=LightningEnvironment(),
                process_group_backend="gloo",
                gradient_as_bucket_view=True,
            ),
            precision="bf16-mixed" if settings.hardware.dtype == "bfloat16" else "32-true",
        )
        self.fabric.launch()
        model, optimizer = self.fabric.setup(inner, make_optimizer(inner, settings))
        super().__init__(settings, source, world.rank, world.size, model, optimizer, count(inner))

    def backward(self, loss: Tensor) -> None:
        self.fabric.backward(loss)

    def clip(self, most: float) -> None:
        self.fabric.clip_gradients(self.model, self.optimizer, max_norm=most)


class DeepSpeedStep(PeerStep):
    """DeepSpeed's ZeRO 2. Its step clips, updates, gathers the weights and drops the gradients, all in one."""

    def __init__(self, world: World, settings: Settings, source: TokenSource, kind: str) -> None:
        import deepspeed

        deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
        world.exchange.allgather(None)  # all have mapped DeepSpeed's shared buffers, whose files it never removes
        for path in Path("/dev/shm").glob(f"deepspeed_*_{os.environ['MASTER_PORT']}_{world.rank}"):
            path.unlink()
        inner = build(kind, settings)
        parameters = count(inner)
        engine, optimizer, _, _ = deepspeed.initialize(
            model=inner, model_parameters=inner.parameters(), config=deepspeed_config(settings, world.size)
        )
        super().__init__(settings, source, world.rank, world.size, engine, optimizer, parameters)

    def backward(self, loss: Tensor) -> None:
        self.model.backward(loss)

    def clip(self, most: float) -> None:
        pass

    def update(self) -> None:
        self.model.step()

    def clear(self) -> None:
        pass


def deepspeed_config(settings: Settings, ranks: int) -> dict:
    """DeepSpeed's settings for the same step as ours. Pure."""
    training = settings.training
    return {
        "train_batch_size": training.batch_size * ranks,
        "train_micro_batch_size_per_gpu": training.batch_size,
        "optimizer": {
            "type": "AdamW" if training.optimizer == "adamw" else "Adam",
            "params": {
                "lr": training.learning_rate,
                "betas": [training.beta1, training.beta2],
                "weight_decay": training.weight_decay,
            },
        },
        "bf16": {"enabled": settings.hardware.dtype == "bfloat16"},
        "zero_optimization": {"stage": 2},
        "gradient_clipping": training.clip_norm,
        "steps_per_print": 2**31,
    }
