"""Where the fused attention kernel overtakes plain batched matmuls: `BATCHED_UP_TO` of ryzen_mpi/model/attention.py.

    python benchmarks/attention.py [--save]

Forward and backward of one layer's attention over 4096 tokens on one thread, both forms in turn; medians of times as
ratios fused / batched (above 1: batched is faster) with 95 % intervals.
"""

from __future__ import annotations

import argparse
import time

import common

LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
SHAPES = ((256, 4), (768, 12))
ROUNDS = 9


def measure(dtype: str, length: int, width: int, heads: int) -> dict:
    """Seconds of both forms, alternating, and their ratio. Local."""
    import torch

    from ryzen_mpi.model.attention import causal_attention

    kind = getattr(torch, dtype)
    qkv = torch.randn(max(1, 4096 // length), length, 3 * width).to(kind).requires_grad_()
    grad = torch.randn(qkv.shape[0], length, width).to(kind)
    seconds: dict[str, list[float]] = {"batched": [], "fused": []}
    for number in range(ROUNDS + 2):
        for form, values in seconds.items():
            qkv.grad = None
            began = time.perf_counter()
            causal_attention(qkv, heads, form).backward(grad)
            if number >= 2:
                values.append(time.perf_counter() - began)
    figure = common.ratio(seconds["fused"], seconds["batched"], ROUNDS)
    return {"dtype": dtype, "length": length, "width": width, "heads": heads, **figure}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    options = parser.parse_args()
    import torch

    from ryzen_mpi.cluster.allocator import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(1)
    rows = []
    for dtype in ("bfloat16", "float32"):
        for length in LENGTHS:
            for width, heads in SHAPES:
                rows.append(row := measure(dtype, length, width, heads))
                print(
                    f"{dtype:9} {length:5} tokens  width {width:4}  fused takes {row['ratio']:.2f} "
                    f"({row['low']:.2f} to {row['high']:.2f}) of batched",
                    flush=True,
                )
    if options.save:
        print(f"kept in {common.save('attention', {'threads': 1, 'rows': rows})}")


if __name__ == "__main__":
    main()
