"""C5: ranks played by one process leave the same bits as real ones under mpirun."""

import json

import pytest
from launch import checkpoint_bytes, metrics, mpirun, overrides, refused_with, run, train

STEPS = 7
# 80 samples: the last step is uneven or leaves a rank without one; two micro-batches; clipping acts in every step
WORDS = overrides(
    data__num_samples=80,
    training__batch_size=2,
    training__gradient_accumulation_steps=2,
    training__clip_norm=0.05,
    training__max_steps=STEPS,
    training__save_interval=5,
    training__log_interval=2,
    model__dropout=0.1,
    hardware__num_threads=1,
)


def trained(folder, name, ranks, *words):
    """A finished run of `ranks` processes: its directory and what it said."""
    return folder / name, run(mpirun(ranks, *train(folder / name, *WORDS, *words)), folder).succeeded()


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The directory of a run of so many real ranks, made once."""
    made, folder = {}, tmp_path_factory.mktemp("real")

    def of(ranks, backend="mpi"):
        if (ranks, backend) not in made:
            made[ranks, backend] = trained(folder, f"{backend}-{ranks}", ranks, f"distributed.backend={backend}")[0]
        return made[ranks, backend]

    return of


def assert_same_bits(ours, theirs):
    last = max(int(path.name.partition("-")[2]) for path in (theirs / "checkpoints").glob("step-*"))
    for step in (5, last):
        assert checkpoint_bytes(ours, step) == checkpoint_bytes(theirs, step) != {}
    mine, other = metrics(ours), metrics(theirs)
    for name in ("training/loss", "training/gradient_norm", "training/accuracy", "evaluation/held_out_loss"):
        assert mine[name].tobytes() == other[name].tobytes(), name


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_virtual_ranks_leave_the_bits_of_real_ranks(real, tmp_path, ranks):
    ours, _ = trained(tmp_path, "virtual", 1, f"training.virtual_ranks={ranks}")
    assert_same_bits(ours, real(ranks))


def test_gloo_leaves_the_same_bits_at_two_ranks_where_no_order_can_matter(real, tmp_path):
    ours, job = trained(tmp_path, "virtual", 1, "training.virtual_ranks=2")
    assert_same_bits(ours, real(2, "gloo"))
    assert "2 virtual ranks on 1 node" in job.out and "x 2 virtual ranks" in job.out, job.said()
    assert "computing with 1 thread(s) as real ones would" in job.out, job.said()
    assert "played by one process" in job.out[job.out.index("summary") :], job.said()
    assert json.loads((ours / "COMPLETE.json").read_text())["virtual_ranks"] == 2


def test_real_ranks_resumed_by_virtual_ones_go_on_bit_for_bit(real, tmp_path):
    words = [f"training.max_steps={STEPS}", "training.virtual_ranks=3"]
    command = train(tmp_path / "on", "--resume", str(real(3) / "checkpoints/step-00000005"), *WORDS, *words)
    run(mpirun(1, *command), tmp_path).succeeded()
    assert checkpoint_bytes(tmp_path / "on", STEPS) == checkpoint_bytes(real(3), STEPS) != {}


def test_virtual_ranks_beside_real_ones_are_refused_once(tmp_path):
    job = run(mpirun(2, *train(tmp_path / "run", *WORDS, "training.virtual_ranks=2")), tmp_path)
    refused_with(job, "plays all ranks in one process, and 2 processes started")
