"""The default job as a person starts it: how well it learns, how long it takes.

    python benchmarks/main_job.py [--ranks 4] [--save]

The figures are those of the run's own COMPLETE.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import common


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results/")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = ["mpirun", "-np", str(options.ranks), sys.executable, "-m", "ryzen_mpi.train", "--run-dir", str(run)]
        subprocess.run(command, check=True)
        summary = json.loads((run / "COMPLETE.json").read_text())
    if options.save:
        print(f"kept in {common.save('main_job', {'summary': summary})}")


if __name__ == "__main__":
    main()
