#!/usr/bin/env bash
# Builds the Gateway API's mesh conformance tests for a cluster that has Tombolo:
# run.sh DIR. Into DIR go the tests (conformance.test), their workload's image
# (echo.tar, to be loaded into the nodes) and the Gateway API's definitions (crds).
# Then, with a KUBECONFIG: DIR/conformance.test -test.v -report-output FILE.
# MKIMAGE (default ../../.cache/kubelab/bin/mkimage) packs the image.
set -euo pipefail
cd "$(dirname "$0")"
MKIMAGE=${MKIMAGE:-../../.cache/kubelab/bin/mkimage}

dir=${1:?usage: run.sh DIR}
mkdir -p "$dir"

go test -c -trimpath -o "$dir/conformance.test" .
CGO_ENABLED=0 go build -trimpath -o "$dir/client" ./echo
# The name that the tests' manifests carry.
image=$(grep -om1 'registry.k8s.io/gateway-api/echo-advanced:.*' "$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api/conformance)/mesh/manifests.yaml")
"$MKIMAGE" -o "$dir/echo.tar" -t "$image" -entrypoint /usr/local/bin/server \
	"$dir/client=/usr/local/bin/client" "$dir/client=/usr/local/bin/server"
rm -rf "$dir/crds"
cp -r "$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)/config/crd/standard" "$dir/crds"
chmod -R u+w "$dir/crds"
