"""Seeds that once found something, each with what it was."""

REGRESSIONS: dict[int, str] = {}
