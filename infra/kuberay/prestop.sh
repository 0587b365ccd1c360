#!/usr/bin/env bash
# Before a worker pod ends: no new shard comes here, and those in hand get a chance to be finished.
#
#   prestop.sh [SECONDS]    how long to wait for the worker at most; keep it under the pod's grace period (90)
#
# Ray marks the node as draining; Promptmill's driver then lets the worker go as soon as it has nothing in hand.
# A shard that is not finished in time is made again elsewhere and counts against nobody.
set -uo pipefail

limit_s=${1:-90}
proc=${PROMPTMILL_PROC:-/proc}

timeout 20 ray drain-node --address "${RAY_ADDRESS:-auto}" --reason DRAIN_NODE_REASON_PREEMPTION \
  --reason-message "the pod is ending" --deadline-remaining-seconds "$limit_s" ||
  echo "prestop: Ray did not take the drain; waiting all the same" >&2

# Ray names a worker process after its actor.
working() { grep -qs '^ray::ShardActor' "$proc"/[0-9]*/cmdline; }

while working && ((SECONDS < limit_s)); do sleep 1; done
exit 0
