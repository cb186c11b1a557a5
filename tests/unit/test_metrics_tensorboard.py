"""What TensorBoard's own reader finds: curves, histograms, model and settings, once after every resume."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from metrics_records import ENVIRONMENT, LAYERS, evaluation_record, sample_record, step_record
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.util import tensor_util

from ryzen_mpi.config import Settings
from ryzen_mpi.errors import UserError
from ryzen_mpi.metrics import tensorboard_file
from ryzen_mpi.metrics.record import Record
from ryzen_mpi.metrics.signals import SIGNALS, of_kind
from ryzen_mpi.metrics.sink import Sinks
from ryzen_mpi.metrics.tensorboard import open_tensorboard
from ryzen_mpi.metrics.tensorboard_sink import TensorBoardSink

PLUGINS = ("scalars", "histograms", "text", "hparams")
SETTINGS = Settings().model_dump()


def opened(folder: Path, resume_step: int = 0) -> TensorBoardSink:
    return open_tensorboard(folder, SETTINGS, "embedding 256 x 256\nblock.0", LAYERS, resume_step)


def read(folder: Path) -> EventAccumulator:
    """All of it, through the reader behind TensorBoard's pages, where every value is a tensor."""
    return EventAccumulator(str(folder), tensor_size_guidance=dict.fromkeys(PLUGINS, 0)).Reload()


def records(first: int, last: int, **changes) -> list[Record]:
    found: list[Record] = []
    for step in range(first, last + 1):
        found += [sample_record(step)] * (step % 6 == 0) + [evaluation_record(step)] * (step % 10 == 0)
        found.append(step_record(step, wall_time_s=1.7e9 + step, **changes))
    return found


def write(sink: TensorBoardSink, these: list[Record]) -> None:
    for record in these:
        sink.write(record)


def values(found: EventAccumulator, tag: str) -> dict[int, np.ndarray]:
    """Value by step; a step that comes twice is an error."""
    events = found.Tensors(tag)
    by_step = {event.step: tensor_util.make_ndarray(event.tensor_proto) for event in events}
    assert len(by_step) == len(events), tag
    return by_step


def points(found: EventAccumulator, tag: str) -> dict[int, float]:
    assert tag in found.PluginTagToContent("scalars")
    return {step: value.item() for step, value in values(found, tag).items()}


def test_every_signal_of_every_record_has_its_curve(tmp_path):
    sink = opened(tmp_path)
    write(sink, records(1, 30))
    sink.close()
    found = read(tmp_path)
    steps = [step_record(step, wall_time_s=1.7e9 + step) for step in range(1, 31)]
    samples, evaluations = map(sample_record, range(6, 31, 6)), map(evaluation_record, (10, 20, 30))
    expected: dict[str, dict[int, float]] = {}
    for kind, these in (("step", steps), ("evaluation", list(evaluations)), ("sample", list(samples))):
        for signal in of_kind(kind):
            value = (lambda r, n: r.value(n)) if kind == "sample" else getattr
            expected[f"{signal.group}/{signal.name}"] = {record.step: value(record, signal.name) for record in these}
    for signal in of_kind("rank"):
        for rank in range(4):
            told = {record.step: getattr(record, signal.name)[rank] for record in steps}
            expected[f"{signal.name}/rank/{rank}"] = {step: v for step, v in told.items() if not math.isnan(v)}
    for signal in of_kind("rank_sample"):
        for rank in range(4):
            expected[f"{signal.name}/rank/{rank}"] = {
                step: sample_record(step).value(signal.name)[rank] for step in range(6, 31, 6)
            }
    for layer, name in enumerate(LAYERS):
        expected[f"gradient_variance/{name}"] = {step: step / (layer + 1) for step in range(5, 31, 5)}
    expected = {tag: told for tag, told in expected.items() if told}  # rank_cpu_share of rank 0 is never known
    for name in ("step", "wall_time_s"):
        del expected[f"training/{name}"]
    assert set(found.PluginTagToContent("scalars")) == set(expected)
    for tag, told in expected.items():
        assert points(found, tag) == {step: pytest.approx(value + 0.0, rel=1e-6) for step, value in told.items()}, tag
    assert found.Tensors("training/loss")[2].wall_time == 1.7e9 + 3
    about = found.SummaryMetadata("training/step_s")
    assert about.summary_description == f"{SIGNALS['step_s'].description} (s)"


