"""The `farshore` command: a thin client of a daemon's control socket."""

from __future__ import annotations

import traceback
from importlib import import_module
from typing import Any

import click

from common.cli.exit_codes import NEXT_COMMANDS, exit_codes_text
from common.errors import EXIT_INTERNAL, FarshoreError
from common.service.logging import escape
from common.service.version import farshore_version

EXIT_INTERRUPTED = 130

MODULES = {
    "adopt": "primary_site.adopt_command",
    "config": "common.cli.config_commands",
    "cut": "common.cli.group_commands",
    "doctor": "common.cli.doctor.command",
    "drill": "common.cli.drill_command",
    "failback": "common.cli.failback_commands",
    "forget": "remote_site.forget_command",
    "forks": "common.cli.failback_commands",
    "grow": "common.cli.grow_command",
    "identity": "common.cli.identity_command",
    "init": "common.cli.init_command",
    "plan": "common.cli.plan.command",
    "points": "common.cli.group_commands",
    "restore": "remote_site.restore_command",
    "resume": "common.cli.group_commands",
    "scrub": "common.cli.scrub_command",
    "status": "common.cli.status_command",
    "support-bundle": "common.cli.support.command",
    "suspend": "common.cli.group_commands",
    "switchover": "common.cli.failback_commands",
    "takeover": "common.cli.takeover_command",
    "test-copy": "common.cli.test_copy_command",
    "verify": "common.cli.verify_command",
    "volume": "common.cli.volume_command",
}
"""Commands by module, each imported when it is used: most need little of what the
others do, and a command is typed often. Those that no daemon carries out are the
site's own code, which this layer does not know."""


WITHOUT_DAEMON = frozenset({"adopt", "config", "forget", "init", "plan", "restore"})
"""Commands that a daemon has not answered: its status tells nothing about them."""


class FarshoreGroup(click.Group):
    """Ends with the exit code of the error, never with a traceback for it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *MODULES})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in MODULES:
            return super().get_command(ctx, cmd_name)
        module = import_module(MODULES[cmd_name])
        found = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(found, click.Command)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FarshoreError as error:
            _explain(error, ctx.invoked_subcommand)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            raise  # click's: whoever read the output, `head` say, has enough
        except Exception:  # noqa: BLE001 - a bug of ours ends as one
            traceback.print_exc()
            ctx.exit(EXIT_INTERNAL)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        formatter.write("\nExit codes:\n" + exit_codes_text() + "\n")


def _explain(error: FarshoreError, command: str | None) -> None:
    """Say what is wrong, and what to type next."""
    click.echo(f"farshore: {escape(str(error))}", err=True)
    following = NEXT_COMMANDS.get(error.exit_code)
    if following is not None and command not in WITHOUT_DAEMON:
        click.echo(f"next: {following}", err=True)


@click.group(
    cls=FarshoreGroup, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(farshore_version(), prog_name="farshore")
def cli() -> None:
    """Watch and steer the farshore daemons, which keep a crash-consistent copy of
    block volumes at a second site."""


def main() -> None:
    """Run the command of `sys.argv` and end the process."""
    cli.main(prog_name="farshore")


if __name__ == "__main__":
    main()
