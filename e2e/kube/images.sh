#!/usr/bin/env bash
# Packs Tombolo's images and the workload's for the laboratory, from the same files
# that the Dockerfiles take: images.sh OUT. Needs ENVOY (a binary), and MKIMAGE of
# e2e/kubelab.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$1
mkdir -p "$out"
export CGO_ENABLED=0
go build -trimpath -o "$out/" ./cmd/tombolo ./cmd/tombolo-agent ./e2e/kube/echo

image() { # image NAME USER SRC=DEST...: entrypoint is /usr/local/bin/NAME
	local name=$1 user=$2
	shift 2
	"$MKIMAGE" -o "$out/$name.tar" -t "local/$name:dev" -user "$user" -entrypoint "/usr/local/bin/$name" "$@"
}

# Envoy needs glibc and nothing else.
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/usr/local/bin" "$root/tmp"
chmod 1777 "$root/tmp"
cp -L "$ENVOY" "$root/usr/local/bin/envoy"
cp "$out/tombolo-agent" "$root/usr/local/bin/"
# shellcheck disable=SC2046
cp -L --parents $(ldd "$ENVOY" | grep -o '/[^ ]*') "$root"
image tombolo-agent 1337:1337 "$root/=/"
image tombolo 65532:65532 "$out/tombolo=/usr/local/bin/tombolo"
image echo 65532:65532 "$out/echo=/usr/local/bin/echo"
