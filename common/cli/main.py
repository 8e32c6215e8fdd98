"""The `farshore` command: a thin client of a daemon's control socket."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from common.cli.config_commands import config, init
from common.cli.drill_command import drill
from common.cli.exit_codes import NEXT_COMMANDS, exit_codes_text
from common.cli.failback_commands import failback, forks, switchover
from common.cli.group_commands import cut, points, resume, suspend
from common.cli.grow_command import grow
from common.cli.identity_command import identity
from common.cli.scrub_command import scrub
from common.cli.status_command import status
from common.cli.takeover_command import takeover
from common.cli.test_copy_command import test_copy
from common.cli.verify_command import verify
from common.errors import FarshoreError
from common.service.logging import escape
from common.service.version import farshore_version

EXIT_INTERRUPTED = 130


OF_SITES = {
    "adopt": "primary_site.adopt_command",
    "forget": "remote_site.forget_command",
    "restore": "remote_site.restore_command",
}
"""Commands that no daemon carries out but the site's own code, by module: named here
and imported when used, since this layer knows no site."""


class FarshoreGroup(click.Group):
    """Ends with the exit code of the error, never with a traceback for it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *OF_SITES])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in OF_SITES:
            found = getattr(import_module(OF_SITES[cmd_name]), cmd_name)
            assert isinstance(found, click.Command)
            return found
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FarshoreError as error:
            _explain(error)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        formatter.write("\nExit codes:\n" + exit_codes_text() + "\n")


def _explain(error: FarshoreError) -> None:
    """Say what is wrong, and what to type next."""
    click.echo(f"farshore: {escape(str(error))}", err=True)
    following = NEXT_COMMANDS.get(error.exit_code)
    if following is not None:
        click.echo(f"next: {following}", err=True)


@click.group(
    cls=FarshoreGroup, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(farshore_version(), prog_name="farshore")
def cli() -> None:
    """Watch and steer the farshore daemons, which keep a crash-consistent copy of
    block volumes at a second site."""


for _command in (
    status,
    cut,
    suspend,
    resume,
    points,
    verify,
    scrub,
    grow,
    test_copy,
    drill,
    identity,
    takeover,
    failback,
    switchover,
    forks,
    config,
    init,
):
    cli.add_command(_command)


def main() -> None:
    """Run the command of `sys.argv` and end the process."""
    cli.main(prog_name="farshore")


if __name__ == "__main__":
    main()
