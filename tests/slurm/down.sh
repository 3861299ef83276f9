#!/usr/bin/env bash
# Ends what tests/slurm/up.sh DIR started, each process by its own id.
set -u
dir=$(cd "$1" && pwd)
export SLURM_CONF="$dir/slurm.conf"
scancel --user="$(id -un)" 2>/dev/null
for file in "$dir"/run/slurmd.*.pid "$dir"/run/slurmctld.pid "$dir"/run/munged.pid; do
  [ -s "$file" ] || continue
  pid=$(cat "$file")
  kill "$pid" 2>/dev/null
  for _ in $(seq 1 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
done
exit 0
