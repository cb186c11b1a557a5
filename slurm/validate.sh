#!/bin/bash
# The checks of a phase, and its gate. The job fails where the gate is not GO, so that the next phase can wait for it:
#   job=$(sbatch --parsable --nodes=1 slurm/validate.sh 1)
#   sbatch --dependency=afterok:$job slurm/phase2a.sh
# Arguments after the phase go to `ryzen-mpi validate`: --duration 24h, --only soak, SECTION.KEY=VALUE.
# Nodes: 1 for phase 1, 2 for 2a, 3 for 2b, 4 for 2c.
#SBATCH --job-name=validate
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=1-12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
# --requeue: results are kept as they come, and a soak goes on where it was.

refuse() { printf 'slurm/validate.sh: %s\n' "$1" >&2; exit 2; }

# Slurm runs a copy of this file in a spool folder, and knows where the file itself lies.
here=$(dirname -- "$0")
if [[ ! -e $here/body.sh && -n ${SLURM_JOB_ID-} ]]; then
    command=$(scontrol show job "$SLURM_JOB_ID" | sed -n '/^ *Command=/ { s///p; q }')
    here=$(dirname -- "${command%%.sh *}") # the arguments stand behind it, and its path may hold spaces
    [[ $here == /* ]] || here=$SLURM_SUBMIT_DIR/$here
fi
repo=$(cd -- "$here/.." && pwd -P) || exit 1

phase=${1#phase}
case $phase in
    1) nodes=1 ;; 2a) nodes=2 ;; 2b) nodes=3 ;; 2c) nodes=4 ;;
    *) refuse "which phase? sbatch --nodes=N slurm/validate.sh 1|2a|2b|2c" ;;
esac
shift
[[ -n ${SLURM_JOB_ID-} ]] || refuse "not inside a Slurm job: sbatch --nodes=$nodes slurm/validate.sh $phase,"\
" or on this machine env/run ryzen-mpi validate $phase"
[[ ${SLURM_JOB_NUM_NODES-0} == "$nodes" ]] ||
    refuse "phase $phase has nodes=$nodes; this job got nodes=${SLURM_JOB_NUM_NODES-0}: sbatch --nodes=$nodes"
[[ -r $repo/env/modules.sh ]] && source "$repo/env/modules.sh"
results=${SLURM_SUBMIT_DIR:-$PWD}/runs/validation-$phase

"$repo/env/run" ryzen-mpi validate "$phase" --out "$results" "$@"
code=$?
((code == 2 || code > 100)) && exit "$code" # wrong use, or interrupted: nothing to judge
exec "$repo/env/run" ryzen-mpi gate "$phase" --results "$results"
