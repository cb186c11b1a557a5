"""iperf3 between two nodes, started by their ranks, with the receiver's figures."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PATIENCE_S = 10.0
INTERVAL_S = 0.5
STREAMS = 4
"""TCP streams at once: a single one is bound by one core from some 30 Gbit/s on."""


@dataclass(frozen=True)
class Speed:
    """What iperf3 found of one direction.

    Attributes:
        intervals: Gbit/s (10^9) that the receiver got in every interval, the warm-up left out.
        retransmits: segments the sender had to send again; None where it does not tell.
        why: what went wrong; empty where nothing did.
    """

    intervals: tuple[float, ...] = ()
    retransmits: int | None = None
    why: str = ""


def is_here() -> bool:
    """Whether this node has iperf3. Local."""
    return shutil.which("iperf3") is not None


def free_port(address: str) -> int:
    """A port nobody listens on now. Local."""
    with socket.create_server((address, 0)) as listener:
        return listener.getsockname()[1]


def serve(address: str, port: int) -> subprocess.Popen[str]:
    """A server for one measurement, which ends with it. Local."""
    return subprocess.Popen(
        ["iperf3", "--server", "--one-off", "--json", "--bind", address, "--port", str(port),
         "--interval", str(INTERVAL_S)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def end(server: subprocess.Popen[str]) -> None:
    """Ends a server that has not ended by itself. Local."""
    try:
        server.wait(1.0)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def measure(own: str, to: str, port: int, seconds: float) -> Speed:
    """What the server at `to` gets of this node in `seconds`. Local."""
    words = ["iperf3", "--client", to, "--bind", own, "--port", str(port), "--json", "--get-server-output"]
    words += ["--time", str(max(1, round(seconds))), "--omit", "1", "--parallel", str(STREAMS)]
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=seconds + 2 * PATIENCE_S)
            answer = json.loads(done.stdout)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            return Speed(why=f"iperf3: {error}")
        if "error" not in answer:
            return speed(answer)
        if "refused" not in answer["error"] or time.monotonic() > give_up:  # the server may not listen yet
            return Speed(why=f"iperf3: {answer['error']}")
        time.sleep(0.2)


def speed(answer: Mapping[str, Any]) -> Speed:
    """The receiver's intervals of what a client of iperf3 3.x prints with --json --get-server-output. Pure."""
    received = answer.get("server_output_json", {})
    rows: Sequence[Mapping[str, Any]] = received.get("intervals", [])
    sums = [row["sum"] for row in rows]
    # the last one is what came after the sender had ended
    whole = [item for item in sums if not item.get("omitted") and item["seconds"] >= INTERVAL_S / 2]
    rates = tuple(item["bits_per_second"] / 1e9 for item in whole)
    sent = answer.get("end", {}).get("sum_sent", {})
    if not rates:
        return Speed(why="iperf3: the server told nothing")
    return Speed(rates, sent.get("retransmits"))
