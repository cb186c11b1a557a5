"""An estimate and its interval from a handful of launches.

Hodges-Lehmann, because there are five launches, not fifty: the interval comes from the exact distribution of Wilcoxon's
signed ranks, needs no normal distribution, and one disturbed launch hardly moves it. A percentile bootstrap of five
values covers less than it says (Hesterberg 2015, What Teachers Should Know About the Bootstrap, The American
Statistician 69: too narrow for small n).

Sources: Hodges & Lehmann 1963, Annals of Mathematical Statistics 34; Hollander, Wolfe & Chicken 2014, Nonparametric
Statistical Methods, 3rd edition, sections 3.2 (estimate) and 3.3 (interval).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ryzen_mpi.figures import Figure

CONFIDENCE = 0.95


def hodges_lehmann(values: Sequence[float], confidence: float = CONFIDENCE) -> Figure:
    """The median of all pairwise means of `values`, with its distribution-free interval. Pure.

    The values must come from a distribution symmetric about what is estimated: differences of paired launches are.
    Fewer than six give the widest interval there is, which holds 93.75 % of five, 75 % of three and nothing of one; the
    figure says how much.
    """
    n = len(values)
    if n == 0:
        return Figure(math.nan, math.nan, math.nan, 0, 0.0)
    walsh = sorted((values[i] + values[j]) / 2 for i in range(n) for j in range(i, n))
    pairs = len(walsh)
    middle = (walsh[(pairs - 1) // 2] + walsh[pairs // 2]) / 2
    ways, tail, cut, covered = _signed_rank_counts(n), 0, 1, 1 - 2 * 0.5**n
    for rank in range(pairs // 2):  # the interval from the `rank + 1`-th mean to the one as far from the other end
        tail += ways[rank]
        holds = 1 - 2 * tail / 2**n
        if holds < confidence:
            break
        cut, covered = rank + 1, holds
    return Figure(middle, walsh[cut - 1], walsh[pairs - cut], n, covered)


def geometric(values: Sequence[float], confidence: float = CONFIDENCE) -> Figure:
    """As `hodges_lehmann`, of positive values by their logarithms: for ratios, times and rates. Pure.

    The estimate of 1/x is one over that of x, and a rate from a fixed amount agrees with its time.
    """
    return hodges_lehmann([math.log(value) for value in values], confidence).mapped(math.exp)


def _signed_rank_counts(n: int) -> list[int]:
    """Subsets of 1..n by their sum: the distribution of Wilcoxon's signed ranks, times 2**n."""
    ways = [1]
    for rank in range(1, n + 1):
        longer = ways + [0] * rank
        for total, count in enumerate(ways):
            longer[total + rank] += count
        ways = longer
    return ways
