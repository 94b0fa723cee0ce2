#!/usr/bin/env bash
# hold.sh CLUSTER.SH NAME...: starts clusters at once, says "ready", keeps them until its
# standard input ends, and removes them and $STATE. The test that started it holds
# the other end: however the test ends, nothing of it stays.
set -uo pipefail
cluster=$1
shift
trap : INT TERM # the end of the input is the only reason to go

pids=()
for name; do
	"$cluster" up "$name" >&2 </dev/null &
	pids+=($!)
done
up=ready
for pid in "${pids[@]}"; do wait "$pid" || up=failed; done
echo $up
cat >/dev/null

status=0
for name; do "$cluster" down "$name" >&2 </dev/null || status=1; done
rm -rf "$STATE" || status=1
exit $status
