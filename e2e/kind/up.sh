#!/usr/bin/env bash
# Two kind clusters, east and west, with Tombolo's images, and the suite of e2e/kube
# against them, for people who have Docker: e2e/kind/up.sh [go test flags]. Needs
# docker, kind, kubectl and helm. `kind delete clusters east west` removes them.
set -euo pipefail
cd "$(dirname "$0")/../.."
for name in tombolo tombolo-agent; do
	docker build -q -f "deploy/images/Dockerfile.$name" -t "local/$name:dev" .
done
mkdir -p .cache/kind
CGO_ENABLED=0 go build -trimpath -o .cache/kind/echo ./e2e/kube/echo
printf 'FROM scratch\nCOPY echo /usr/local/bin/echo\nUSER 65532:65532\nENTRYPOINT ["/usr/local/bin/echo"]\n' |
	docker build -q -t local/echo:dev -f - .cache/kind
for cluster in east west; do
	kind get clusters | grep -qx "$cluster" || kind create cluster --name "$cluster" --config e2e/kind/cluster.yaml --wait 3m
	kind load docker-image --name "$cluster" local/tombolo:dev local/tombolo-agent:dev local/echo:dev
done
network=$(docker network inspect kind -f '{{.Id}}' | cut -c1-12)
gateway=$(docker network inspect kind -f '{{range .IPAM.Config}}{{.Gateway}}/{{.Subnet}} {{end}}' | tr ' ' '\n' | grep -v : | grep / | head -1)
# The virtual machines' zone and global run here, outside of the clusters.
make build
export TOMBOLO_IMAGES=$PWD/.cache/kind TOMBOLO_KUBELAB=$PWD/.cache/kind TOMBOLO_ENVOY=${TOMBOLO_ENVOY:-$(go run ./internal/envoybin)}
export TOMBOLO_E2E_KUBE=1 TOMBOLO_HELM="${TOMBOLO_HELM:-$(command -v helm)}"
export TOMBOLO_E2E_KUBE_CONTEXTS=kind-east,kind-west
export TOMBOLO_E2E_KUBE_NODES="docker exec east-control-plane,docker exec west-control-plane"
export TOMBOLO_E2E_KUBE_BRIDGE="br-$network ${gateway%%/*}/${gateway##*/}"
go test -timeout 55m -count=1 -v "$@" ./e2e/kube/...
