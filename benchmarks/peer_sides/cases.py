"""What is trained: the cases of `peers.py` as settings, and the sides that train them."""

from __future__ import annotations

from ryzen_mpi.config import Settings
from ryzen_mpi.settings import load_settings

ENDLESS = "training.total_epochs=1000000 training.warmup_steps=0 training.schedule=constant"  # as the peers train
_98M = (
    "model.embedding_dim=768 model.num_layers=12 model.num_heads=12 model.feed_forward_dim=3072 "
    "model.vocab_size=16384 training.optimizer=adamw training.learning_rate=3e-4 hardware.dtype=bfloat16 "
    f"data.source=random data.num_samples=64 {ENDLESS}"
)
CASES: dict[str, tuple[str, str, int]] = {
    "scaling": ("scaling_benchmark", f"hardware.dtype=bfloat16 {ENDLESS}", 0),
    "98m": ("default", f"{_98M} model.seq_length=256 training.batch_size=2", 2),
    "98m-long": ("default", f"{_98M} model.seq_length=1024 training.batch_size=1", 2),
}
"""Profile, overrides, and the stage of ZeRO that ours runs with. Few samples, which a side that trains soon knows."""

PEERS = {
    "plain-ddp": "PyTorch: DistributedDataParallel over Gloo, autocast, fused optimiser",
    "fsdp2": "PyTorch: fully_shard layer by layer as ZeRO 2, over Gloo",
    "zero-redundancy": "PyTorch: DistributedDataParallel and ZeroRedundancyOptimizer, over Gloo",
    "accelerate": "HF Accelerate on CPU, bf16",
    "fabric": "Lightning Fabric on CPU, ddp, bf16-mixed",
    "deepspeed": "DeepSpeed ZeRO 2 on CPU, bf16, its own fused Adam, over Gloo",
}
"""What is measured against."""


def case_settings(case: str, zero_stage: int | None, overrides: list[str]) -> Settings:
    """The settings of a case; `overrides` come last. Raises UserError."""
    profile, words, stage = CASES[case]
    stage = stage if zero_stage is None else zero_stage
    return load_settings(profile, [*words.split(), f"hardware.zero_stage={stage}", *overrides])
