"""ZeRO trains what plain data parallelism trains, on shared memory and on ordinary collectives, however it is cut."""

import functools

import pytest
import tiny
import torch

from ryzen_mpi.training.zero.ground import PlainGround
from ryzen_mpi.training.zero.sharded import Sharded

VARIANTS = {
    "one micro-batch": (12, {}),
    "accumulation": (12, dict(training__batch_size=1)),
    "uneven global batch 7": (7, dict(training__batch_size=2)),
    "a rank without a sample in the last step": (12, dict(data__num_samples=49)),
    "dropout, recomputed": (12, dict(model__dropout=0.1, hardware__gradient_checkpoint=True)),
    "untied head": (12, dict(model__tied_head=False)),
    "clipping": (12, dict(training__clip_norm=0.05, training__batch_size=2)),
    "no clipping, Adam": (12, dict(training__clip_norm=0.0, training__optimizer="adam")),
}


def plain(model, settings, group, bucket_bytes):
    return Sharded(model, settings, group, PlainGround(group), bucket_bytes)


def shared(model, settings, group, bucket_bytes):
    return Sharded(model, settings, group, bucket_bytes=bucket_bytes)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("make", [plain, shared])
@pytest.mark.parametrize("name", VARIANTS)
def test_in_float64_it_equals_data_parallelism(world, group, solo, name, make, stage):
    batch, changes = VARIANTS[name]
    strategy = functools.partial(make, bucket_bytes=8192)
    ours = tiny.distributed(world, tiny.settings(hardware__zero_stage=stage, **changes), batch, strategy=strategy)
    reference = tiny.distributed(world, tiny.settings(**changes), batch)
    assert ours.strategy.cut.buckets > 5
    got, expected = tiny.run(ours), tiny.run(reference)
    assert tiny.largest_vector_difference(ours, reference) < 1e-12
    for a, b in zip(got, expected, strict=True):
        assert a.loss == pytest.approx(b.loss, abs=1e-12)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, abs=1e-12)
    assert torch.equal(ours.strategy.ground.weights[: ours.strategy.layout.size], tiny.vectors(ours)["model"])
