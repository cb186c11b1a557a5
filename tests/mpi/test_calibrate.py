"""A calibration of a tiny model by real launches, and what is predicted from it."""

import json

import numpy as np
import pytest

from ryzen_mpi.scaling.calibrate import calibrate, checkpoint
from ryzen_mpi.scaling.calibration import read
from ryzen_mpi.scaling.draws import draw
from ryzen_mpi.scaling.outlook import Question, answer
from ryzen_mpi.scaling.simulate import traffic
from ryzen_mpi.settings import load_settings

TINY = (
    *("model.vocab_size=61", "model.embedding_dim=32", "model.num_heads=2", "model.num_layers=1"),
    *("model.feed_forward_dim=64", "model.seq_length=16", "training.batch_size=4", "hardware.num_threads=1"),
)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    folder, told = tmp_path_factory.mktemp("calibration"), []
    calibrate("scaling_benchmark", TINY, folder, launches=2, rounds=2, steps=2, tell=told.append).write(
        folder / "c.json"
    )
    assert not list(folder.glob("probe-*"))  # probes leave nothing
    return read(folder / "c.json"), told


def test_every_launch_measured_what_it_was_asked_for(calibrated):
    found, told = calibrated
    one, two = ([launch for launch in found.launches if launch["ranks"] == ranks] for ranks in (1, 2))
    assert len(one) >= 2 and len(two) == 2 and told[0].startswith("launch 1 of 4: 1 ranks")
    for launch in one[:2]:
        assert set(launch["cells"]) == {f"alone:{share}" for share in (1, 2, 4, 8)}
        assert np.shape(launch["cells"]["alone:4"]["rank_s"]) == (1, 2, 2)
    for launch in two:
        names = {f"{kind}:{share}" for kind in ("beside", "together") for share in (1, 2, 4, 8)}
        assert set(launch["cells"]) == names | {"shared together:4", "shared beside:4"}
        assert np.shape(launch["cells"]["beside:8"]["rank_s"]) == (2, 2, 2) and launch["backend"] == "mpi"
        assert len(launch["collective"]) >= 1 and launch["collective"][0]["bytes"] >= 65536
        assert set(launch["compression"]) == {"none", "bfloat16", "float16", "powersgd", "topk"}
        seconds = [second for cell in launch["cells"].values() for rank in cell["rank_s"] for second in np.ravel(rank)]
        assert min(seconds) > 0
    assert checkpoint(found)[0] > 0 and checkpoint(found)[1] > 10000


def test_what_is_predicted_from_it_is_finite_and_in_bounds(calibrated):
    found, _ = calibrated
    settings = load_settings("scaling_benchmark", TINY)
    values = draw(found, traffic(settings, 1, 1)[0], 20)
    assert all(0 < seconds < 10 for seconds in values[0].step_s) and 0 <= values[0].theta <= 1
    told = json.loads(json.dumps(answer(found, settings, Question((1, 4, 64, 4096), draws=20, mtbf_hours=1000.0))))
    for row in told["rows"]:
        assert 0 < row["throughput"]["low"] <= row["throughput"]["value"] and row["saving"]["interval_s"] > 0
        assert 0 < row["efficiency"]["value"] <= 1.0 + 1e-9
    assert told["documents"]["misses"] and "1" in told["by_threads"]
