"""The table of everything that is measured while training: name, unit, meaning. Every sink and reader follows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["step", "rank", "layer", "evaluation", "sample", "rank_sample"]


@dataclass(frozen=True)
class Signal:
    """One measured quantity.

    Attributes:
        name: the field of the record, and the last part of the dataset's path.
        unit: SI or the field's own; "1" for a plain number or a share.
        description: what it is, in words that stand alone (HDF5 attribute, Prometheus help, axis of a plot).
        kind: "step": one value a step; "rank": one a step and rank; "layer": one a layer, at some steps;
            "evaluation": one a held-out evaluation; "sample": one every monitor.sample_s seconds; "rank_sample": one
            a sample and rank.
        group: the HDF5 group.
        dtype: the NumPy type it is stored in.
    """

    name: str
    unit: str
    description: str
    kind: Kind
    group: str
    dtype: str = "float64"


_ALL = (
    Signal("step", "1", "optimiser steps taken in the run, this one included", "step", "training", "int64"),
    Signal("wall_time_s", "s", "end of the step, in seconds since 1970-01-01 UTC", "step", "training"),
    Signal("loss", "nat/token", "cross-entropy of the next token, mean over the global batch", "step", "training"),
    Signal("accuracy", "1", "share of next tokens whose most likely prediction was right", "step", "training"),
    Signal("perplexity", "1", "exp(loss): as many next tokens seem equally likely to the model", "step", "training"),
    Signal("learning_rate", "1", "learning rate of the step", "step", "training"),
    Signal("gradient_norm", "1", "L2 norm of the global gradient before clipping", "step", "training"),
    Signal("samples", "1", "samples (sequences) trained in the run so far", "step", "training", "int64"),
    Signal("tokens", "1", "tokens trained in this step, all ranks together", "step", "training", "int64"),
    Signal(
        "step_s",
        "s",
        "duration of the step, from its start to the updated weights, on the slowest rank",
        "step",
        "training",
    ),
    Signal("skipped", "1", "1 where the ranks left the weights as they were, else 0", "step", "training", "uint8"),
    Signal("ranks", "1", "ranks that took part in the step", "step", "training", "int64"),
    Signal("communication_s", "s", "time blocked in collectives, mean over the ranks", "step", "communication"),
    Signal("reduce_s", "s", "time of the gradients' reduction, slowest rank", "step", "communication"),
    Signal("rank_step_s", "s", "duration of the step on each rank", "rank", "training"),
    Signal(
        "rank_gradient_norm",
        "1",
        "L2 norm of each rank's own gradient before the ranks' are added up, estimated from a sample of its parts",
        "rank",
        "training",
    ),
    Signal("rank_communication_s", "s", "time each rank was blocked in collectives", "rank", "communication"),
    Signal("rank_sent_bytes", "B", "gradients each rank sent to other nodes in the step", "rank", "communication"),
    Signal(
        "compression_ratio",
        "1",
        "bytes of gradients between nodes without compression, over those sent; NaN where none are sent",
        "step",
        "communication",
    ),
    Signal("rank_rss_bytes", "B", "resident memory of each rank's process", "rank", "hardware"),
    Signal("rank_cpu_share", "1", "CPU seconds per second that each rank used (2: two cores)", "rank", "hardware"),
    Signal("gradient_variance", "1", "variance of the elements of each layer's gradient", "layer", "gradients"),
    Signal("held_out_loss", "nat/token", "cross-entropy of the next token, held-out data", "evaluation", "evaluation"),
    Signal("held_out_accuracy", "1", "share of next tokens predicted right, held-out data", "evaluation", "evaluation"),
    # -- communication since the sample before ------------------------------------------------------------------------
    Signal("allreduce_mean_s", "s", "mean time of a gradient reduction, slowest rank", "sample", "communication"),
    Signal("allreduce_p50_s", "s", "median time of a gradient reduction, slowest rank", "sample", "communication"),
    Signal(
        "allreduce_p99_s",
        "s",
        "99th percentile of the time of a gradient reduction, slowest rank",
        "sample",
        "communication",
    ),
    Signal("communication_share", "1", "share of the steps' time blocked in collectives", "sample", "communication"),
    Signal("node_bytes", "B", "gradients exchanged inside nodes in a step, all ranks", "sample", "communication"),
    Signal("network_bytes", "B", "gradients sent between nodes in a step, all ranks", "sample", "communication"),
    Signal(
        "bandwidth_used",
        "B/s",
        "gradients exchanged over the time of their reduction, all ranks",
        "sample",
        "communication",
    ),
    Signal("rank_retransmits", "1", "TCP segments each rank's node sent again", "rank_sample", "communication"),
    Signal(
        "rank_packets_lost",
        "1",
        "packets dropped or damaged at the interfaces of each rank's node",
        "rank_sample",
        "communication",
    ),
    Signal(
        "sync_accuracy",
        "1",
        "share of the comparisons of all ranks' weights that found them equal",
        "sample",
        "communication",
    ),
    Signal("sync_checks", "1", "comparisons of all ranks' weights so far", "sample", "communication"),
    Signal(
        "check_latency_s",
        "s",
        "median time of an 8-byte all-reduce in the last health check",
        "sample",
        "communication",
    ),
    Signal("check_bandwidth", "B/s", "of a 1 MiB all-reduce in the last health check", "sample", "communication"),
    Signal(
        "check_ring",
        "1",
        "1 where the last health check's message went round all ranks unchanged",
        "sample",
        "communication",
    ),
    # -- hardware ------------------------------------------------------------------------------------------------------
    Signal("rank_shared_bytes", "B", "shared memory each rank has touched", "rank_sample", "hardware"),
    Signal("rank_switches", "1/s", "context switches each rank asked for", "rank_sample", "hardware"),
    Signal("rank_preemptions", "1/s", "context switches forced on each rank", "rank_sample", "hardware"),
    Signal("rank_runqueue_share", "1", "seconds per second each rank waited for a core", "rank_sample", "hardware"),
    Signal("rank_major_faults", "1/s", "pages each rank had to wait for a disk for", "rank_sample", "hardware"),
    Signal("rank_swap_bytes", "B", "memory of each rank that is swapped out", "rank_sample", "hardware"),
    Signal("rank_numa_used_bytes", "B", "memory in use in each rank's NUMA domain", "rank_sample", "hardware"),
    Signal("rank_numa_free_bytes", "B", "memory free in each rank's NUMA domain", "rank_sample", "hardware"),
    Signal(
        "rank_memory_available_bytes",
        "B",
        "memory each rank's node or cgroup can still give",
        "rank_sample",
        "hardware",
    ),
    Signal(
        "rank_memory_limit_bytes", "B", "memory of each rank's node, or its cgroup's limit", "rank_sample", "hardware"
    ),
    Signal(
        "rank_cpu_pressure",
        "1",
        "share of the last 10 s in which some task of the node waited for a core (PSI)",
        "rank_sample",
        "hardware",
    ),
    Signal(
        "rank_memory_pressure",
        "1",
        "share of the last 10 s in which some task of the node waited for memory (PSI)",
        "rank_sample",
        "hardware",
    ),
    Signal(
        "rank_io_pressure",
        "1",
        "share of the last 10 s in which some task of the node waited for a disk (PSI)",
        "rank_sample",
        "hardware",
    ),
    Signal("rank_clock_hz", "Hz", "mean clock of each rank's cores", "rank_sample", "hardware"),
    Signal("rank_temperature_c", "°C", "highest processor temperature of each rank's node", "rank_sample", "hardware"),
    Signal(
        "rank_throttles",
        "1",
        "times the processors of each rank's node slowed down because of heat, since the sample before",
        "rank_sample",
        "hardware",
    ),
    Signal("rank_power_w", "W", "power of the processor packages of each rank's node", "rank_sample", "hardware"),
    # -- system health -------------------------------------------------------------------------------------------------
    Signal("rank_beats", "1", "signs of life each rank has given in this attempt", "rank_sample", "system"),
    Signal("attempt", "1", "number of the supervisor's attempt; 0 where nobody supervises", "sample", "system"),
    Signal("stragglers", "1", "ranks found slower than the others", "sample", "system"),
    Signal("skipped_steps", "1", "steps skipped in the run so far", "sample", "system"),
    Signal("acts", "1", "actions the monitor has taken in this attempt", "sample", "system"),
    Signal("rate_factor", "1", "what the monitor multiplies the learning rate by", "sample", "system"),
    Signal("micro_batch", "1", "samples of a rank's micro-batch now", "sample", "system"),
    Signal("checkpoint_step", "1", "step of the newest checkpoint on disk; -1 where there is none", "sample", "system"),
    Signal("checkpoint_age_s", "s", "since the newest checkpoint was on disk, or since the start", "sample", "system"),
    Signal("disk_free_bytes", "B", "free space on the run directory's disk", "sample", "system"),
)

RANKED: tuple[Kind, ...] = ("rank", "rank_sample")
"""Kinds with a value a rank; their names begin with rank_."""

SIGNALS: dict[str, Signal] = {signal.name: signal for signal in _ALL}


def of_kind(*kinds: Kind) -> list[Signal]:
    """The signals of these kinds, in the table's order."""
    return [signal for signal in _ALL if signal.kind in kinds]


_PROMETHEUS_UNITS = {
    "s": ("_s", "_seconds"),
    "B": ("_bytes", "_bytes"),
    "B/s": ("", "_bytes_per_second"),
    "1/s": ("", "_per_second"),
    "Hz": ("_hz", "_hertz"),
    "°C": ("_c", "_celsius"),
    "W": ("_w", "_watts"),
}
"""How the name of a signal of a unit ends here, and how its name ends there; other units are not told there."""


def prometheus_name(signal: Signal) -> str:
    """The name of `signal` at Prometheus: its own, after "ryzen_mpi_", with the base unit written out.

    rank_ stays where it is: rank_step_s is another series than step_s, and no name changes because another comes.
    """
    ours, theirs = _PROMETHEUS_UNITS.get(signal.unit, ("", ""))
    return f"ryzen_mpi_{signal.name.removesuffix(ours)}{theirs}"
