#!/usr/bin/env bash
# A real SLURM cluster of one node on this machine, for tests: 2 CPUs, 1 pretended GPU, loopback only. Needs root.
#
#   tests/slurm/cluster.sh install          Debian's packages, through apt-get; nothing is started
#   eval "$(tests/slurm/cluster.sh start)"  prints `export SLURM_CONF=... SLURM_TEST_DIR=... PATH=...`, messages on stderr
#   tests/slurm/cluster.sh status           0 when all three daemons answer, 3 when not
#   tests/slurm/cluster.sh stop             cancels the jobs, ends the daemons, clears the folder
#
# SLURM_TEST_DIR   the folder of all its state (none given: mktemp, removed by stop; given: stop leaves the logs)
# SLURM_TEST_PORT  port of slurmctld, the next one is slurmd's (16817)
#
# Clients need SLURM_CONF=DIR/slurm.conf and DIR/bin first in PATH: Snakemake's jobs forget every variable SLURM_* before
# they call srun, and the srun in DIR/bin knows where the configuration is. Nothing is written to /etc/slurm.
#
# Limits are whole minutes: at one minute, TERM comes 60 to 90 s after the start, to every process of the job. KILL follows
# as soon as the batch shell is dead of it, often within a second, and at most 5 s later.
set -euo pipefail

PORT="${SLURM_TEST_PORT:-16817}"
HOME_="${SLURM_TEST_DIR:-}"
PACKAGES=(slurmctld slurmd slurm-client munge)
PROGRAMS=(munged mungekey munge slurmctld slurmd sbatch srun squeue scancel scontrol sinfo)
PATH="$PATH:/usr/sbin:/sbin"

say() { printf 'cluster.sh: %s\n' "$*" >&2; }
die() {
  say "$1"
  exit "${2:-1}"
}

need_root() { [[ $EUID -eq 0 ]] || die "root is needed (slurmd starts jobs)" 77; }