def test_a_loss_that_is_no_number_is_shown_and_what_is_not_known_is_left_out(tmp_path):
    sink = opened(tmp_path)
    sink.write(step_record(1, loss=math.nan, compression_ratio=math.nan, gradient_norm=math.inf))
    sink.close()
    found = read(tmp_path)
    assert math.isnan(points(found, "training/loss")[1]) and points(found, "training/gradient_norm") == {1: math.inf}
    assert "communication/compression_ratio" not in found.Tags()["tensors"]


def test_values_of_ranks_are_drawn_once_a_second(tmp_path):
    sink = opened(tmp_path)
    for step in range(1, 101):
        sink.write(step_record(step, wall_time_s=1.7e9 + step / 4))
    sink.close()
    found = read(tmp_path)
    assert list(points(found, "rank_step_s/rank/1")) == list(range(1, 101, 4))
    assert list(points(found, "training/step_s")) == list(range(1, 101))


def test_histograms_of_gradients_come_back_bin_by_bin(tmp_path):
    sink = opened(tmp_path)
    gradient = np.random.default_rng(3).normal(size=1000)
    counts, edges = np.histogram(gradient, bins=[-math.inf, -9, -2, -1, 0, 1, 2, math.inf])
    sink.histograms(50, {"block.0": (counts, edges), "head": (np.zeros(7, int), edges)})
    sink.histograms(100, {"block.0": (2 * counts, edges)})
    sink.close()
    found = read(tmp_path)
    shapes = values(found, "gradients/block.0")
    assert list(shapes) == [50, 100]
    assert shapes[50][:, 2].tolist() == counts[1:].tolist() and shapes[100][:, 2].tolist() == (2 * counts[1:]).tolist()
    assert shapes[50][:, 0].tolist() == [-9, -2, -1, 0, 1, 2] and shapes[50][:, 1].tolist() == [-2, -1, 0, 1, 2, 2]
    assert values(found, "gradients/head")[50].shape == (0, 3)
    assert set(found.PluginTagToContent("histograms")) == {"gradients/block.0", "gradients/head"}


def test_model_and_settings_are_texts_and_hyper_parameters(tmp_path):
    opened(tmp_path).close()
    found = read(tmp_path)
    assert values(found, "model")[1].item().decode() == "```\nembedding 256 x 256\nblock.0\n```"
    assert {"model", "settings"} == set(found.PluginTagToContent("text"))
    content = found.PluginTagToContent("hparams")
    session = hparams_metadata.parse_session_start_info_plugin_data(content[hparams_metadata.SESSION_START_INFO_TAG])
    assert session.hparams["training.learning_rate"].number_value == SETTINGS["training"]["learning_rate"]
    assert session.hparams["training.schedule"].string_value == "cosine"
    assert session.hparams["model.tied_head"].bool_value is True
    assert session.hparams["monitor.rules.spike"].string_value == "act"
    experiment = hparams_metadata.parse_experiment_plugin_data(content[hparams_metadata.EXPERIMENT_TAG])
    assert {info.name for info in experiment.hparam_infos} == set(session.hparams)
    assert [info.name.tag for info in experiment.metric_infos] == ["training/loss", "evaluation/held_out_loss"]


