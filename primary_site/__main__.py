"""The command farshore-primary: its daemon, imported fast."""

from __future__ import annotations

from common.service.importing import quickly

with quickly():
    from primary_site.daemon import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
