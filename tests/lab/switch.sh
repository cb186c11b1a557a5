#!/usr/bin/env bash
# switch.sh FOLDER: init of the lab's switch. The hosts' mount namespaces are made from its own, and what it mounts in
# FOLDER they all see.
set -e
cd /
mount --bind "$1" "$1"
mount --make-shared "$1"
mount -t tmpfs -o mode=755 tmpfs /run

mkfifo /run/never
exec 3<>/run/never
echo ready
while :; do read -r -u 3 || :; done
