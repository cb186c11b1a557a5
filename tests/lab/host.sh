#!/usr/bin/env bash
# host.sh FOLDER NAME [PATH...]: init of a host of the lab; PATHs stay visible. Started by hosts.py in new namespaces.
set -e
folder=$1 name=$2; shift 2
cd /
hostname "$name"
mount -t tmpfs -o mode=755 tmpfs /run

# What lies under /tmp and must stay visible (a checkout made there, its Python) is put aside while that is covered.
bind() { if [[ -e $1 ]]; then mkdir -p "$2"; mount --rbind "$1" "$2"; fi; }
keep() { for path in "$@"; do bind "$path" "/run/keep$path"; done; }
back() { for path in "$@"; do bind "/run/keep$path" "$path"; done; }
keep "$@" /sys/fs/cgroup
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
back "$@" /sys/fs/cgroup

mount --bind "$folder/etc/hosts" /etc/hosts
mount --bind "$folder/etc/slurm" /etc/slurm
echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6

# Bash as init collects the orphans it inherits, also while it waits in `read`, and needs no child to wait for.
mkfifo /run/never
exec 3<>/run/never
echo ready
while :; do read -r -u 3 || :; done
