"""ZeRO trains what plain data parallelism trains, on shared memory and on ordinary collectives, however it is cut."""

import functools

import nodes
import pytest
import tiny
import torch

from ryzen_mpi.training.zero.ground import PlainGround
from ryzen_mpi.training.zero.node import NodeGround
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


def plain(model, settings, group, bucket_bytes=8192):
    return Sharded(model, settings, group, PlainGround(group), bucket_bytes)


def shared(model, settings, group, bucket_bytes=8192):
    return Sharded(model, settings, group, bucket_bytes=bucket_bytes)


def copies(model, settings, group):
    """Every two ranks of a node are on a NUMA domain of their own, as it were."""
    return Sharded(model, settings, group, bucket_bytes=8192, domain=group.collectives.locality.node.rank // 2)


@pytest.fixture(scope="module")
def data_parallel(world, group):
    """Outcomes and vectors of stage 0, by the name of a variant."""

    @functools.cache
    def run(name):
        batch, changes = VARIANTS[name]
        step = tiny.distributed(world, tiny.settings(**changes), batch)
        return tiny.run(step), tiny.vectors(step)

    return run


def equal(ours, expected, vectors, within=1e-12):
    """Trains `ours` and holds it against what stage 0 made."""
    got, held = tiny.run(ours), tiny.vectors(ours)
    for vector in vectors:
        assert tiny.largest_difference(held[vector], vectors[vector]) < within, vector
    for a, b in zip(got, expected, strict=True):
        assert a.loss == pytest.approx(b.loss, abs=within)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, abs=within)
    assert torch.equal(ours.strategy.ground.weights[: ours.strategy.layout.size], held["model"])


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("make", [plain, shared])
@pytest.mark.parametrize("name", VARIANTS)
def test_in_float64_it_equals_data_parallelism(world, data_parallel, name, make, stage):
    batch, changes = VARIANTS[name]
    ours = tiny.distributed(world, tiny.settings(hardware__zero_stage=stage, **changes), batch, strategy=make)
    assert ours.strategy.cut.buckets > 5
    equal(ours, *data_parallel(name))


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_variance_of_the_layers_gradients_is_that_of_one_rank_at_any_stage(world, group, solo, stage):
    settings = tiny.settings(hardware__zero_stage=stage, training__log_interval=2)
    (*_, alone, _), (*_, ours, last) = (
        tiny.run(tiny.alone(solo, tiny.settings(training__log_interval=2), 12), 5),
        tiny.run(tiny.distributed(world, settings, 12), 5),
    )
    assert len(ours.gradient_variance) == 5 and min(ours.gradient_variance) > 0  # token, position, two blocks, norm
    assert ours.gradient_variance == pytest.approx(alone.gradient_variance, rel=1e-9)
    assert last.gradient_variance is None


@pytest.fixture(scope="module")
def clusters(ryzen):
    """Groups by ranks a node: at 4 ranks 4x1 and 2x2, at 2 ranks 2x1 and 1x2, at 3 ranks 3x1 and 2+1."""
    with nodes.pretended(1) as one, nodes.pretended(2) as two:
        yield {1: one, 2: two}


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize(
    ("name", "per_node"),
    [*((name, 2) for name in VARIANTS), *((name, 1) for name in ("accumulation", "uneven global batch 7", "clipping"))],
)
def test_over_several_nodes_it_equals_data_parallelism(world, clusters, data_parallel, name, per_node, stage):
    (batch, changes), cluster = VARIANTS[name], clusters[per_node]
    settings = tiny.settings(hardware__zero_stage=stage, **changes)
    ours = tiny.distributed(world, settings, batch, strategy=shared, group=cluster)
    locality, ground = cluster.collectives.locality, ours.strategy.ground
    if world.size > 1 and locality.even:
        assert isinstance(ground, NodeGround) and ours.strategy.cut.nodes == locality.nodes
        assert "node memory in /dev/shm, weights once a node" in ours.strategy.description
    else:
        assert isinstance(ground, PlainGround)
        why = "the nodes hold different numbers of ranks" if world.size > 1 else "one rank"
        assert ours.strategy.description.endswith(f": {why}")
    equal(ours, *data_parallel(name))


