"""The scaling worker with ranks that never exchange a gradient, as in the documents: each trains its shard alone."""

import sys

from ryzen_mpi.scaling import worker
from ryzen_mpi.training.reduce import ArenaReducer, BucketedReducer


def alone(self) -> float:
    return 0.0


ArenaReducer._reduce = BucketedReducer._reduce = alone
sys.exit(worker.main())
