#!/usr/bin/env bash
# Measures a zone of 1,000 Services of ten pods in a real API server, with nothing beside
# it that a cluster has: scale.sh CACHE, what kubelab/build.sh has made.
set -euo pipefail
CACHE=$(realpath "$1") STATE=$(mktemp -d)
cd "$(dirname "$0")/../.."
export CACHE STATE
cluster=$PWD/e2e/kubelab/cluster.sh # the end may find us in another folder
trap '"$cluster" down scale >/dev/null || true; rm -rf "$STATE"' EXIT
trap 'exit 143' INT TERM
BARE=1 "$cluster" up scale
TOMBOLO_KUBECONFIG=$("$cluster" kubeconfig scale) TOMBOLO_KUBE_SCALE=${SERVICES:-1000} TOMBOLO_KUBE_KEEP=1
export TOMBOLO_KUBECONFIG TOMBOLO_KUBE_SCALE TOMBOLO_KUBE_KEEP
go test -trimpath -c -o "$STATE/room.test" ./zone/kube
cd zone/kube
"$cluster" net "$STATE/room.test" -test.timeout 15m -test.run '^TestScale$' -test.v &
wait $! # so that a signal is heard at once; without its API server the test ends
