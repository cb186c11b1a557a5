"""The file a simulation starts from: what was measured, launch by launch, or figures a person gives by hand.

A measured file carries the hash of its content: one that was changed is refused. By hand, `parameters` stands in place
of `launches`, and no hash is needed: it claims to be nobody's measurement.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ryzen_mpi.config import Settings
from ryzen_mpi.errors import UserError
from ryzen_mpi.rundir import write_atomic
from ryzen_mpi.sealing import digest

FORMAT = 1
KIND = "ryzen_mpi calibration"
WHAT_COUNTS = ("model", "hardware.dtype", "hardware.gradient_checkpoint", "hardware.attention", "hardware.compile",
               "training.batch_size", "training.optimizer", "hardware.max_seq_length")  # fmt: skip
"""Settings a step's duration depends on: a calibration of others says nothing of it."""


class Amount(BaseModel):
    """A figure with the bounds of its 95 % interval."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    value: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    low: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    high: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _in_order(self) -> Amount:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"low {self.low:g}, value {self.value:g}, high {self.high:g} are not in this order")
        return self


def _amount(value: Any) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {"value": value, "low": value, "high": value} if number else value


Given = Annotated[Amount, BeforeValidator(_amount)]


class Parameters(BaseModel):
    """What a person gives by hand; every figure a number or {"value", "low", "high"}.

    Attributes:
        step_s: seconds of a step of one rank alone, by its samples.
        update_s: of the optimiser's update in it.
        contention: how much longer, as a share, for each other rank of the node that computes.
        sharing: of two ranks on one core: the time of both over twice the time of one.
        node_latency_s, node_s_per_byte: of the all-reduce of two ranks of a node.
        network_latency_s, network_s_per_byte: of a message between nodes (Hockney 1994).
        overhead_s, overhead_shared_s: what a step of several ranks takes beyond that; where cores are shared.
        straggler_quantiles: log ratios of step times to the usual one, ascending, at equal distances.
        straggler_theta: 0 where all ranks are slow together, 1 where independently.
        launch_spread: standard deviation of the log of a launch's speed.
        compression_s_per_byte: of compressing and decompressing a gradient byte, by method.
        checkpoint_s: seconds of writing one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    step_s: Annotated[dict[int, Given], Field(min_length=1)]
    update_s: Given = Amount(value=0, low=0, high=0)
    contention: Given = Amount(value=0, low=0, high=0)
    sharing: Given = Amount(value=1, low=1, high=1)
    node_latency_s: Given = Amount(value=0, low=0, high=0)
    node_s_per_byte: Given
    network_latency_s: Given | None = None
    network_s_per_byte: Given | None = None
    overhead_s: Given = Amount(value=0, low=0, high=0)
    overhead_shared_s: Given = Amount(value=0, low=0, high=0)
    straggler_quantiles: Annotated[tuple[float, ...], Field(min_length=2)] = (0.0, 0.0)
    straggler_theta: Given = Amount(value=1, low=1, high=1)
    launch_spread: Annotated[float, Field(ge=0, le=1)] = 0.0
    compression_s_per_byte: dict[str, Given] = {}
    checkpoint_s: Given | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Parameters:
        if any(share < 1 for share in self.step_s) or any(amount.low <= 0 for amount in self.step_s.values()):
            raise ValueError("step_s needs at least 1 sample and times above 0")
        if list(self.straggler_quantiles) != sorted(self.straggler_quantiles):
            raise ValueError("straggler_quantiles are not ascending")
        if (self.network_latency_s is None) != (self.network_s_per_byte is None):
            raise ValueError("network_latency_s and network_s_per_byte belong together")
        if self.straggler_theta.high > 1:
            raise ValueError("straggler_theta is a share: at most 1")
        return self


