"""The tests in `ranks/` run inside a world of ranks: only `test_at_every_size.py` starts them."""

import os

collect_ignore = [] if "RYZEN_MPI_TEST_RANKS" in os.environ else ["ranks"]
