"""glibc's malloc, told to keep what it was given back.

By default every large tensor is mapped from the kernel and unmapped when freed, so each step faults its activations in
page by page: 5-15 % of a step of a small model. A training step asks for the same sizes again and again; kept on the
heap, they are touched once. Called when the model is made and before the first step: what starting up needed once goes
back to the kernel.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER = 2**31 - 1
_GROW_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Whether the allocator took the setting (glibc does; others are left as they are). Local."""
    try:
        library = ctypes.CDLL(None)
        mallopt, malloc_trim = library.mallopt, library.malloc_trim
    except (OSError, AttributeError):
        return False
    malloc_trim(ctypes.c_size_t(0))
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _GROW_BYTES))
    return all(mallopt(name, value) for name, value in settings)
