"""What a person asks a benchmark for, as OSU writes it, checked before anything is started."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ryzen_mpi.bench.catalog import Benchmark
from ryzen_mpi.errors import UserError

BACKENDS = ("raw", "mpi", "gloo", "arena")
MOST_PERCENTILES = 5
"""As many as OSU takes."""
_PREFIXES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True)
class DataType:
    """An element: its name in C, PyTorch's name, MPI's (None where MPI has none), bytes, and the largest whole number
    up to which every whole number is exact."""

    name: str
    torch: str
    mpi: str | None
    size: int
    exact: int


DATATYPES = {
    item.name: item
    for item in (
        DataType("char", "int8", "SIGNED_CHAR", 1, 127),
        DataType("int", "int32", "INT", 4, 2**31 - 1),
        DataType("long", "int64", "LONG", 8, 2**63 - 1),
        DataType("float", "float32", "FLOAT", 4, 2**24),
        DataType("double", "float64", "DOUBLE", 8, 2**53),
        DataType("bfloat16", "bfloat16", None, 2, 2**8),
        DataType("float16", "float16", None, 2, 2**11),
    )
}


@dataclass(frozen=True)
class Options:
    """One request.

    Attributes:
        backends: of BACKENDS, in the order to be shown.
        smallest, largest: bytes.
        iterations, warmup: None for OSU's own numbers.
        validate: check results (-c). full: OSU's -f. percentiles: OSU's -z.
        memory_limit: bytes the buffers of one backend on one rank may take.
    """

    backends: tuple[str, ...]
    smallest: int
    largest: int
    datatype: DataType
    iterations: int | None = None
    warmup: int | None = None
    validate: bool = False
    full: bool = False
    percentiles: tuple[int, ...] = ()
    memory_limit: int = 512 << 20

    def sizes(self) -> list[int]:
        """Bytes to measure: from the smallest, doubling, up to the largest. Local."""
        sizes = [self.smallest]
        while 0 < 2 * sizes[-1] <= self.largest:
            sizes.append(2 * sizes[-1])
        return sizes


def parse_size(text: str) -> int:
    """Bytes of '4096', '64K', '1M' or '1MiB' (binary prefixes). Local. Raises UserError."""
    match = re.fullmatch(r"(\d+)\s*([kmg]?)(?:i?b)?", text.strip().lower())
    if not match:
        raise UserError(f"{text!r} is no size", "bytes as in 4096, 64K or 1M")
    return int(match[1]) * _PREFIXES[match[2]]


def parse_sizes(text: str | None, default: tuple[int, int]) -> tuple[int, int]:
    """(smallest, largest) of OSU's -m: 'MAX', 'MIN:' or 'MIN:MAX'. Local. Raises UserError."""
    if text is None:
        return default
    if text in ("", ":"):
        raise UserError(f"-m {text}: no size", "-m MIN:MAX, as in -m 4:1M")
    low, colon, high = text.rpartition(":")
    if not colon:
        low, high = "", text
    smallest = parse_size(low) if low else default[0]
    largest = parse_size(high) if high else default[1]
    if low and not high:
        largest = max(largest, smallest)
    if not low:
        smallest = min(smallest, largest)
    if smallest > largest:
        raise UserError(f"-m {text}: the smallest size is above the largest", "-m MIN:MAX, as in -m 4:1M")
    if largest < 1:
        raise UserError(f"-m {text}: a message has at least 1 byte", "-m MIN:MAX, as in -m 4:1M")
    return max(1, smallest), largest


def parse_percentiles(text: str | None) -> tuple[int, ...]:
    """Percentiles of OSU's -z, as in '50,90,99'. Local. Raises UserError."""
    if text is None:
        return ()
    allowed = f"whole numbers from 1 to 99, at most {MOST_PERCENTILES}, as in -z 50,90,99"
    words = text.split(",")
    if not all(word.strip().isdigit() and 1 <= int(word) <= 99 for word in words) or len(words) > MOST_PERCENTILES:
        raise UserError(f"-z {text}: these are no percentiles", allowed)
    return tuple(int(word) for word in words)


def parse_backends(text: str) -> tuple[str, ...]:
    """The backends of 'raw', 'all' or 'raw,gloo'. Local. Raises UserError."""
    if text == "all":
        return BACKENDS
    words = tuple(dict.fromkeys(text.split(",")))
    for word in words:
        if word not in BACKENDS:
            raise UserError(f"--backend {text}: there is no backend {word!r}", f"{', '.join(BACKENDS)} or all")
    return words


def parse_datatype(text: str) -> DataType:
    """The datatype of a name in C (float), MPI (mpi_float) or PyTorch (float32). Local. Raises UserError."""
    word = text.lower().removeprefix("mpi_")
    for item in DATATYPES.values():
        if word in (item.name, item.torch):
            return item
    raise UserError(f"-T {text}: there is no such datatype", f"allowed: {', '.join(DATATYPES)}")


def parse(
    benchmark: Benchmark,
    backend: str = "raw",
    sizes: str | None = None,
    iterations: int | None = None,
    warmup: int | None = None,
    datatype: str | None = None,
    percentiles: str | None = None,
    memory: str | None = None,
    validate: bool = False,
    full: bool = False,
) -> Options:
    """The options of a benchmark from the words of the command line. Local. Raises UserError."""
    if benchmark.operation == "barrier" and (sizes or datatype):
        raise UserError("a barrier carries no message", "leave out -m and -T")
    chosen = parse_datatype(datatype or benchmark.datatype)
    # without -m no size is asked for that holds no element
    default = (max(benchmark.smallest, chosen.size) if benchmark.smallest else 0, benchmark.largest)
    if iterations is not None and iterations < 1:
        raise UserError(f"-i {iterations}: nothing would be measured", "at least 1")
    if warmup is not None and warmup < 0:
        raise UserError(f"-x {warmup}: less than nothing", "0 or more")
    smallest, largest = parse_sizes(sizes, default)
    limit = parse_size(memory) if memory else Options.memory_limit
    return Options(
        *(parse_backends(backend), smallest, largest, chosen, iterations, warmup),
        *(validate, full, parse_percentiles(percentiles), limit),
    )


def check_parent(path: str, option: str) -> None:
    """Raises UserError where the folder of a file to be written is missing. Local."""
    folder = Path(path).expanduser().absolute().parent
    if not folder.is_dir():
        raise UserError(f"{option} {path}: the folder {folder} does not exist", "make it first, or name another file")
