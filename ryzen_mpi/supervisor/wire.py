"""What guards and supervisor say to each other: small JSON datagrams that nobody without the token can make or change.

Standard library only: a guard runs beside every rank.

UDP, because a link that was down for some seconds must not leave a connection that backs off for twice as long. Every
datagram carries an HMAC-SHA256 over its text. Reports are numbered and answers name the number they answer, so an old
datagram sent again changes nothing.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ORDERS = ("go", "stop", "die")
"""What a guard is told: go on; have the rank save and leave; end it now. Only ever raised."""
MAX_BYTES = 4096
_SEAL_BYTES = 32


@dataclass(frozen=True)
class Plan:
    """What a guard has to know about its attempt; a file that only its owner may read.

    Attributes:
        epoch: number of the attempt.
        token: hexadecimal secret of the attempt.
        addresses: where the supervisor listens, one (host, port) for each of its networks.
        beat_s: seconds between reports.
        lease_s: a guard that got no answer for as long ends its rank.
    """

    epoch: int
    token: str
    addresses: list[tuple[str, int]]
    beat_s: float
    lease_s: float

    def write(self, path: Path) -> None:
        """Raises OSError."""
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(asdict(self), file)

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Raises OSError, ValueError and TypeError for what is no plan."""
        content = json.loads(path.read_text())
        content["addresses"] = [(str(host), int(port)) for host, port in content["addresses"]]
        return cls(**content)


@dataclass(frozen=True)
class Report:
    """What a guard says of its rank.

    Attributes:
        epoch, rank, host, pid: whose report it is; `pid` as its own host counts.
        number: of the report; 0 is the first.
        beats, resumed, step, saved, trained_s, phase, text: of the rank's beacon (beacon.Reading).
        quiet_s: seconds since the beacon's `beats` moved.
        state: the kernel's letter for the process: R, S, D, T (stopped), Z.
        stopped_s: seconds it has been in state T.
        unanswered_s: seconds since the supervisor answered.
        met: whether it ever did; until then a guard is patient for longer than a lease.
        ended: exit code, or minus the signal, of a process that ended; else None.
        ended_age_s: seconds since then.
        why: why the guard ended it, where it did: "lease lapsed", "told to" or "its launcher ended it".
    """

    epoch: int
    rank: int
    host: str
    pid: int
    number: int = 0
    beats: int = 0
    resumed: int = -1
    step: int = -1
    saved: int = -1
    trained_s: float = 0.0
    phase: str = "start"
    text: str = ""
    quiet_s: float = 0.0
    state: str = "R"
    stopped_s: float = 0.0
    unanswered_s: float = 0.0
    met: bool = False
    ended: int | None = None
    ended_age_s: float = 0.0
    why: str = ""


def new_token() -> str:
    """A secret for one attempt."""
    return secrets.token_hex(32)


def seal(token: str, message: dict[str, Any]) -> bytes:
    """`message` as a datagram."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return hmac.digest(token.encode(), body, "sha256") + body


def unseal(token: str, datagram: bytes) -> dict[str, Any] | None:
    """The message of a datagram that was sealed with `token`; None for any other."""
    body = datagram[_SEAL_BYTES:]
    if not hmac.compare_digest(datagram[:_SEAL_BYTES], hmac.digest(token.encode(), body, "sha256")):
        return None
    try:
        message = json.loads(body)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None
