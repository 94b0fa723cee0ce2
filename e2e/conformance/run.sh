#!/usr/bin/env bash
# Runs the Gateway API's mesh conformance tests against a cluster that has Tombolo,
# and writes the report.
#
#   KUBECONFIG=... ./run.sh build DIR            the tests and their workload's image, into DIR
#   KUBECONFIG=... ./run.sh crds                 the Gateway API's definitions, standard channel
#   KUBECONFIG=... ./run.sh test DIR REPORT [FLAG...]   e.g. -run-test MeshBasic
#
# MKIMAGE (default ../../.cache/kubelab/bin/mkimage) packs the image; DIR/echo.tar is
# to be loaded into the cluster's nodes. KUBECTL is kubectl's path.
set -euo pipefail
cd "$(dirname "$0")"
MKIMAGE=${MKIMAGE:-../../.cache/kubelab/bin/mkimage}

case ${1:-} in
build)
	dir=$2
	mkdir -p "$dir"
	go test -c -trimpath -o "$dir/conformance.test" .
	CGO_ENABLED=0 go build -trimpath -o "$dir/client" ./echo
	# The name that the tests' manifests carry.
	image=$(grep -om1 'registry.k8s.io/gateway-api/echo-advanced:.*' "$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api/conformance)/mesh/manifests.yaml")
	"$MKIMAGE" -o "$dir/echo.tar" -t "$image" -entrypoint /usr/local/bin/server \
		"$dir/client=/usr/local/bin/client" "$dir/client=/usr/local/bin/server"
	;;
crds)
	"${KUBECTL:-kubectl}" apply --server-side -f "$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)/config/crd/standard"
	;;
test)
	dir=$2 report=$3
	shift 3
	"$dir/conformance.test" -test.v -test.run '^TestMesh$' -report-output "$report" "$@"
	;;
*)
	sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
	exit 2
	;;
esac
