#!/bin/bash
# Hooks of a group whose volumes are disks of a virtual machine: its guest agent freezes
# the guest's file systems for a cut, and runs the guest's own fsfreeze hooks before.
# As before_cut and as after_cut:
#   ["/etc/farshore/hooks/qemu-guest-agent.sh", "DOMAIN"]                by libvirt
#   ["/etc/farshore/hooks/qemu-guest-agent.sh", "/run/qemu/agent.sock"]  by its socket
# The socket is that of QEMU's channel org.qemu.guest_agent.0; needs socat.
set -u

case $FARSHORE_PHASE in
before) command=guest-fsfreeze-freeze ;;
after) command=guest-fsfreeze-thaw ;; # 0 file systems thawed is fine, too
*) exit 2 ;;
esac

case $1 in
/*)
    coproc socat - "UNIX-CONNECT:$1"
    trap 'kill "$COPROC_PID" 2>/dev/null' EXIT
    # What an earlier client left unread comes first: the agent's answer to this
    # number tells that the channel is ours.
    exec 3<&"${COPROC[0]}" 4>&"${COPROC[1]}"
    echo "{\"execute\": \"guest-sync\", \"arguments\": {\"id\": $$}}" >&4
    until [[ ${line:-} == *"\"return\": $$"* ]]; do
        read -r line <&3 || { echo "$1: the agent does not answer"; exit 1; }
    done
    echo "{\"execute\": \"$command\"}" >&4
    read -r answer <&3 || answer=
    ;;
*) answer=$(virsh --quiet qemu-agent-command "$1" "{\"execute\": \"$command\"}") ;;
esac
case $answer in
*'"return"'*) ;;
*)
    echo "$1: $command: ${answer:-no answer}"
    exit 1
    ;;
esac
