"""The process that `forking` starts: it imports both daemons, and forks them."""

from __future__ import annotations

import array
import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from common.service.importing import quickly

with quickly():
    import primary_site.daemon
    import remote_site.daemon

MAINS = {
    "farshore-primary": primary_site.daemon.main,
    "farshore-remote": remote_site.daemon.main,
}
REQUEST_BYTES_MAX = 1 << 18
RIGHTS_BYTES_MAX = socket.CMSG_SPACE(2 * array.array("i").itemsize)
"""With a request come two descriptors: the log, and where the keeper writes."""

_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def serve(requests: socket.socket) -> Callable[[], None]:
    """Fork for each request; return in each daemon, with what it has to do.

    Ends with the process that asks.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for keepers
    while True:
        message, rights, _, _ = requests.recvmsg(REQUEST_BYTES_MAX, RIGHTS_BYTES_MAX)
        if not message:
            sys.exit()
        descriptors = array.array("i", rights[0][2])
        if os.fork() == 0:
            requests.close()
            request = json.loads(message)
            _keep(*descriptors, request)
            return MAINS[request["name"]]
        for descriptor in descriptors:
            os.close(descriptor)


def _keep(log: int, tell: int, request: dict[str, Any]) -> None:
    """Be the keeper, which never returns; return in the daemon that it forks."""
    _die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    daemon = os.fork()
    if daemon != 0:
        os.close(log)
        _tell_end(daemon, tell)
    _die_with_parent()
    os.close(tell)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    command = Path(sys.executable).with_name(request["name"])
    sys.argv = [str(command), *request["arguments"]]


def _tell_end(daemon: int, tell: int) -> NoReturn:
    os.write(tell, b"%d\n" % daemon)
    _, status = os.waitpid(daemon, 0)
    os.write(tell, b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))()
