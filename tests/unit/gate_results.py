"""Results of a small campaign that passes, for tests that spoil them."""

from __future__ import annotations

from dataclasses import replace

from ryzen_mpi.validation.result import Findings, Measured, Result
from ryzen_mpi.validation.thresholds import Rules, Threshold

CAMPAIGN = "c0ffee"
RULES = Rules(
    *("1", "sound", 4, 1),
    {
        "speed": {
            "throughput": Threshold(at_least=250, no_go=200, excellent=300, unit="samples/s", source="s"),
            "efficiency": Threshold(at_least=0.8, limit=1, unit="1", source="s"),
        },
        "exact": {"differing_elements": Threshold(at_most=0, unit="1", source="s")},
        "heat": {"temperature": Threshold(at_most=90, unit="C", where_measurable=True, source="s")},
        "soak": {"soak_s": Threshold(at_least=86400, unit="s", unmet="INSUFFICIENT", n_at_least=1, source="s")},
    },
)


def figure(name: str, value: float | None, unit: str, samples: tuple[float, ...] = (), **more) -> Measured:
    facts = {"n": len(samples) or 1, "samples": samples}
    if samples:
        facts |= {"low": min(samples), "high": max(samples)}
    return Measured(name, value, unit, **facts | more)


def result(number: int, check: str, *figures: Measured, **changes) -> Result:
    found = Result(
        check=check,
        phase="1",
        campaign=CAMPAIGN,
        number=number,
        status="measured",
        message="",
        began=1000.0 * number,
        ended=1000.0 * number + 500,
        rerun=f"ryzen-mpi validate 1 --only {check}",
        conditions={"ranks": 4, "nodes": 1, "hosts": ["node1"], "machine": {"cpu": "x", "cores": 16}, "versions": {}},
        findings=Findings(figures),
    )
    return replace(found, **changes)


THROUGHPUT = figure("throughput", 260.0, "samples/s", (255.0, 260.0, 262.0, 261.0))
EFFICIENCY = figure("efficiency", 0.9, "1", (0.88, 0.9, 0.91))


def good() -> list[Result]:
    """A campaign that gives GO under RULES."""
    return [
        result(1, "speed", THROUGHPUT, EFFICIENCY),
        result(2, "exact", figure("differing_elements", 0.0, "1", n=100)),
        result(3, "heat", Measured("temperature", None, "C", n=0, why="no sensor")),
        result(4, "soak", figure("soak_s", 90000.0, "s")),
    ]
