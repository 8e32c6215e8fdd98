"""The question before what can't be undone."""

from __future__ import annotations

import sys

import click


def ask_first(question: str) -> None:
    """Return once somebody has said yes; else end the command, with exit code 1.

    Or with that of Ctrl-C. Nothing may have been changed before.
    """
    try:
        if click.confirm(question, err=True):
            return
        why = ""
    except click.Abort:
        if sys.stdin.isatty():
            click.echo("\nnothing was changed", err=True)
            raise KeyboardInterrupt from None
        why = "\nnobody is there to answer; --yes says it beforehand: "
    click.echo(f"{why}nothing was changed", err=True)
    raise click.exceptions.Exit(1)
