#!/usr/bin/env bash
# What srun starts on each node: its part of Ray, and on all but the first a look at what became of the first.
#
#   node.sh FIRST_NODE COMMAND...
#
# With --no-kill a job outlives each of its nodes, the first one too, on which batch script and driver are. Then nobody
# else is left to ask Slurm for another try, and the others would be held until the time limit.
set -uo pipefail

readonly first=$1
shift

if [[ -n ${PROMPTMILL_STEP_FILE:-} && ${SLURMD_NODENAME:-$first} == "$first" ]]; then
  printf '%s\n' "${SLURM_STEP_ID:-0}" >"$PROMPTMILL_STEP_FILE"
fi

child='' stopped=''
# shellcheck disable=SC2329 # called by the trap
stop() {
  stopped=1
  [[ -z $child ]] || kill -TERM "$child" 2>/dev/null
}
trap stop TERM INT

"$@" &
child=$!
while kill -0 "$child" 2>/dev/null; do wait "$child"; done
wait "$child"
code=$?

if [[ ${SLURMD_NODENAME:-$first} == "$first" ]]; then
  # Where Ray does not start here there is no driver to write its code: symmetric-run ends with 0, as if all were done,
  # and the other nodes would be held for 900 s.
  if [[ -n ${PROMPTMILL_CODE_FILE:-} && ! -s $PROMPTMILL_CODE_FILE ]]; then
    ((code)) || code=5
    printf '%s\n' "$code" >"$PROMPTMILL_CODE_FILE"
  fi
  exit "$code"
fi
if [[ -n $stopped ]]; then exit "$code"; fi

# Slurm says so after SlurmdTimeout, by default 300 s: a star for no answer, then "down".
first_is_lost() { [[ $(sinfo --noheader --nodes "$first" --format %t) =~ ^down|\*$ ]]; }

limit_s=${PROMPTMILL_FIRST_NODE_WAIT_S:-900} began=$SECONDS
until first_is_lost; do
  if [[ -n $stopped ]] || ((SECONDS - began >= limit_s)); then exit "$code"; fi
  sleep "${PROMPTMILL_LOOK_EVERY_S:-5}" &
  wait $!
done
if ((${SLURM_RESTART_COUNT:-0} < ${PROMPTMILL_MAX_REQUEUES:-5})) &&
  [[ $(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T) == RUNNING ]]; then
  echo "node: $first is lost, and the driver with it: another try" >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
