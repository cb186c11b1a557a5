"""The sink for TensorBoard: curves, histograms of gradients, the model and the settings. Needs the package tensorboard.

Tags: "training/loss", that is group and name of the signal; "rank_step_s/rank/3"; "gradient_variance/blocks.0";
"gradients/blocks.0" for the histograms; "model" and "settings" are texts, and the settings are hyper-parameters too.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.histogram_pb2 import HistogramProto
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.text import metadata as text_metadata

from ryzen_mpi.metrics.record import EvaluationRecord, Record, SampleRecord, StepRecord
from ryzen_mpi.metrics.signals import SIGNALS, Kind, Signal, of_kind
from ryzen_mpi.metrics.tensorboard_file import EventFile

RANKS_S = 1.0
"""Values a rank and step are shown at most this often: TensorBoard draws 1000 points of a curve, and there are many."""
_SHOWN_AS_NAN = ("loss", "perplexity", "gradient_norm", "held_out_loss")
_KINDS: dict[type, tuple[Kind, ...]] = {
    StepRecord: ("step", "rank", "layer"),
    EvaluationRecord: ("evaluation",),
    SampleRecord: ("sample", "rank_sample"),
}
# an axis of its own for each step already
_NOT_CURVES = ("step", "wall_time_s")


class TensorBoardSink:
    """Writes event files to `folder`, a new one each time it is opened. Local; rank 0 has it.

    What is in the folder of steps after `resume_step` is undone for readers: by a mark in the new file.

    Args:
        folder: the run's `tensorboard` directory.
        settings: the run's settings, nested as they are.
        model_text: the model in words.
        layers: what `gradient_variance` has a value for, in its order.
        resume_step: the step the training goes on from; 0 at the start of a run.

    Raises OSError where the folder cannot be written.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], model_text: str, layers: Sequence[str], resume_step: int = 0
    ) -> None:
        self._layers = list(layers)
        self._described: set[str] = set()
        self._ranks_at = -math.inf
        self._file = EventFile(Path(folder))
        self._file.put(lambda: self._restart(resume_step))
        # as of the first step that is trained now, so that the mark of a later resume undoes them, too
        texts = {"model": model_text, "settings": json.dumps(settings, indent=2, default=str)}
        about = [_text(tag, text) for tag, text in texts.items()] + _hyper_parameters(settings)
        self._file.put(lambda: _event(resume_step + 1, time.time(), about))

    def write(self, record: Record) -> None:
        """Has every figure of `record` drawn. Raises what went wrong with those before."""
        self._file.put(lambda: self._drawn(record))

    def histograms(self, step: int, histograms: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Has the gradients of step `step` drawn: of each layer counts of shape (bins,) and edges of (bins + 1,).

        The outermost edges may be infinite. Raises what went wrong with those before.
        """
        shapes = dict(histograms)
        self._file.put(
            lambda: _event(step, time.time(), [_histogram(f"gradients/{layer}", *shapes[layer]) for layer in shapes])
        )

    def flush(self) -> None:
        """Returns when everything is in the file."""
        self._file.flush()

    def close(self) -> None:
        """Has everything in the file, and closes it; harmless when repeated."""
        self._file.close()

    # -- in the thread of the file, one after the other ----------------------------------------------------------------

    def _restart(self, step: int) -> Event:
        self._ranks_at = -math.inf
        return Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def _drawn(self, record: Record) -> Event:
        wall_time_s = time.time() if isinstance(record, EvaluationRecord) else record.wall_time_s
        kinds = _KINDS[type(record)]
        if "rank" in kinds and wall_time_s < self._ranks_at + RANKS_S:
            kinds = tuple(kind for kind in kinds if kind != "rank")
        elif "rank" in kinds:
            self._ranks_at = wall_time_s
        values = [
            self._scalar(tag, signal, value)
            for signal in of_kind(*kinds)
            if signal.name not in _NOT_CURVES
            for tag, value in self._tagged(signal, _value(record, signal))
            if value == value or signal.name in _SHOWN_AS_NAN
        ]
        return _event(record.step, wall_time_s, values)

    def _tagged(self, signal: Signal, value: float | Sequence[float] | None) -> Iterator[tuple[str, float]]:
        if signal.kind == "layer":
            for layer, one in zip(self._layers, () if value is None else value, strict=False):
                yield f"{signal.name}/{layer}", one
        elif signal.kind in ("rank", "rank_sample"):
            for rank, one in enumerate(value):
                yield f"{signal.name}/rank/{rank}", one
        else:
            yield curve(signal), value

    def _scalar(self, tag: str, signal: Signal, value: float) -> Summary.Value:
        """A point; the first of a curve carries its description."""
        if tag in self._described:
            return Summary.Value(tag=tag, simple_value=value)
        self._described.add(tag)
        unit = "" if signal.unit == "1" else f" ({signal.unit})"
        about = SummaryMetadata(display_name=tag, summary_description=f"{signal.description}{unit}")
        about.plugin_data.plugin_name = "scalars"
        return Summary.Value(tag=tag, simple_value=value, metadata=about)


def curve(signal: Signal) -> str:
    """The tag of a signal with one value."""
    return f"{signal.group}/{signal.name}"


def _event(step: int, wall_time_s: float, values: list[Summary.Value]) -> Event:
    return Event(wall_time=wall_time_s, step=step, summary=Summary(value=values))


def _value(record: Record, signal: Signal) -> Any:
    return record.value(signal.name) if isinstance(record, SampleRecord) else getattr(record, signal.name)


def _text(tag: str, text: str) -> Summary.Value:
    """A text shown as it is, in a block of code."""
    fenced = f"```\n{text}\n```".encode()
    return Summary.Value(
        tag=tag,
        metadata=text_metadata.create_summary_metadata(tag, ""),
        tensor=TensorProto(dtype=DT_STRING, tensor_shape=TensorShapeProto(), string_val=[fenced]),
    )


def _histogram(tag: str, counts: np.ndarray, edges: np.ndarray) -> Summary.Value:
    """In the older of TensorBoard's two forms: only that one is undone by the mark of a restart in all its readers."""
    counts, edges = np.asarray(counts, np.float64), np.array(edges, np.float64)
    finite = edges[np.isfinite(edges)]
    edges = np.clip(edges, finite.min(initial=math.inf), finite.max(initial=-math.inf))
    filled = np.flatnonzero(counts)
    shape = HistogramProto(num=counts.sum())
    if len(filled):
        first, last = filled[0], filled[-1]
        shape.min, shape.max = edges[first], edges[last + 1]
        shape.bucket.extend(counts[first : last + 1].tolist())
        shape.bucket_limit.extend(edges[first + 1 : last + 2].tolist())
    return Summary.Value(tag=tag, histo=shape)


def _hyper_parameters(settings: Mapping[str, Any]) -> list[Summary.Value]:
    """The settings for TensorBoard's table of hyper-parameters, beside the losses that came of them."""
    plain = dict(_flat(settings))
    session = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    infos = []
    for name, value in plain.items():
        kind = "bool" if isinstance(value, bool) else "number" if isinstance(value, (int, float)) else "string"
        setattr(session.hparams[name], f"{kind}_value", value)
        types = {"bool": api_pb2.DATA_TYPE_BOOL, "number": api_pb2.DATA_TYPE_FLOAT64}
        infos.append(api_pb2.HParamInfo(name=name, type=types.get(kind, api_pb2.DATA_TYPE_STRING)))
    losses = [api_pb2.MetricName(tag=curve(SIGNALS[name])) for name in ("loss", "held_out_loss")]
    experiment = api_pb2.Experiment(hparam_infos=infos, metric_infos=[api_pb2.MetricInfo(name=tag) for tag in losses])
    return [
        Summary.Value(
            tag=tag, metadata=hparams_metadata.create_summary_metadata(data), tensor=hparams_metadata.NULL_TENSOR
        )
        for tag, data in (
            (hparams_metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment)),
            (hparams_metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=session)),
        )
    ]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, bool | int | float | str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, (bool, int, float, str)) else str(value)
