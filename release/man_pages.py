"""The man pages, from the commands themselves and the models of the config files.

    python -m release.man_pages DIRECTORY

writes DIRECTORY/man1, man5 and man8. Every wheel and Debian package is built with them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from common.cli.exit_codes import EXIT_CODES
from common.cli.main import cli
from common.service.config import ConfigKind
from common.service.config_reference import key_tables, refused_keys
from common.service.version import farshore_version
from primary_site.daemon import command as primary_daemon
from release.roff import (
    entry,
    escaped,
    heading,
    page,
    paragraphs,
    prose,
    subheading,
    title,
)
from remote_site.daemon import command as remote_daemon

DAEMONS = {"primary": primary_daemon, "remote": remote_daemon}
_WHAT = {
    "primary": "serve volumes to hosts and replicate them to the remote site",
    "remote": "receive volumes from primary sites and serve their recovery points",
}
_SIGNALS = (
    ("SIGTERM, SIGINT", "Stop in good order: the next start compares nothing."),
    (
        "SIGHUP",
        (
            "Read the config again. Keys that need a restart are named in the log; a "
            "config with a mistake is refused as a whole."
        ),
    ),
)
_ENVIRONMENT = (
    ("FARSHORE_SOCKET", "The control socket of the daemon to talk to."),
    ("NO_COLOR", "Set: no colours, whatever the terminal."),
)


def all_pages(version: str) -> dict[str, str]:
    """Return every page by its file's name, as in "farshore.1"."""
    pages = {"farshore.1": command_page(version)}
    for kind in DAEMONS:
        pages[f"farshore-{kind}.8"] = daemon_page(kind, version)
        pages[f"farshore-{kind}.toml.5"] = config_page(kind, version)
    return pages


def write_pages(directory: Path, version: str) -> list[Path]:
    """Write the pages below `directory` as man(1) looks for them; return the files."""
    written = []
    for name, text in all_pages(version).items():
        file = directory / f"man{name[-1]}" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        written.append(file)
    return written


def command_page(version: str) -> str:
    """Return farshore(1): every command with its options."""
    context = click.Context(cli, info_name="farshore")
    parts = [subheading_of_commands(context, cli)]
    return page(
        title("farshore", 1, version),
        heading("name"),
        escaped("farshore - steer crash-consistent replication of block volumes"),
        heading("synopsis"),
        r"\fBfarshore\fP \fICOMMAND\fP [\fIOPTIONS\fP] [\fIARGUMENTS\fP]",
        heading("description"),
        *paragraphs(cli.help or ""),
        *paragraphs(
            "It talks to one daemon over its control socket: that of `--socket`, of "
            "the config that `--config` names, of `FARSHORE_SOCKET`, or that of the "
            "one daemon of this machine."
        ),
        heading("commands"),
        *parts,
        heading("exit status"),
        *(entry(str(code), meaning) for code, _, meaning in EXIT_CODES),
        heading("environment"),
        *(entry(*each) for each in _ENVIRONMENT),
        heading("files"),
        entry("/run/farshore/primary.sock, /run/farshore/remote.sock", _FILES),
        heading("see also"),
        _see_also("farshore-primary(8)", "farshore-remote(8)"),
    )


_FILES = "Where the daemons' control sockets are by default."


def subheading_of_commands(context: click.Context, group: click.Group) -> str:
    """Return the commands of a group, those of groups inside it one by one."""
    parts = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            parts.append(subheading_of_commands(inner, command))
        else:
            usage = " ".join(command.collect_usage_pieces(inner))
            parts.append(subheading(f"{inner.command_path} {usage}"))
            parts += [*paragraphs(command.help or ""), *_options(inner, command)]
    return page(*parts).rstrip("\n")


def daemon_page(kind: str, version: str) -> str:
    """Return farshore-primary(8) or farshore-remote(8)."""
    daemon, name = DAEMONS[kind], f"farshore-{kind}"
    context = click.Context(daemon, info_name=name)
    return page(
        title(name, 8, version),
        heading("name"),
        escaped(f"{name} - {_WHAT[kind]}"),
        heading("synopsis"),
        rf"\fB{escaped(name)}\fP \fB\-\-config\fP \fIFILE\fP",
        heading("description"),
        *paragraphs(daemon.help or ""),
        heading("options"),
        *_options(context, daemon),
        heading("signals"),
        *(entry(*each) for each in _SIGNALS),
        heading("files"),
        entry(f"/etc/farshore/{kind}.toml", "The config that the unit starts it with."),
        heading("see also"),
        _see_also("farshore(1)", f"{name}.toml(5)", "systemctl(1)"),
    )


def config_page(kind: str, version: str) -> str:
    """Return farshore-primary.toml(5) or farshore-remote.toml(5)."""
    known: ConfigKind = "primary" if kind == "primary" else "remote"
    name = f"farshore-{known}.toml"
    parts = []
    for table in key_tables(known):
        parts += [subheading(table.heading), *paragraphs(table.description)]
        for row in table.rows:
            default = row.default and f"Default: {row.default}."
            if row.default == "required":
                default = "It has to be given."
            parts.append(entry(row.key, f"{row.description}", f"{row.kind}. {default}"))
    return page(
        title(name, 5, version),
        heading("name"),
        escaped(f"{name} - config of farshore-{known}(8)"),
        heading("description"),
        *paragraphs(
            "A TOML file. Relative paths start at its folder; sizes and times are "
            'strings with a unit, as in "64KiB" and "5s". Any key that is not listed '
            "is refused: `farshore config check FILE` says so."
        ),
        heading("keys"),
        *parts,
        heading("not in this version"),
        *(f".PP\n{prose(line)}" for line in refused_keys(known)),
        heading("see also"),
        _see_also("farshore(1)", f"farshore-{known}(8)"),
    )


def _options(context: click.Context, command: click.Command) -> Iterator[str]:
    for parameter in command.get_params(context):
        is_told = isinstance(parameter, click.Option) and parameter.name != "help"
        record = parameter.get_help_record(context) if is_told else None
        if record is not None:
            yield entry(*record)


def _see_also(*names: str) -> str:
    return ", ".join(rf"\fB{escaped(name)}\fP" for name in names)


if __name__ == "__main__":
    for path in write_pages(Path(sys.argv[1]), farshore_version()):
        sys.stdout.write(f"{path}\n")
