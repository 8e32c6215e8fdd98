#!/bin/bash
# Hooks of a group that holds a PostgreSQL cluster. A cut of all its volumes is what a
# power failure leaves, and PostgreSQL recovers from that by itself; so the first form is
# enough where the whole cluster is in the group:
#   before_cut = ["/etc/farshore/hooks/postgresql.sh", "checkpoint", "host=/run/postgresql"]
# It makes that recovery short. Where a tablespace or the write-ahead log lies elsewhere,
# the cut falls within a backup, as before_cut and as after_cut:
#   ["/etc/farshore/hooks/postgresql.sh", "backup", "host=/run/postgresql", "/srv/labels"]
# What a restore needs beside the point is then in /srv/labels/CYCLE.backup_label.
# The connection is of a role with pg_checkpoint, or that may run pg_backup_start.
set -euo pipefail

mode=$1 connection=$2 labels=${3:-}
query=(psql --no-psqlrc --quiet --tuples-only --no-align -v ON_ERROR_STOP=1 "$connection")
session=${RUNTIME_DIRECTORY:-/tmp}/farshore-backup-$FARSHORE_GROUP

ended() { # ended PID
    while kill -0 "$1" 2>/dev/null; do sleep 0.05; done
}

case $mode-$FARSHORE_PHASE in
checkpoint-before)
    "${query[@]}" -c CHECKPOINT
    ;;
backup-before)
    rm -rf "$session"
    mkdir -m 700 "$session"
    mkfifo "$session/end"
    # A backup lasts as long as its connection, which therefore outlives this hook.
    "${query[@]}" >"$session/label" 2>"$session/errors" <<SQL &
\\o /dev/null
select pg_backup_start('farshore $FARSHORE_CYCLE', fast => true);
\\! touch '$session/begun'; cat '$session/end'
\\o
select labelfile from pg_backup_stop(wait_for_archive => false);
SQL
    echo $! >"$session/pid"
    until [ -e "$session/begun" ]; do
        kill -0 $! 2>/dev/null || { cat "$session/errors"; exit 1; }
        sleep 0.05
    done
    ;;
backup-after)
    [ -e "$session/pid" ] || exit 0 # nothing was begun
    pid=$(<"$session/pid")
    if [ "$FARSHORE_RESULT" = cut ] && [ -e "$session/begun" ]; then
        kill -0 "$pid" && : >"$session/end" # or the connection was lost meanwhile
        ended "$pid"
        [ -s "$session/label" ] || { cat "$session/errors"; exit 1; }
        mv "$session/label" "$labels/$FARSHORE_CYCLE.backup_label"
    else
        kill "$pid" 2>/dev/null || true # its connection ends, and so does the backup
    fi
    rm -rf "$session"
    ;;
esac
