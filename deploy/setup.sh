#!/bin/sh
# Installs what tests need beside Go, on Debian and Ubuntu as root; elsewhere it
# says in one line what to install. Usage: setup.sh pip|postgres|lab|kube ...
set -eu

missing=""
need() { # need PACKAGE, when the command after it fails
	package=$1
	shift
	"$@" >/dev/null 2>&1 || missing="$missing $package"
}

for what in "$@"; do
	case $what in
	pip) need python3-pip sh -c 'command -v pip3 || command -v pip || python3 -m pip --version' ;; # gets Envoy
	postgres) need postgresql sh -c 'command -v postgres || ls /usr/lib/postgresql/*/bin/postgres' ;;
	lab)
		need iproute2 command -v ip
		need nftables command -v nft
		;;
	kube) # Kubernetes nodes as processes: e2e/kubelab
		need containerd command -v containerd
		need runc command -v runc
		need containernetworking-plugins test -e /usr/lib/cni/ptp
		need iptables command -v iptables
		need nftables command -v nft
		need iproute2 command -v ip
		need openssl command -v openssl
		need procps command -v pgrep
		;;
	*)
		echo "setup.sh: unknown part: $what" >&2
		exit 2
		;;
	esac
done

[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	echo "installing$missing"
	# A cluster of the distribution's own is not wanted: tests start private servers.
	mkdir -p /etc/postgresql-common
	[ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
	# Nor is any service of a package started: nodes run their own.
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
		chmod +x /usr/sbin/policy-rc.d
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
	fi
	# Both again: a mirror may be in the middle of its own update, what it lists gone.
	sh "$(dirname "$0")/again.sh" sh -eu -c 'export DEBIAN_FRONTEND=noninteractive
		get() { apt-get -o Acquire::Retries=5 -o DPkg::Lock::Timeout=300 "$@"; }
		get update -qq
		get install -y -qq --no-install-recommends "$@" >/dev/null' setup $missing
else
	echo "install first:$missing (Debian and Ubuntu package names)" >&2
	exit 1
fi