@dataclass(frozen=True)
class Calibration:
    """What a simulation starts from.

    Attributes:
        made: seconds since 1970-01-01 UTC.
        machine: where; `bench.machine.machine()` of a launch.
        settings: those of WHAT_COUNTS that were measured, flat; empty by hand: any.
        threads: of a rank. cores, memory_bytes: of a node.
        launches: answers of `probe`, in the order they were launched. parameters: by hand, in their place.
        failures: {"mtbf_node_s": seconds, "reason": text}, or None where nothing is known.
    """

    made: float
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    threads: int
    cores: int
    memory_bytes: int
    launches: tuple[Mapping[str, Any], ...] = ()
    parameters: Parameters | None = None
    failures: Mapping[str, Any] | None = None

    @property
    def one_machine(self) -> bool:
        """Whether its nodes were names only that share one machine's cores, as in the test lab."""
        return any(launch.get("machines", launch["nodes"]) < launch["nodes"] for launch in self.launches)

    def check_model(self, settings: Settings) -> None:
        """Raises UserError where it was measured with settings whose steps take another time."""
        wanted = relevant(settings)
        differing = [
            f"{key}={wanted.get(key)} (calibration: {value})"
            for key, value in self.settings.items()
            if wanted.get(key) != value
        ]
        if differing:
            raise UserError(f"the calibration is of another model: {', '.join(differing)}", "--calibrate measures anew")

    def write(self, path: Path) -> None:
        """Keeps it, hashed. Raises UserError."""
        content = {"kind": KIND, "format": FORMAT, **asdict(self), "launches": list(self.launches)}
        content["parameters"] = None if self.parameters is None else self.parameters.model_dump()
        text = json.dumps(content | {"sha256": digest(content)}, indent=1, allow_nan=False)
        try:
            write_atomic(path, text + "\n")
        except OSError as error:
            raise UserError(f"{path} can't be written: {error.strerror}") from None


def relevant(settings: Settings) -> dict[str, Any]:
    """The settings of WHAT_COUNTS, flat, as JSON values."""
    tree = settings.model_dump(mode="json")
    flat = {f"{section}.{key}": value for section, part in tree.items() for key, value in part.items()}
    return {key: value for key, value in sorted(flat.items()) if key.startswith(WHAT_COUNTS)}


def read(path: Path) -> Calibration:
    """The calibration in a file. Raises UserError where it is damaged, changed, or something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}", "ryzen-mpi simulate --calibrate makes one") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON, or was cut short: {error}") from None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise UserError(f"{path} is no calibration", f'its "kind" would be "{KIND}"')
    if content.get("format") != FORMAT:
        raise UserError(f"{path} has format {content.get('format')}, and this program reads {FORMAT}")
    return _checked(content, path)


def _checked(content: dict[str, Any], path: Path) -> Calibration:
    if content.get("launches") and content.get("sha256") != digest(content):
        raise UserError(f"{path} was changed after it was measured: its hash does not fit", "measure anew, --calibrate")
    try:
        given = content.get("parameters")
        parameters = None if given is None else Parameters.model_validate(given)
        found = Calibration(
            float(content.get("made", 0.0)),
            dict(content.get("machine") or {}),
            dict(content.get("settings") or {}),
            *(int(content[key]) for key in ("threads", "cores", "memory_bytes")),
            tuple(content.get("launches") or ()),
            parameters,
            content.get("failures"),
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, ("parameters", *first["loc"])))
        raise UserError(f"{path}: {where}: {first['msg']}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} lacks what a calibration needs: {type(error).__name__} {error}") from None
    if min(found.threads, found.cores, found.memory_bytes) < 1:
        raise UserError(f"{path}: threads, cores and memory_bytes are at least 1")
    if found.failures is not None and not float((found.failures or {}).get("mtbf_node_s") or 0) > 0:
        raise UserError(f"{path}: failures.mtbf_node_s is above 0, or failures is null")
    if bool(found.launches) == (found.parameters is not None):
        raise UserError(f"{path} needs either launches (measured) or parameters (by hand)")
    return found
