#!/bin/sh
# Hooks of a group: freezes file systems for a cut, so that the point holds all that was
# written to them, and needs no journal replay. As before_cut and as after_cut:
#   ["/etc/farshore/hooks/fsfreeze.sh", "/srv/orders"]            a mount on this machine
#   ["/etc/farshore/hooks/fsfreeze.sh", "root@app1:/srv/orders"]  on another one, by ssh
# Several places are frozen in that order and thawed in the other one.
#
# Never freeze what holds farshore's own files: devices, state_dir, FlashCopy targets.
# Freezing takes CAP_SYS_ADMIN where it is done: docs/operating/consistency.md.
set -u
export LC_ALL=C

freeze() { # freeze --freeze|--unfreeze PLACE
    case $2 in
    *:/*) ssh -o BatchMode=yes -o ConnectTimeout=3 "${2%%:/*}" \
        "LC_ALL=C fsfreeze $1 '/${2#*:/}'" ;;
    *) fsfreeze "$1" "$2" ;;
    esac
}

case $FARSHORE_PHASE in
before)
    for place; do
        freeze --freeze "$place" || exit 1
    done
    ;;
after)
    reversed=
    failed=0
    for number in $(seq "$#"); do
        reversed="$number $reversed"
    done
    for number in $reversed; do
        eval "place=\${$number}"
        # Also run where nothing is frozen, after a crash: that is told by EINVAL.
        if ! said=$(freeze --unfreeze "$place" 2>&1); then
            case $said in
            *"unfreeze failed: Invalid argument"*) ;;
            *)
                echo "$place: $said"
                failed=1
                ;;
            esac
        fi
    done
    exit "$failed"
    ;;
esac
