"""slurm/*.sh as Slurm runs them: a copy in a spool folder, with a stub in the place of env/run."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from ryzen_mpi.cluster.phases import PHASES

REPO = Path(__file__).parents[2]
STUB = '#!/bin/bash\necho "pid $$ mpi ${ENV_MPI-}"\nprintf \'[%s]\\n\' "$@"\n'


class Cluster:
    """A checkout with a stub for env/run, a spool folder, and a scontrol that knows where a job's file came from."""

    def __init__(self, folder: Path, checkout: str) -> None:
        self.checkout, self.folder = folder / checkout, folder
        shutil.copytree(REPO / "slurm", self.checkout / "slurm")
        (self.checkout / "env").mkdir()
        shutil.copy(REPO / "env/modules.sh", self.checkout / "env/modules.sh")
        for name in ("bin", "spool", "home"):
            (folder / name).mkdir()
        self.write(self.checkout / "env/run", STUB)
        self.write(folder / "bin/srun", f'#!/bin/sh\nprintf "%s\\n" "$@" >"{folder}/watched"\n')

    def write(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def environment(self, **changes: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "ENV_"))}
        return kept | {"PATH": f"{self.folder / 'bin'}:/usr/bin:/bin"} | changes

    def run(self, file: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["/bin/bash", str(file), *words],
            cwd=self.folder / "home",
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def batch(
        self, name: str, *words: str, file: str | None = None, typed: str = "", **variables: str
    ) -> subprocess.CompletedProcess:
        """The batch script of a job of phase `name`, on the nodes it asks for unless `variables` say otherwise."""
        row = PHASES[name]
        origin = self.checkout / "slurm" / (file or f"phase{name}.sh")
        command = " ".join((typed or str(origin), *words))
        (self.folder / "job").write_text(f"JobId=7 JobName=x\n   Requeue=1\n   Command={command}\n   WorkDir=/x\n")
        self.write(self.folder / "bin/scontrol", f'#!/bin/sh\n[ "$*" = "show job 7" ] && cat "{self.folder}/job"\n')
        spooled = self.folder / "spool/slurm_script"
        shutil.copy(origin, spooled)
        facts = {
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NUM_NODES": str(row.nodes),
            "SLURM_NTASKS_PER_NODE": "4",
            "SLURM_NTASKS": str(row.ranks),
            "SLURM_SUBMIT_DIR": str(self.folder / "home"),
        }
        return self.run(spooled, *words, **(facts | variables))


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path, "checkout")


def started(done: subprocess.CompletedProcess) -> list[str]:
    """The words env/run got."""
    assert done.returncode == 0, done.stderr
    return [line[1:-1] for line in done.stdout.splitlines() if line.startswith("[")]


@pytest.mark.parametrize("name", PHASES)
def test_a_phase_starts_the_supervisor_with_its_nodes_and_ranks(cluster, name):
    run = str(cluster.folder / f"home/runs/phase{name}-7")
    supervise = f"python -m ryzen_mpi.supervise --nodes {PHASES[name].nodes} --ranks-per-node 4 --run-dir"
    train = "-- auto python -m ryzen_mpi.train --run-dir"
    assert started(cluster.batch(name)) == [*supervise.split(), run, *train.split(), run]


def test_arguments_are_for_training_word_by_word_and_the_run_directory_is_for_both(cluster):
    words = started(
        cluster.batch("2a", "--config", "a b.yaml", "data.paths=/x y/*.sh z", "--run-dir", "/r 1", "model.x=$HOME", "")
    )
    at = words.index("--")
    assert words[at - 2 : at] == ["--run-dir", "/r 1"]
    training = ["--run-dir", "/r 1", "--config", "a b.yaml", "data.paths=/x y/*.sh z", "model.x=$HOME", ""]
    assert words[at + 5 :] == training
    assert "/r2" in started(cluster.batch("2a", "--run-dir=/r2"))


@pytest.mark.parametrize("checkout", ["with space", "a.share/b.sh.d", "ü'\"$x"])
def test_the_checkout_may_lie_anywhere(tmp_path, checkout):
    cluster = Cluster(tmp_path, checkout)
    assert started(cluster.batch("2b"))
    assert started(cluster.batch("2b", "data.paths=/somewhere/else", "x=y.sh z"))


