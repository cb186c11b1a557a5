#!/bin/bash
# Phase 1: 4 ranks on 1 node, for its soak of 24 h.
#   sbatch slurm/phase1.sh [--config NAME|FILE] [--run-dir DIR] [SECTION.KEY=VALUE]...
#SBATCH --job-name=phase1
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=1-00:30:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
# --exclusive and --mem=0: all cores and memory; every rank is bound to the cores of one NUMA domain, 4 or more.
# --signal: 600 s before the limit the job saves; --requeue: then it goes on where it was.
# --no-kill: when a node is lost the job keeps the others, and the supervisor goes on there. (Should it be the first
# node, where the supervisor runs, watch_first_node.sh has the job queued again.)

# Slurm runs a copy of this file in a spool folder, and knows where the file itself lies.
here=$(dirname -- "$0")
if [[ ! -e $here/body.sh && -n ${SLURM_JOB_ID-} ]]; then
    command=$(scontrol show job "$SLURM_JOB_ID" | sed -n '/^ *Command=/ { s///p; q }')
    here=$(dirname -- "${command%%.sh *}") # the arguments stand behind it, and its path may hold spaces
    [[ $here == /* ]] || here=$SLURM_SUBMIT_DIR/$here
fi
exec bash "$here/body.sh" 1 1 4 "$@"