@pytest.mark.parametrize("per_node", [2, 4])
def test_any_number_of_copies_of_the_weights_trains_the_same_bits(world, ryzen, per_node):
    with nodes.pretended(per_node) as group:
        runs = {}
        for per in ("node", "numa", "rank"):
            settings = tiny.settings(hardware__zero_stage=2, hardware__weights_per=per, training__batch_size=2)
            runs[per] = tiny.distributed(world, settings, 12, strategy=copies, group=group)
            tiny.run(runs[per])
            ground = runs[per].strategy.ground
            if isinstance(ground, NodeGround):
                local = group.collectives.locality.node.size
                wanted = {"node": 1, "numa": -(-local // 2), "rank": local}[per]
                assert len({places.data_ptr() for places in (ground.places, *ground.others)}) == wanted
                assert f"weights once a {'NUMA domain' if per == 'numa' else per}" in ground.reason
        for run in runs.values():
            assert tiny.fingerprint(run) == tiny.fingerprint(runs["node"])
            assert torch.equal(run.strategy.ground.weights, runs["node"].strategy.ground.weights)


def test_which_ground_is_used_is_said_with_the_reason(world, group):
    made = {"": tiny.settings(hardware__zero_stage=1)}
    made["distributed.arena=false"] = tiny.settings(hardware__zero_stage=1, distributed__arena=False)
    for why, settings in made.items():
        said = tiny.distributed(world, settings, 12).strategy.description
        if world.size == 1:
            assert said == "ZeRO stage 1 on this rank's own memory: one rank"
        elif why:
            assert said == f"ZeRO stage 1 on ordinary collectives, weights once a rank: {why}"
        else:
            assert said == "ZeRO stage 1 on node memory in /dev/shm, weights once a node"


def test_over_gloo_it_trains_the_same_and_says_so(world, data_parallel):
    import torch.distributed as dist

    gloo = dist.new_group(backend="gloo")
    batch, changes = VARIANTS["accumulation"]
    for stage in (1, 2):
        settings = tiny.settings(hardware__zero_stage=stage, **changes)
        ours = tiny.distributed(world, settings, batch, strategy=shared, group=gloo)
        assert ours.strategy.description.endswith("backend gloo" if world.size > 1 else "one rank")
        equal(ours, *data_parallel("accumulation"))


ACCUMULATED = dict(hardware__dtype="bfloat16", training__batch_size=1, training__clip_norm=0.05)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("make", [plain, shared])
def test_in_bfloat16_it_equals_data_parallelism_to_its_rounding(world, group, make, stage):
    """Both add up the same bfloat16 gradients in float32, in another order.

    So the first step's sums differ by float32 roundings alone: n additions err by at most n 2^-24 of the sum of
    magnitudes each (Higham 2002, section 4.2), here n = 12 micro-batches; magnitudes cancel, hence the factor 4.
    After that a master weight may round to the other bfloat16 neighbour, 2^-8 of it away, so that a gradient differs by
    some 2^-8; Adam makes steps of about the learning rate out of it: in the mean 2^-8 of the rate a step.
    """
    ours = tiny.distributed(world, tiny.settings(hardware__zero_stage=stage, **ACCUMULATED), 12, strategy=make)
    reference = tiny.distributed(world, tiny.settings(**ACCUMULATED), 12)
    a, b = ours.run(), reference.run()
    assert a.gradient_norm > ours.settings.training.clip_norm
    assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=2 * 12 * 2**-24)
    first, same = tiny.vectors(ours)["first"], tiny.vectors(reference)["first"]
    assert float(same.abs().max()) > 0
    assert tiny.largest_difference(first, same) <= 4 * 12 * 2**-24 * float(same.abs().max())
    got, expected = tiny.run(ours, tiny.STEPS - 1), tiny.run(reference, tiny.STEPS - 1)
    assert [o.loss for o in got] == pytest.approx([o.loss for o in expected], rel=2**-8)
    master, other = tiny.vectors(ours)["model"], tiny.vectors(reference)["model"]
    rates = sum(o.learning_rate for o in [a, *got])
    assert float((master.double() - other.double()).abs().mean()) <= 2**-8 * rates
    weights = ours.strategy.ground.weights[: ours.strategy.layout.size]
    assert weights.dtype == torch.bfloat16 and torch.equal(weights, master.bfloat16())