@pytest.mark.parametrize("typed", ["../checkout/slurm/phase1.sh", "./../checkout/slurm/phase1.sh"])
def test_slurm_knows_the_path_as_it_was_typed_which_may_be_relative(cluster, typed):
    assert started(cluster.batch("1", "a=1", typed=typed))
    cluster.write(cluster.folder / "spool/cd", "cd /")  # sbatch --chdir: the job begins elsewhere
    assert started(cluster.batch("1", typed=typed, BASH_ENV=str(cluster.folder / "spool/cd")))
    done = cluster.batch("1", typed="phase1.sh", SLURM_SUBMIT_DIR=str(cluster.checkout / "slurm"))
    assert started(done)[-1] == str(cluster.checkout / "slurm/runs/phase1-7")


def test_a_copy_under_another_name_beside_it_works(cluster):
    shutil.copy(cluster.checkout / "slurm/phase1.sh", cluster.checkout / "slurm/my-phase1.sh")
    assert started(cluster.batch("1", "training.seed=1", file="my-phase1.sh"))


def test_it_is_one_process_from_the_batch_shell_on(cluster):
    """Slurm signals the batch shell alone: what it has become must be the supervisor."""
    cluster.batch("1")  # spools the file
    process = subprocess.Popen(
        ["/bin/bash", str(cluster.folder / "spool/slurm_script")],
        env=cluster.environment(SLURM_JOB_ID="7", SLURM_JOB_NUM_NODES="1", SLURM_NTASKS="4"),
        cwd=cluster.folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert f"pid {process.pid} " in process.communicate(timeout=60)[0]


@pytest.mark.parametrize(
    ("name", "got", "told"),
    [
        (
            "2b",
            {"SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "8"},
            "needs nodes=3 ranks=12 (4 a node); this job got nodes=2",
        ),
        ("2b", {"SLURM_NTASKS_PER_NODE": "2", "SLURM_NTASKS": "6"}, "got nodes=3 ranks=6"),
        ("1", {"SLURM_JOB_NUM_NODES": "4", "SLURM_NTASKS": "16"}, "got nodes=4 ranks=16"),
        (
            "2a",
            {"SLURM_NTASKS": "", "SLURM_NTASKS_PER_NODE": "", "SLURM_TASKS_PER_NODE": "1(x2)"},
            "got nodes=2 ranks=2",
        ),
        ("2a", {"SLURM_JOB_NUM_NODES": ""}, "got nodes=0"),
    ],
)
def test_another_number_of_nodes_or_ranks_is_refused_with_both(cluster, name, got, told):
    done = cluster.batch(name, **got)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith(f"slurm/phase{name}.sh: ") and told in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [["--run-dir"], ["--run-dir", ""], ["--run-dir="]])
def test_a_run_directory_without_a_name_is_refused(cluster, words):
    done = cluster.batch("1", *words)
    assert done.returncode == 2 and "--run-dir needs a directory" in done.stderr


def test_outside_slurm_it_says_what_to_type(cluster):
    done = cluster.run(cluster.checkout / "slurm/phase2a.sh")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "not inside a Slurm job: sbatch slurm/phase2a.sh" in done.stderr and "env/run mpirun -np 4" in done.stderr


def test_all_nodes_but_the_first_watch_the_first(cluster):
    assert started(cluster.batch("2c"))
    wait_for(cluster.folder / "watched")
    words = (cluster.folder / "watched").read_text().splitlines()
    assert {"--relative=1", "--nodes=3", "--ntasks=3", "--overlap", "--no-kill"} < set(words)
    assert words[-3:] == ["bash", str(cluster.checkout / "slurm/watch_first_node.sh"), "7"]


def wait_for(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists() or not path.read_text():
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("facts", "requeued"),
    [
        ("JobId=7 NodeList=n[1-3] BatchHost=n1 NumNodes=3", False),
        ("JobId=7 ReqNodeList=n9 NodeList=n[2-3] BatchHost=n1 NumNodes=2", True),
        ("JobId=7 JobState=PENDING NodeList=(null) NumNodes=3", False),
        ("", False),  # the controller does not answer
    ],
)
def test_a_job_that_lost_its_first_node_is_queued_again(cluster, facts, requeued):
    scontrol = f"""#!/bin/sh
case "$*" in
    "--oneliner show job 7") [ -n "{facts}" ] && echo "{facts}" ;;
    "show hostnames n[1-3]") printf 'n1\\nn2\\nn3\\n' ;;
    "show hostnames n[2-3]") printf 'n2\\nn3\\n' ;;
    *) echo "$*" >>"{cluster.folder}/asked" ;;
esac
"""
    cluster.write(cluster.folder / "bin/scontrol", scontrol)
    once = f'#!/bin/sh\n[ ! -e "{cluster.folder}/slept" ] && touch "{cluster.folder}/slept"\n'
    cluster.write(cluster.folder / "bin/sleep", once)
    cluster.run(cluster.checkout / "slurm/watch_first_node.sh", "7")
    asked = cluster.folder / "asked"
    assert (asked.read_text() if asked.exists() else "") == ("requeue 7\n" if requeued else "")


def modules(cluster: Cluster, listed: str) -> None:
    path = cluster.checkout / "env/modules.sh"
    path.write_text(path.read_text().replace("site_modules=()", f"site_modules=({listed})", 1))


def test_as_it_stands_no_module_is_loaded(cluster):
    done = cluster.batch("1", BASH_ENV=str(module_command(cluster)))
    assert " mpi \n" in done.stdout and not done.stderr and not (cluster.folder / "loaded").exists()


def module_command(cluster: Cluster) -> Path:
    """A `module` as batch shells get it; loading openmpi brings an mpirun."""
    path = cluster.folder / "module.sh"
    where = cluster.folder
    cluster.write(where / "bin/x", "")
    (where / "openmpi").mkdir()
    cluster.write(where / "openmpi/mpirun", "#!/bin/sh\n")
    path.write_text(f'module() {{ echo "$*" >{where}/loaded; PATH={where}/openmpi:$PATH; }}\n')
    return path


def test_a_sites_modules_are_loaded_and_their_mpi_is_used(cluster):
    modules(cluster, "gcc/13 openmpi/5")
    file = module_command(cluster)
    done = cluster.batch("1", BASH_ENV=str(file))
    assert (cluster.folder / "loaded").read_text() == "load gcc/13 openmpi/5\n"
    assert " mpi site\n" in done.stdout and not done.stderr
    assert " mpi embedded\n" in cluster.batch("1", BASH_ENV=str(file), ENV_MPI="embedded").stdout


def test_modules_on_a_node_without_modules_are_a_line_and_no_end(cluster):
    modules(cluster, "openmpi/5")
    if Path("/etc/profile.d/modules.sh").exists() or Path("/etc/profile.d/lmod.sh").exists():
        pytest.skip("this machine has modules")
    done = cluster.batch("1")
    assert started(done) and "no module command; not loaded: openmpi/5" in done.stderr


def test_validation_runs_the_checks_and_ends_with_the_gate(cluster):
    results = str(cluster.folder / "home/runs/validation-2a")
    words = started(cluster.batch("2a", "phase2a", "--duration", "1h", "model.x=a b", file="validate.sh"))
    assert words == [
        *("ryzen-mpi", "validate", "2a", "--out", results, "--duration", "1h", "model.x=a b"),
        *("ryzen-mpi", "gate", "2a", "--results", results),
    ]


@pytest.mark.parametrize(("code", "expected"), [(0, 4), (1, 4), (3, 4), (2, 2), (130, 130)])
def test_the_exit_code_of_a_validation_is_the_gates_where_there_is_something_to_judge(cluster, code, expected):
    cluster.write(cluster.checkout / "env/run", f"#!/bin/bash\n[[ $2 == gate ]] && exit 4\nexit {code}\n")
    assert cluster.batch("1", "1", file="validate.sh").returncode == expected


@pytest.mark.parametrize(
    ("words", "variables", "told"),
    [
        ((), {}, "which phase?"),
        (("3",), {}, "which phase?"),
        (("2b",), {}, "phase 2b has nodes=3; this job got nodes=1: sbatch --nodes=3"),
        (("1",), {"SLURM_JOB_ID": ""}, "not inside a Slurm job"),
    ],
)
def test_a_validation_that_does_not_fit_is_refused(cluster, words, variables, told):
    done = cluster.batch("1", *words, file="validate.sh", **variables)
    assert done.returncode == 2 and told in done.stderr and not done.stdout
