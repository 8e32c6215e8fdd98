"""Import all that a daemon needs, fast: a restart takes so much less.

with quickly():
    from primary_site.daemon import main
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_UNUSED = "rich"
"""What structlog imports where it is there, for tracebacks other than our plain ones:
with all that it needs, a tenth of a daemon's imports."""


@contextmanager
def quickly() -> Iterator[None]:
    """Leave out what nothing of a daemon uses; have the garbage collector rest.

    What is made by imports stays for good: no collection looks at it, then or later.
    """
    modules: dict[str, Any] = sys.modules
    leaves_out = _UNUSED not in modules
    if leaves_out:
        modules[_UNUSED] = None  # found absent by who tries to import it
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        if leaves_out:
            del modules[_UNUSED]
