"""What a user did wrong, or what the machine cannot give: a sentence and a way out, never a traceback."""

from __future__ import annotations

EXIT_USER_ERROR = 2


class UserError(ValueError):
    """Something the person who started the program can change.

    Shown once, on rank 0, without a traceback; the program ends with exit code 2.

    Args:
        message: what is wrong and where (the key, the path, the value).
        hint: what is allowed, or what to do next; shown on a line of its own.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  hint: {self.hint}"


class Stopped(UserError):
    """Somebody asked this program to stop, and it had nothing to save yet."""


class PeerLost(RuntimeError):
    """A collective that cannot end because of another rank: a consequence, the cause is that rank's to tell."""
