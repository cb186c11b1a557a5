"""How often to save, and what failures leave of the throughput.

Sources: Young 1974, A first order approximation to the optimum checkpoint interval, Comm. ACM 17(9); Daly 2006, A
higher order estimate of the optimum checkpoint interval for restart dumps, FGCS 22(3), equation 37.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ryzen_mpi.errors import UserError
from ryzen_mpi.supervisor.state import load_state


@dataclass(frozen=True)
class Saving:
    """interval_s: between checkpoints. kept: share of the time that trains, failures and saving taken off."""

    interval_s: float
    kept: float


def best_interval(save_s: float, mtbf_s: float) -> float:
    """Seconds of work between checkpoints of `save_s` seconds where something fails every `mtbf_s`. Pure."""
    if save_s >= 2 * mtbf_s:
        return mtbf_s
    ratio = save_s / (2 * mtbf_s)
    return math.sqrt(2 * save_s * mtbf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save_s


def kept_share(interval_s: float, save_s: float, mtbf_s: float, restart_s: float) -> float:
    """Share of the time that is kept with exponential failures: Daly 2006, equation 20. Pure.

    Work of `interval_s` takes mtbf e^(restart/mtbf) (e^((interval + save)/mtbf) - 1) seconds.
    """
    exponent = (interval_s + save_s) / mtbf_s + restart_s / mtbf_s
    if exponent > 700:
        return 0.0
    return interval_s / (mtbf_s * math.exp(restart_s / mtbf_s) * math.expm1((interval_s + save_s) / mtbf_s))


def saving(save_s: float, mtbf_node_s: float, nodes: int, restart_s: float) -> Saving:
    """The best interval on `nodes` nodes that fail independently, `mtbf_node_s` apart each. Pure."""
    mtbf_s = mtbf_node_s / nodes
    interval_s = best_interval(max(save_s, 1e-6), mtbf_s)
    return Saving(interval_s, kept_share(interval_s, save_s, mtbf_s, restart_s))


def failures_of(run: Path) -> dict[str, Any]:
    """What the account of a supervised run says of its nodes: {"mtbf_node_s", "reason"}. Raises UserError.

    A run without a fault tells only a bound: with 95 % confidence the mean time is above a third of the time that was
    supervised (the rule of three: Hanley and Lippman-Hand 1983), and that third is taken.
    """
    folder = run / "supervisor"
    path = folder / "summary.json"
    try:
        content = json.loads(path.read_text())
        faults, total_s = int(content["faults"]), float(content["total_s"])
        nodes = max([1, *(len(record.hosts) for record in load_state(folder / "state.json").records)])
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}", "a run directory that was supervised") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no supervisor's summary: {error}") from None
    if not total_s > 0 or faults < 0:
        raise UserError(f"{path} tells of no supervised time")
    node_s = total_s * nodes
    reason = f"{faults} faults in {node_s / 3600:.3g} node hours" if faults else f"none in {node_s / 3600:.3g} node h"
    return {"mtbf_node_s": node_s / (faults or 3), "reason": f"{reason} ({path})"}
