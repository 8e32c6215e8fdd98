#!/bin/bash
# A probe for `farshore drill`: does PostgreSQL start on the copy, and can all of every
# table be read? As root: it mounts. Needs nbdfuse (libnbd-bin, FUSE) and PostgreSQL.
#
# VOLUME: the volume with the cluster, on a file system of its own; default: the only one.
# FOLDER: the cluster's data directory below the root of that file system.
set -euo pipefail

: "${VOLUME:=}" "${FOLDER:=.}"
uri=${FARSHORE_URI:-}
if [ -n "$VOLUME" ]; then
    uri=$(awk -v volume="$VOLUME" '$1 == volume { print $2 }' <<<"$FARSHORE_URIS")
fi
[ -n "$uri" ] || { echo "set VOLUME to one of: $FARSHORE_URIS" >&2; exit 1; }
# Debian keeps the server's commands out of the way.
PATH=$PATH:$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)

place=$(mktemp -d)
cluster=$place/mount/$FOLDER
chmod 711 "$place"
as_owner() { runuser -u "$(stat -c %U "$cluster")" -- env PATH="$PATH" "$@"; }
leave() {
    as_owner pg_ctl -D "$cluster" -m immediate stop >/dev/null 2>&1 || true
    umount "$place/mount" 2>/dev/null || true
    fusermount3 -u -z "$place/disk" 2>/dev/null || true
    rm -rf --one-file-system "$place"
}
trap leave EXIT
trap 'exit 1' TERM INT HUP
mkdir "$place/disk" "$place/mount" "$place/socket"

nbdfuse "$place/disk" "$uri" &
until [ -e "$place/disk/nbd" ]; do
    kill -0 $! # it said why
    sleep 0.1
done
mount -o loop "$place/disk/nbd" "$place/mount"
chown "$(stat -c %U "$cluster")" "$place/socket"

rm -f "$cluster/postmaster.pid" # of the primary's server
as_owner pg_ctl -D "$cluster" -w -t 600 -l "$place/socket/log" start \
    -o "-c listen_addresses='' -c unix_socket_directories='$place/socket' \
        -c archive_mode=off -c shared_preload_libraries=''" >/dev/null || {
    cat "$place/socket/log" >&2
    exit 1
}
as_owner psql -h "$place/socket" -At -c \
    "select 'recovered up to ' || pg_current_wal_lsn()" postgres
as_owner pg_dumpall -h "$place/socket" >/dev/null # reads every row of every table
as_owner pg_ctl -D "$cluster" -m fast -w stop >/dev/null
