#!/bin/sh
# Runs a command that gets things from the network, and again after a while when it
# fails: again.sh COMMAND ...
set -u

for pause in 5 15 30 60; do
	"$@" && exit 0
	echo "again in $pause s: $*" >&2
	sleep "$pause"
done
exec "$@"
