"""TensorBoard, an extra: opened where monitor.tensorboard asks for it, refused with a hint where it is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ryzen_mpi.errors import UserError

if TYPE_CHECKING:
    from ryzen_mpi.metrics.tensorboard_sink import TensorBoardSink


def open_tensorboard(
    folder: Path, settings: Mapping[str, Any], model_text: str, layers: Sequence[str], resume_step: int = 0
) -> TensorBoardSink:
    """The sink for TensorBoard; its arguments are those of TensorBoardSink. Rank 0.

    Raises UserError where the package is missing or cannot be used, and where `folder` cannot be written.
    """
    try:
        from ryzen_mpi.metrics.tensorboard_sink import TensorBoardSink
    except Exception as error:  # not only ImportError: protobuf refuses its own other versions with errors of its own
        raise UserError(
            f"monitor.tensorboard=true, but the package tensorboard cannot be used ({error})",
            "pip install 'ryzen_mpi[tensorboard]', or leave it out: monitor.tensorboard=false",
        ) from error
    try:
        return TensorBoardSink(folder, settings, model_text, layers, resume_step)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written: {error.strerror or error}",
            "check the rights of the run directory and the space on its disk",
        ) from error
