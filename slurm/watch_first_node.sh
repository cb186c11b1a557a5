#!/bin/bash
# watch_first_node.sh JOB: on every node of a job but the first; queues the job again once Slurm has lost the first.
# With --no-kill a job outlives its first node too, and with that node the batch script and the supervisor: it would
# be "running" until its time limit, with nobody in it who could end it.
while sleep 10; do
    facts=$(timeout 15 scontrol --oneliner show job "$1") || continue # the controller may be restarting
    [[ $facts =~ \ NodeList=([^ ]+)\ .*\ ?BatchHost=([^ ]+) ]] || continue
    first=${BASH_REMATCH[2]}
    nodes=$(scontrol show hostnames "${BASH_REMATCH[1]}") && [[ -n $nodes ]] || continue
    grep -qxF -- "$first" <<<"$nodes" && continue
    scontrol requeue "$1"
done
