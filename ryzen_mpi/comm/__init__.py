"""torch.distributed out of a communicator, over MPI and the memory that the ranks of a node share."""

import os
import sys

# env/run compiles the kernel into its virtual environment: the checkout may be read-only, or shared by several
__path__.insert(0, os.path.join(sys.prefix, "kernel"))
