#!/bin/sh
# Installs what tests need beside Go, on Debian and Ubuntu as root; elsewhere it
# says in one line what to install. Usage: setup.sh postgres|lab ...
set -eu

missing=""
need() { # need PACKAGE, when the command after it fails
	package=$1
	shift
	"$@" >/dev/null 2>&1 || missing="$missing $package"
}

for what in "$@"; do
	case $what in
	postgres) need postgresql sh -c 'command -v postgres || ls /usr/lib/postgresql/*/bin/postgres' ;;
	lab)
		need iproute2 command -v ip
		need nftables command -v nft
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
	apt-get update -qq
	# shellcheck disable=SC2086
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
	echo "install first:$missing (Debian and Ubuntu package names)" >&2
	exit 1
fi