need_programs() {
  local program missing=()
  for program in "${PROGRAMS[@]}"; do
    command -v "$program" >/dev/null || missing+=("$program")
  done
  [[ ${#missing[@]} -eq 0 ]] || die "not installed: ${missing[*]} (try: $0 install)" 77
}

# The process of a pid file, if it still is the program that wrote it and was started for this folder.
pid_of() {
  local pid
  pid="$(cat "$HOME_/run/$1.pid" 2>/dev/null)" || return 1
  [[ -n $pid && -r /proc/$pid/cmdline ]] || return 1
  tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF "$HOME_/" || return 1
  [[ $(cat "/proc/$pid/comm") == "$1"* ]] && echo "$pid"
}

taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

wait_for() { # seconds, command...
  local until=$((SECONDS + $1))
  shift
  while ! "$@" >/dev/null 2>&1; do
    ((SECONDS < until)) || return 1
    sleep 0.1
  done
}

alive() { kill -0 "$1" 2>/dev/null && [[ $(awk '{print $3}' "/proc/$1/stat" 2>/dev/null) != Z ]]; }
gone() { ! alive "$1"; }
idle() { [[ -z $(squeue --noheader) ]]; }
ready() { sinfo --noheader --format=%T | grep -qE '^(idle|mixed|allocated|completing)$'; }

end_pid() { # TERM, then KILL
  kill -TERM "$1" 2>/dev/null || return 0
  wait_for "${2:-10}" gone "$1" || kill -KILL "$1" 2>/dev/null || true
  wait_for 5 gone "$1" || say "process $1 does not end"
}

# Steps outlive slurmd. Ours have our slurm.conf in their environment, as everything they started does.
our_processes() {
  local folder
  for folder in /proc/[0-9]*; do
    [[ ${folder#/proc/} -ne $$ && ${folder#/proc/} -ne $PPID ]] || continue
    [[ $(cat "$folder/comm" 2>/dev/null) == slurmstepd ]] || grep -qz '^SLURM_JOB_ID=' "$folder/environ" 2>/dev/null || continue
    if grep -qzxF "SLURM_CONF=$HOME_/slurm.conf" "$folder/environ" 2>/dev/null; then echo "${folder#/proc/}"; fi
  done
}

# Its place outside our folder, which may be in PATH already.
program_of() { type -ap "$1" | grep -vxF "$HOME_/bin/$1" | head -n 1; }

write_configuration() {
  local name memory
  name="$(hostname -s)"
  memory="$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)"
  cat >"$HOME_/slurm.conf" <<CONF
ClusterName=spikiness
SlurmctldHost=$name(127.0.0.1)
SlurmctldPort=$PORT
SlurmdPort=$((PORT + 1))
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$HOME_/munge/socket
StateSaveLocation=$HOME_/state
SlurmdSpoolDir=$HOME_/spool
SlurmctldPidFile=$HOME_/run/slurmctld.pid
SlurmdPidFile=$HOME_/run/slurmd.pid
SlurmctldLogFile=$HOME_/log/slurmctld.log
SlurmdLogFile=$HOME_/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
ReturnToService=2
OverTimeLimit=0
KillWait=5
InactiveLimit=0
MinJobAge=300
JobRequeue=0
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=$name NodeAddr=127.0.0.1 CPUs=2 Boards=1 SocketsPerBoard=1 CoresPerSocket=2 ThreadsPerCore=1 RealMemory=$memory Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=$name Default=YES MaxTime=INFINITE DefaultTime=10 State=UP
CONF
  echo "NodeName=$name Name=gpu Count=1 File=/dev/zero" >"$HOME_/gres.conf"
  printf '#!/bin/sh\nSLURM_CONF=%q exec %q "$@"\n' "$HOME_/slurm.conf" "$(program_of srun)" >"$HOME_/bin/srun"
  chmod 755 "$HOME_/bin/srun"
}

explain() { # what was waited for: the tails of the logs, then the end
  local log
  for log in "$HOME_"/log/*.log; do
    [[ -s $log ]] && { say "--- $log"; tail -n 8 "$log" >&2; }
  done
  stop >/dev/null 2>&1 || true
  die "$1"
}

start() {
  need_root
  need_programs
  if [[ -n $HOME_ ]] && running; then
    say "already running in $HOME_"
    print_exports
    return
  fi
  local port
  if [[ -n $HOME_ && -e $HOME_/slurm.conf ]]; then # a part of it runs, or its end was not ours
    local made=""
    [[ ! -e $HOME_/made-by-mktemp ]] || made=1
    stop
    if [[ -n $made ]]; then HOME_=""; fi
  fi
  for port in "$PORT" $((PORT + 1)); do
    taken "$port" && die "port $port is taken (another cluster? choose SLURM_TEST_PORT): $(ss -Hltnp "sport = :$port" 2>/dev/null | grep -o 'users:.*')"
  done
  if [[ -z $HOME_ ]]; then
    HOME_="$(mktemp -d "${TMPDIR:-/tmp}/spikiness-slurm.XXXXXX")"
    touch "$HOME_/made-by-mktemp"
  fi
  mkdir -p "$HOME_"
  HOME_="$(cd "$HOME_" && pwd)"
  chmod 755 "$HOME_"
  rm -rf "$HOME_/state" "$HOME_/spool" "$HOME_/run" "$HOME_/munge"
  mkdir -p "$HOME_/state" "$HOME_/spool" "$HOME_/run" "$HOME_/log" "$HOME_/munge" "$HOME_/bin"
  write_configuration
  export SLURM_CONF="$HOME_/slurm.conf"

  # As root and by force: the folder may lie in one that only root can enter, as Python's temporary folders do.
  (umask 077 && mungekey --create --keyfile="$HOME_/munge/key") || die "mungekey failed"
  munged --force --socket="$HOME_/munge/socket" --key-file="$HOME_/munge/key" --log-file="$HOME_/log/munged.log" \
    --pid-file="$HOME_/run/munged.pid" --seed-file="$HOME_/munge/seed" </dev/null >/dev/null 2>"$HOME_/log/start.log" ||
    explain "munged does not start"
  slurmctld -c -f "$SLURM_CONF" </dev/null >/dev/null 2>"$HOME_/log/start.log" || explain "slurmctld does not start"
  slurmd -c -f "$SLURM_CONF" </dev/null >/dev/null 2>"$HOME_/log/start.log" || explain "slurmd does not start"
  wait_for 20 ready || explain "the node does not become idle"
  say "running in $HOME_ (ports $PORT and $((PORT + 1)))"
  print_exports
}

print_exports() { printf 'export SLURM_CONF=%q SLURM_TEST_DIR=%q PATH=%q:"$PATH"\n' "$HOME_/slurm.conf" "$HOME_" "$HOME_/bin"; }

running() {
  export SLURM_CONF="$HOME_/slurm.conf"
  [[ -e $SLURM_CONF ]] && pid_of munged >/dev/null && pid_of slurmctld >/dev/null && pid_of slurmd >/dev/null && ready
}

status() {
  local program pid answer=0
  [[ -n $HOME_ ]] || die "SLURM_TEST_DIR is not set: no cluster known" 3
  for program in munged slurmctld slurmd; do
    if pid="$(pid_of "$program")"; then echo "$program $pid"; else
      echo "$program stopped"
      answer=3
    fi
  done
  if ((answer == 0)); then
    export SLURM_CONF="$HOME_/slurm.conf"
    sinfo --noheader --format='node %n %T cpus %C gres %G' || answer=3
    ready || answer=3
  fi
  return "$answer"
}

stop() {
  need_root
  [[ -n $HOME_ ]] || die "SLURM_TEST_DIR is not set: no cluster to stop (start prints it)"
  [[ -e $HOME_/slurm.conf ]] || {
    say "nothing to stop in $HOME_"
    return 0
  }
  export SLURM_CONF="$HOME_/slurm.conf"
  local pid
  if pid_of slurmctld >/dev/null && pid_of slurmd >/dev/null && ! idle; then
    timeout 10 scancel --state=PENDING --user="$(id -un)" 2>/dev/null || true
    timeout 10 scancel --full --signal=KILL --user="$(id -un)" 2>/dev/null || true
    timeout 10 scancel --user="$(id -un)" 2>/dev/null || true
    wait_for 15 idle || say "jobs are left; their processes are ended"
  fi
  for program in slurmd slurmctld; do
    if pid="$(pid_of "$program")"; then end_pid "$pid"; fi
  done
  for pid in $(our_processes); do end_pid "$pid" 2; done
  if pid="$(pid_of munged)"; then end_pid "$pid"; fi
  if [[ -e $HOME_/made-by-mktemp ]]; then
    rm -rf "$HOME_"
  else
    rm -rf "$HOME_/state" "$HOME_/spool" "$HOME_/run" "$HOME_/munge" "$HOME_/bin" "$HOME_/slurm.conf" "$HOME_/gres.conf"
  fi
  say "stopped"
}

install_packages() {
  need_root
  command -v apt-get >/dev/null || die "no apt-get here: install ${PACKAGES[*]} by hand"
  apt-get update -q >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${PACKAGES[@]}" >&2
  need_programs
}

if [[ -n $HOME_ && $HOME_ != /* ]]; then die "SLURM_TEST_DIR must be an absolute path: $HOME_" 2; fi
case "${1:-}" in
  start) start ;;
  stop) stop ;;
  status) status ;;
  install) install_packages ;;
  *) die "usage: $0 install | start | status | stop" 2 ;;
esac
