"""Memory that is really touched: a pattern into every word, read back twice, each bit once 0 and once 1."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

CHUNK_BYTES, PIECE_BYTES = 64 << 20, 1 << 20
"""Between two looks at what the node has left; and of the pattern, which stays in the cache while memory is written."""
FACTOR = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio, odd: every word of the memory has another value, so that a wrong address shows too."""
MOST_SHOWN = 8
STATM = Path("/proc/self/statm")


@dataclass
class Touched:
    """What came of it.

    Attributes:
        bytes: touched, written and compared.
        resident_bytes: how far the process' resident memory grew.
        first_s: seconds of the first writing, in which the kernel provides the pages.
        write_s, read_s: of the second writing, and of both comparisons.
        wrong_words: how many words of 8 bytes did not hold what was written, both passes together.
        wrong: the first of them, in words for a person.
        stopped: why not all of it was touched; empty where it was.
    """

    bytes: int = 0
    resident_bytes: int = 0
    first_s: float = 0.0
    write_s: float = 0.0
    read_s: float = 0.0
    wrong_words: int = 0
    wrong: tuple[str, ...] = ()
    stopped: str = ""


def allocate(size: int) -> np.ndarray:
    """[size / 8] uint64 on pages of its own that nobody has touched. Local. Raises OSError."""
    return np.frombuffer(mmap.mmap(-1, size), dtype=np.uint64)


def touch(size: int, spare: Callable[[], int], reserve: int) -> Touched:
    """Touches `size` bytes, a multiple of the page size, and gives them back. Local.

    Before every chunk `spare()` is asked for the bytes the node has left: below `reserve` it goes no further, whoever
    took them meanwhile, so that the kernel need not end anybody.
    """
    done, before = Touched(), resident_bytes()
    try:
        words = allocate(size)
    except (OSError, ValueError, OverflowError) as error:
        done.stopped = f"the kernel refuses {size} bytes: {error}"
        return done
    began = time.perf_counter()
    for begin, end in chunks(len(words)):
        if spare() < reserve + 8 * (end - begin):
            done.stopped = f"only {spare()} bytes were left on the node, and {reserve} are kept back"
            words = words[:begin]
            break
        write(words[begin:end], begin, flipped=False)
    done.first_s, done.bytes = time.perf_counter() - began, words.nbytes
    done.resident_bytes = resident_bytes() - before
    compare(words, False, done)
    began = time.perf_counter()
    for begin, end in chunks(len(words)):
        write(words[begin:end], begin, flipped=True)
    done.write_s = time.perf_counter() - began
    compare(words, True, done)
    return done


def chunks(count: int, size: int = CHUNK_BYTES) -> Iterator[tuple[int, int]]:
    """(first, end) of pieces of `count` words. Pure."""
    step = size // 8
    return ((begin, min(begin + step, count)) for begin in range(0, count, step))


def write(words: np.ndarray, first: int, flipped: bool) -> None:
    """The pattern of the words from number `first` on, or each of its bits the other way. Local."""
    for begin, end in chunks(len(words), PIECE_BYTES):
        start = (first + begin) * FACTOR % 2**64
        # the bits of a + b the other way round are those of a, less b
        start = np.uint64(-start % 2**64 if flipped else start)
        np.add(_pattern(flipped)[: end - begin], start, out=words[begin:end])


def compare(words: np.ndarray, flipped: bool, done: Touched) -> None:
    """Reads all of `words` and adds what is not as it was written to `done`. Local."""
    scratch = np.empty(PIECE_BYTES // 8, dtype=np.uint64)
    began = time.perf_counter()
    for begin, end in chunks(len(words), PIECE_BYTES):
        wanted, found = scratch[: end - begin], words[begin:end]
        write(wanted, begin, flipped)
        if np.array_equal(wanted, found):
            continue
        for place in np.flatnonzero(wanted != found):
            done.wrong_words += 1
            if len(done.wrong) < MOST_SHOWN:
                done.wrong += (_wrong(words, begin + int(place), int(wanted[place]), int(found[place])),)
    done.read_s += time.perf_counter() - began


def _wrong(words: np.ndarray, place: int, wanted: int, found: int) -> str:
    address = words.__array_interface__["data"][0] + 8 * place
    bits = [bit for bit in range(64) if (wanted ^ found) >> bit & 1]
    which = f"bit {bits[0]}" if len(bits) == 1 else f"{len(bits)} bits"
    return f"offset {8 * place} (address {address:#x}): {found:#018x} in place of {wanted:#018x}, {which}"


@cache
def _pattern(flipped: bool) -> np.ndarray:
    words = np.arange(PIECE_BYTES // 8, dtype=np.uint64) * np.uint64(FACTOR)
    return ~words if flipped else words


def resident_bytes(statm: Path = STATM) -> int:
    """Bytes of this process that are in memory. Local."""
    return int(statm.read_text().split()[1]) * mmap.PAGESIZE


def spare_bytes() -> int:
    """Bytes the node, or the cgroup this process is in, has left. Local."""
    from ryzen_mpi.cluster.topology import read_memory

    return read_memory().available_bytes
