"""The end of a run: what a person is told, and the marker that says it is complete."""

from __future__ import annotations

import math
import resource
import signal
import time
from dataclasses import asdict, dataclass
from typing import Any

from ryzen_mpi import __version__
from ryzen_mpi.cluster.job import leader_decides
from ryzen_mpi.cluster.world import World
from ryzen_mpi.config import Settings
from ryzen_mpi.console import Console
from ryzen_mpi.figures import Figure
from ryzen_mpi.model.generate import generate
from ryzen_mpi.rundir import RunDirectory
from ryzen_mpi.training.evaluate import HeldOut
from ryzen_mpi.training.step import TrainingStep
from ryzen_mpi.training.tools import Tools
from ryzen_mpi.units import bytes_text, duration_text, rate_text

PROMPT = "def "
SAMPLE_TOKENS = 160


@dataclass(frozen=True)
class Ending:
    """How the loop ended.

    Attributes:
        total_steps: of the whole run.
        held_out: the newest held-out figures, if any were taken.
        stopped: the signal that stopped it, or 0.
        seconds: taken by all of it.
        saved_after_s: where it was stopped: seconds from the agreement to stop until all was on disk.
    """

    total_steps: int
    held_out: HeldOut | None
    stopped: int
    seconds: float
    saved_after_s: float

    @property
    def signal(self) -> str | None:
        return signal.Signals(self.stopped).name if self.stopped else None

    def told(self, step: int) -> tuple[str, str]:
        """What the guard is told of it (beacon.ENDS), and why."""
        return "stopped" if self.stopped else "complete", f"{self.signal or 'all done'} after step {step}"


def close_run(
    world: World,
    settings: Settings,
    run: RunDirectory,
    console: Console,
    step: TrainingStep,
    tools: Tools,
    ending: Ending,
) -> None:
    """Tells how it went; writes COMPLETE.json last, where the run reached its end. Collective."""
    name, reached = ending.signal, step.progress.step
    if name:  # no summary: it imports SciPy, seconds of the five that Slurm gives a requeued job to leave
        after_s = ending.saved_after_s
        tools.events.event("stop", f"stopped by {name}", step=reached, signal=name, saved_after_s=after_s)
        console.line(
            f"stopped by {name} after step {reached} of {ending.total_steps}; saved in "
            f"{run.checkpoints}. Go on with: --run-dir {run.path}"
        )
    else:
        peaks = world.exchange.allgather(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        tools.events.event("end", "reached its end", step=reached)
        if settings.data.source == "text":
            console.line(f"\nthe model goes on from {PROMPT!r}:")
            if world.is_leader:
                console.line(sample_text(step))
        summary = summarise(world, settings, step, tools, ending, peaks)
        show_summary(console, summary, run)
    tools.close_records()
    if not name:
        leader_decides(world, lambda: run.write_complete(_finite(summary)))


def sample_text(step: TrainingStep) -> str:
    """A short sample from the trained model. Local."""
    source, seed = step.source, step.settings.training.seed
    prompt = [int(token) for token in source.encode(PROMPT)]
    tokens = generate(step.model, prompt, SAMPLE_TOKENS, temperature=0.7, seed=seed)
    return source.decode([*prompt, *(token for token in tokens if token < source.vocab_size)])


def summarise(
    world: World,
    settings: Settings,
    step: TrainingStep,
    tools: Tools,
    ending: Ending,
    peaks: list[int],
) -> dict[str, Any]:
    """The summary as JSON values; what COMPLETE.json holds."""
    rate = tools.recorder.samples_per_s()
    held_out = ending.held_out
    return {
        "version": __version__,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "ranks": world.size,
        "virtual_ranks": settings.training.virtual_ranks,
        "nodes": world.nodes,
        "steps": step.progress.step,
        "samples": step.progress.samples,
        "skipped_steps": step.progress.skipped,
        "train_loss": tools.recorder.last_loss,
        "held_out": asdict(held_out) | {"perplexity": held_out.perplexity} if held_out else None,
        "reference": asdict(step.source.floor) if step.source.floor else None,
        "samples_per_s": asdict(rate),
        "tokens_per_s": asdict(rate.mapped(lambda value: value * settings.model.seq_length)),
        "communication_share": tools.recorder.communication_share(),
        "checkpoint_held_s": getattr(tools.saver, "held_s", 0.0),
        "peak_rss_bytes": peaks,
        "seconds": ending.seconds,
    }


def _finite(value: Any) -> Any:
    """`value` with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_summary(console: Console, summary: dict[str, Any], run: RunDirectory) -> None:
    """The summary as a table on rank 0."""
    held_out, reference = summary["held_out"], summary["reference"] or {}
    known = [f"{text} {reference[key]:.4f}" for key, text in _REFERENCES if reference.get(key) is not None]
    virtual = summary.get("virtual_ranks", 1)
    rows = [
        *([("ranks", f"{virtual} virtual ones, played by one process one after the other")] if virtual > 1 else []),
        ("steps, samples", f"{summary['steps']}, {summary['samples']} ({summary['skipped_steps']} steps skipped)"),
        (
            "held-out loss",
            f"{held_out['loss']:.4f} nat/token over {held_out['tokens']} tokens"
            + (f" ({', '.join(known)})" if known else ""),
        ),
        ("held-out perplexity", f"{held_out['perplexity']:.3f}"),
        ("held-out accuracy", f"{100 * held_out['accuracy']:.2f} %"),
        ("samples/s", _rate(summary["samples_per_s"])),
        ("tokens/s", _rate(summary["tokens_per_s"])),
        ("time in communication", f"{100 * summary['communication_share']:.1f} % of the steps"),
        ("peak memory a rank", f"{bytes_text(max(summary['peak_rss_bytes']))} (largest of {summary['ranks']})"),
        ("time", duration_text(summary["seconds"])),
        ("run directory", str(run.path)),
    ]
    console.table("summary", rows, ("what", "value"))


def show_complete(world: World, run: RunDirectory, console: Console) -> bool:
    """Whether this run is complete; shows its summary then, and has this attempt vouch for it. Collective."""
    summary = leader_decides(world, run.renew_complete)
    if summary is not None:
        console.line("this run is complete: nothing is left to train")
        show_summary(console, summary, run)
    return summary is not None


_REFERENCES = (("unigram_entropy", "unigram entropy"), ("entropy_rate", "entropy rate"))


def _rate(values: dict[str, Any]) -> str:
    figure = Figure(**values)
    return (
        f"{rate_text(figure.value)} ({100 * figure.confidence:.0f} % interval {rate_text(figure.low)} to "
        f"{rate_text(figure.high)}, median of {figure.n} steps)"
    )
