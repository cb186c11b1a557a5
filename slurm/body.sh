#!/bin/bash
# What the four phase files share: body.sh PHASE NODES RANKS_PER_NODE [ARGUMENT]...
#   --config NAME|FILE   profile or file to train with
#   --run-dir DIR        where the run is kept (default: runs/<phase>-<job> where sbatch was called); continued if
#                        it holds checkpoints
#   SECTION.KEY=VALUE    a setting
# Every program replaces the one before (exec), so that the supervisor gets the signals Slurm sends to the batch shell.

refuse() { printf 'slurm/phase%s.sh: %s\n' "$phase" "$1" >&2; exit 2; }

# The node and rank counts Slurm gave must be the phase's: its gates are judged by them.
check_allocation() {
    [[ -n ${SLURM_JOB_ID-} ]] ||
        refuse "not inside a Slurm job: sbatch slurm/phase$phase.sh,"\
" or on one machine env/run mpirun -np $ranks_per_node python -m ryzen_mpi.train"
    local got_nodes=${SLURM_JOB_NUM_NODES:-0} got_ranks=${SLURM_NTASKS-} each
    if [[ -z $got_ranks ]]; then # Slurm was asked for no number of tasks; 4(x3) is its way to say 4 on each of 3 nodes
        each=${SLURM_NTASKS_PER_NODE:-${SLURM_TASKS_PER_NODE-}}
        each=${each%%[!0-9]*}
        got_ranks=$((got_nodes * ${each:-0}))
    fi
    ((got_nodes == nodes && got_ranks == nodes * ranks_per_node)) ||
        refuse "needs nodes=$nodes ranks=$((nodes * ranks_per_node)) ($ranks_per_node a node);"\
" this job got nodes=$got_nodes ranks=$got_ranks"
}

phase=$1 nodes=$2 ranks_per_node=$3
shift 3
repo=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P) || exit 1
check_allocation

# A requeued job keeps its number, and so finds its run again.
run=${SLURM_SUBMIT_DIR:-$PWD}/runs/phase$phase-$SLURM_JOB_ID
training=()
while (($#)); do
    case $1 in
        --run-dir) (($# > 1)) || refuse "--run-dir needs a directory"; run=$2; shift ;;
        --run-dir=*) run=${1#*=} ;;
        *) training+=("$1") ;;
    esac
    shift
done
[[ -n $run ]] || refuse "--run-dir needs a directory"

[[ -r $repo/env/modules.sh ]] && source "$repo/env/modules.sh"
echo "phase $phase, job $SLURM_JOB_ID${SLURM_RESTART_COUNT:+, restart $SLURM_RESTART_COUNT}:"\
    "$ranks_per_node ranks a node on ${SLURM_JOB_NODELIST-$nodes nodes}, run directory $run"
if ((nodes > 1)); then
    # In a subshell, so that it is no child of the supervisor, which ends all its children when an attempt is over.
    # Without output, because it is always killed: when the job ends.
    (srun --overlap --no-kill --nodes=$((nodes - 1)) --ntasks=$((nodes - 1)) --ntasks-per-node=1 --relative=1 --mpi=none \
        --cpu-bind=none --input=none bash "$repo/slurm/watch_first_node.sh" "$SLURM_JOB_ID" >/dev/null 2>&1 &)
fi
exec "$repo/env/run" python -m ryzen_mpi.supervise \
    --nodes "$nodes" --ranks-per-node "$ranks_per_node" --run-dir "$run" -- \
    auto python -m ryzen_mpi.train --run-dir "$run" "${training[@]}"
