#!/usr/bin/env bash
# promptmill run, for schedulers: wait for the cluster, run the job, end with a code a scheduler can act on.
#
#   entrypoint.sh JOB.yaml [--set a.b=c ...]      takes what `promptmill run` takes
#
#   RAY_ADDRESS                  the cluster to join; unset: this machine alone, nothing to wait for
#   PROMPTMILL_CLUSTER_WAIT_S    how long to wait for it (600)
#   PROMPTMILL_PID_FILE          where to write this process's id, for whoever wants to stop it gently
#   PROMPTMILL_CODE_FILE         where to write the code this ends with, for whoever waits for more than that
#
# Ends with
#   0     done. Failed samples (3 of promptmill) count as done, with a warning: another run would not make them again
#   2     the job or its input is wrong: running it again cannot help
#   75    interrupted (130 and 143 of promptmill): run the same command again and it continues
#   else  promptmill's own: 1 unexpected, 4 storage, 5 cluster, 137 killed. Worth another try, but not for ever
set -uo pipefail

readonly RETRY=75 # EX_TEMPFAIL of sysexits.h
readonly CLUSTER=5

# As promptmill decides it: the last --log-format, else the variable.
log_format=${PROMPTMILL_LOG_FORMAT:-text} before=
for word in "$@"; do
  [[ $before != --log-format ]] || log_format=$word
  [[ $word != --log-format=* ]] || log_format=${word#*=}
  before=$word
done
readonly log_format

exec 3>&2 # for `say` and promptmill: standard error is closed before bash would write of a child that was killed

# say LEVEL TEXT: a line without control characters, or with --log-format json an object with the fields of promptmill's own.
say() {
  local level=$1 text
  if [[ $log_format != json ]]; then
    printf 'entrypoint: %s\n' "${2//[[:cntrl:]]/?}" >&3
    return
  fi
  text=$(printf %s "$2" | LC_ALL=C tr -c ' -~' '?')
  text=${text//\\/\\\\}
  TZ=UTC printf '{"time": "%(%Y-%m-%dT%H:%M:%SZ)T", "level": "%s", "event": "message", "run": "entrypoint-%s", "process": %s, "message": "%s"}\n' \
    -1 "$level" "$$" "$$" "${text//\"/\\\"}" >&3
}

wait_for_cluster() {
  local limit_s=${PROMPTMILL_CLUSTER_WAIT_S:-600} began=$SECONDS answer
  # timeout: a host that swallows packets would otherwise hold the health check for minutes.
  until answer=$(timeout 20 ray health-check --address "$RAY_ADDRESS" 2>&1); do
    if ((SECONDS - began >= limit_s)); then
      say error "waited $limit_s s for the Ray cluster at $RAY_ADDRESS: ${answer##*$'\n'}"
      say error "is its head up, and is RAY_AUTH_TOKEN the token it was started with?"
      return "$CLUSTER"
    fi
    sleep 2
  done
}

child=
# shellcheck disable=SC2329 # called by the trap
stop() {
  [[ -n $child ]] || exit "$RETRY"
  say info "stopping: the shards in hand are finished first"
  kill -TERM "$child" 2>/dev/null
}
trap stop TERM INT

if [[ -n ${PROMPTMILL_CODE_FILE:-} ]]; then
  trap 'printf "%s\n" "$?" >"$PROMPTMILL_CODE_FILE"' EXIT
fi
if [[ -n ${PROMPTMILL_PID_FILE:-} ]]; then
  printf '%s\n' "$$" >"$PROMPTMILL_PID_FILE"
fi
if [[ -n ${RAY_ADDRESS:-} ]]; then
  wait_for_cluster || exit
fi

# Job control gives promptmill a process group of its own: a terminal's Ctrl-C then reaches it once, through `stop`, and
# not twice, which would mean "at once". It also spares it the ignored SIGINT of background processes.
exec 2>/dev/null
set -m
promptmill run "$@" 2>&3 3>&- &
child=$!
set +m
# `wait` returns early when a signal comes; after the end it gives the real status again.
while kill -0 "$child"; do wait "$child"; done
wait "$child"
code=$?

case $code in
  3)
    say warning "warning: done, but some samples failed. \`promptmill retry URL\` makes them again"
    exit 0
    ;;
  130 | 143)
    say info "interrupted; the same command continues"
    exit "$RETRY"
    ;;
  *)
    ((code <= 128)) || say error "promptmill was ended by signal $((code - 128))"
    exit "$code"
    ;;
esac