def test_after_a_resume_nothing_shows_twice_and_what_was_undone_not_at_all(tmp_path):
    for resume, last, loss in ((0, 50, 9.0), (40, 60, 8.0), (40, 45, 7.0)):
        sink = opened(tmp_path, resume)
        write(sink, records(resume + 1, last, loss=loss))
        sink.histograms(last, {"head": (np.ones(2), np.arange(3))})
        sink.close()
    found = read(tmp_path)
    assert points(found, "training/loss") == {step: 9.0 if step <= 40 else 7.0 for step in range(1, 46)}
    assert list(points(found, "system/acts")) == [6, 12, 18, 24, 30, 36, 42]
    assert list(points(found, "evaluation/held_out_loss")) == [10, 20, 30, 40]
    assert list(values(found, "gradients/head")) == [45]
    assert list(values(found, "model")) == [1, 41]
    older = event_accumulator.EventAccumulator(str(tmp_path), {"scalars": 0, "histograms": 0}).Reload()
    assert [event.step for event in older.Scalars("training/loss")] == list(range(1, 46))
    assert [event.step for event in older.Histograms("gradients/head")] == [45]


def test_a_run_that_starts_anew_in_the_same_folder_shows_alone(tmp_path):
    for loss in (9.0, 8.0):
        sink = opened(tmp_path)
        write(sink, records(1, 20, loss=loss))
        sink.close()
    assert points(read(tmp_path), "training/loss") == dict.fromkeys(range(1, 21), 8.0)


def test_a_full_disk_is_told_once_and_stops_nothing(tmp_path):
    source = textwrap.dedent(f"""
        import resource, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_metrics_tensorboard import opened, records
        from ryzen_mpi.metrics.sink import Sinks
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        told = []
        sinks = Sinks([opened(Path(sys.argv[1]))], told.append)
        for record in records(1, 200):
            sinks.write(record)
            sinks.flush()
        sinks.close()
        print(len(told), *told)
    """)
    command = [sys.executable, "-c", source, tmp_path]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith("1 metrics: TensorBoardSink failed and is dropped; training goes on (OSError")
    assert done.stderr == ""
    assert len(points(read(tmp_path), "training/loss")) > 20


def test_a_disk_that_does_not_answer_stops_nothing(tmp_path, monkeypatch):
    told, answers = [], threading.Event()
    sink = opened(tmp_path)
    sink._file.put(lambda: Event(step=1) if answers.wait(60) else None)
    monkeypatch.setattr(tensorboard_file, "MOST_WAITING", 10)
    monkeypatch.setattr(tensorboard_file, "PATIENCE_S", 0)
    sinks = Sinks([sink], told.append)
    for record in records(1, 100):
        sinks.write(record)
    sinks.close()
    answers.set()
    assert len(told) == 1 and "10 events wait for the disk" in told[0]


def test_figures_may_be_numpys(tmp_path):
    sink = opened(tmp_path)
    ranks = np.arange(4, dtype=np.float32)
    sink.write(step_record(1, loss=np.float32(0.5), samples=np.int64(64), skipped=np.bool_(True), rank_step_s=ranks))
    sink.close()
    found = read(tmp_path)
    assert points(found, "training/loss") == {1: 0.5} and points(found, "training/skipped") == {1: 1.0}
    assert points(found, "training/samples") == {1: 64.0} and points(found, "rank_step_s/rank/3") == {1: 3.0}


def test_a_missing_package_is_a_user_error_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "ryzen_mpi.metrics.tensorboard_sink")
    monkeypatch.delitem(sys.modules, "ryzen_mpi.metrics.tensorboard_file")
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(UserError, match="the package tensorboard cannot be used") as refusal:
        opened(tmp_path)
    assert "pip install 'ryzen_mpi[tensorboard]'" in refusal.value.hint


def test_a_folder_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        opened(tmp_path / "tensorboard")


def test_the_sink_needs_neither_torch_nor_tensorflow_and_the_way_to_it_nothing_heavy():
    for imports, heavy in (
        ("ryzen_mpi.metrics.tensorboard", "[]"),
        ("ryzen_mpi.metrics.tensorboard_sink", "['tensorboard']"),
    ):
        source = (
            f"import sys, {imports}; print(sorted({{'torch', 'tensorflow', 'grpc', 'tensorboard'}} & set(sys.modules)))"
        )
        command = [sys.executable, "-c", source]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.strip() == heavy
