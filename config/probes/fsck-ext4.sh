#!/bin/sh
# A probe for `farshore drill`: are the volumes ext4 file systems without a fault?
# Needs nbdfuse (libnbd-bin, FUSE) and e2fsprogs. The journal of each file system is
# replayed first, as its next mount would do; that goes to the test copy only.
set -eu

place=$(mktemp -d)
trap 'fusermount3 -u -z "$place/disk" 2>/dev/null || true; rm -rf "$place"' EXIT
mkdir "$place/disk"

printf '%s' "$FARSHORE_URIS" | while read -r volume uri; do
    nbdfuse "$place/disk" "$uri" &
    until [ -e "$place/disk/nbd" ]; do
        kill -0 $! || exit 1 # it said why
        sleep 0.1
    done
    e2fsck -p "$place/disk/nbd" || [ $? -eq 1 ] # 1: what the journal held is in place
    e2fsck -f -n "$place/disk/nbd"
    fusermount3 -u "$place/disk"
    wait $!
    echo "$volume: good"
done
