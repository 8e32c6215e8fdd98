"""The command farshore-remote: its daemon, imported fast."""

from __future__ import annotations

from common.service.importing import quickly

with quickly():
    from remote_site.daemon import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
