#!/usr/bin/env bash
# Brings up a real Slurm (munged, slurmctld and some slurmd) on this one machine, private to one
# folder, without systemd: tests/slurm/up.sh DIR [NODES=1] [CPUS=2]
# Needs: apt-get install -y --no-install-recommends slurm-wlm munge
# Afterwards: export SLURM_CONF=DIR/slurm.conf; sbatch ...; tests/slurm/down.sh DIR
set -euo pipefail
mkdir -p "$1"
dir=$(cd "$1" && pwd)
nodes=${2:-1}
cpus=${3:-2}
host=$(hostname -s)
mkdir -p "$dir"/{run,log,state,munge}
chmod 700 "$dir/munge"
# Slurm looks the host's name up; loopback will do.
getent hosts "$host" >/dev/null || echo "127.0.0.1 $host" >> /etc/hosts

free_ports() {
  python3 -c '
import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*[each.getsockname()[1] for each in held])' "$1"
}
read -r -a ports <<< "$(free_ports $((nodes + 1)))"

(umask 077; head -c 128 /dev/urandom > "$dir/munge/key")
/usr/sbin/munged --force --key-file="$dir/munge/key" --socket="$dir/munge/sock" \
  --pid-file="$dir/run/munged.pid" --log-file="$dir/log/munged.log" --seed-file="$dir/munge/seed"

{
  cat <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$dir/munge/sock
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/state/slurmd.%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=bf_interval=1,batch_sched_delay=0,sched_interval=1
MinJobAge=300
InactiveLimit=0
KillWait=5
Waittime=0
SlurmctldTimeout=10
SlurmdTimeout=10
SlurmdParameters=config_overrides
CONF
  for i in $(seq 1 "$nodes"); do
    echo "NodeName=n$i NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[$i]} CPUs=$cpus RealMemory=4000 State=UNKNOWN"
  done
  # A job of "high" takes the CPUs of jobs of "low", which are sent SIGTERM and queued again.
  echo "PartitionName=main Nodes=ALL Default=YES PriorityTier=5 PreemptMode=OFF MaxTime=INFINITE State=UP"
  echo "PartitionName=low Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=0 MaxTime=INFINITE State=UP"
  echo "PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP"
} > "$dir/slurm.conf"

export SLURM_CONF="$dir/slurm.conf"
/usr/sbin/slurmctld -c
for i in $(seq 1 "$nodes"); do /usr/sbin/slurmd -N "n$i"; done
for _ in $(seq 1 150); do
  [ "$(sinfo -h -o '%T %D' -p main 2>/dev/null)" = "idle $nodes" ] && exit 0
  sleep 0.2
done
echo "Slurm did not come up; its logs:" >&2
tail -n 20 "$dir"/log/*.log >&2
exit 1
