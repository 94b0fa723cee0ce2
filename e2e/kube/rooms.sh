#!/usr/bin/env bash
# Runs the tests of single rooms that ask for a real API server, on a cluster of its
# own that ends with it: rooms.sh CACHE, what kubelab/build.sh has made.
set -euo pipefail
cd "$(dirname "$0")/../.."
CACHE=$1 STATE=$(mktemp -d)
export CACHE STATE
cluster=e2e/kubelab/cluster.sh
trap '"$cluster" down rooms >/dev/null 2>&1 || true; rm -rf "$STATE"' EXIT
"$cluster" up rooms
TOMBOLO_KUBECONFIG=$("$cluster" kubeconfig rooms)
export TOMBOLO_KUBECONFIG
root=$PWD
for room in zone/kube zone/kube/policy; do
	go test -trimpath -c -o "$STATE/room.test" "./$room"
	# Tests run in their own folder, in the network that the API server is in.
	(cd "$room" && "$root/$cluster" net "$STATE/room.test" -test.timeout 15m -test.run 'OnARealCluster|TestRealCluster|TestTokenReview' -test.v)
done
