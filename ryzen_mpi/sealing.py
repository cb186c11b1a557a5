"""What shows that recorded figures are still what was written: a hash over their canonical form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def digest(values: Mapping[str, Any], allow_nan: bool = True) -> str:
    """SHA-256 of JSON values in canonical form, "sha256" left out. Pure.

    Raises ValueError where a number is NaN or infinite and `allow_nan` is false.
    """
    bare = {key: value for key, value in values.items() if key != "sha256"}
    read_back = json.loads(json.dumps(bare, allow_nan=allow_nan))  # keys that are numbers sort as they will be read
    return hashlib.sha256(json.dumps(read_back, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
