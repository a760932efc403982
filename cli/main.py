"""The command `gpuwright`: its sub-commands, and what becomes of errors and exit statuses."""

import os
import sys
import traceback
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any, Never

import structlog
import typer
import typer.main
from typer.core import TyperGroup
from typer.exceptions import TyperException

from cli.output import fail
from contracts.errors import GpuwrightError

__all__ = ["app", "main", "run"]

USAGE = 64
"""`EX_USAGE` of sysexits.h; 2 is taken, because `gpuwright plan` says by it that there are steps."""

_COMMANDS = {
    "prepare": "cli.prepare:prepare",
    "prepare-cluster": "cli.cluster:prepare_cluster",
    "plan": "cli.plan:app",
    "vm": "cli.vm:app",
    "approvals": "cli.approvals:app",
    "runs": "cli.runs:app",
    "gate": "cli.gate:app",
    "fleet": "cli.fleet:app",
    "ha": "cli.ha:app",
    "audit": "cli.audit:app",
    "watch": "cli.watch:app",
    "events": "cli.events:app",
    "notices": "cli.notices:notices",
    "serve": "cli.serve:serve",
    "check-config": "cli.serve:check_config",
    "simulator": "simulator.command:simulate",
    "keys": "cli.keys:keys",
    "demo": "cli.demo:demo",
}
"""Where each command is: a function, or a `Typer` with sub-commands."""


class _Commands(TyperGroup):
    """Imports a command when it is asked for: all of them together take over a second."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        found = getattr(import_module(module), attribute)
        holder = typer.Typer()
        if isinstance(found, typer.Typer):
            holder.add_typer(found, name=cmd_name)
        else:
            holder.command(cmd_name)(found)
        return typer.main.get_group(holder).commands[cmd_name]


app = typer.Typer(
    name="gpuwright",
    cls=_Commands,
    help="Makes GPU hosts and GPU VMs on vSphere come up, stay right and come back after a failure.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"gpuwright {version('gpuwright')}")
        raise typer.Exit


@app.callback()
def _gpuwright(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Makes GPU hosts and GPU VMs on vSphere come up, stay right and come back after a failure."""


def run(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status: 0, what the command says, 1 error, 64 wrong usage, 130 interrupted."""
    try:
        status = app(args=arguments, standalone_mode=False)
    except GpuwrightError as error:
        fail(str(error))
        return 1
    except TyperException as error:
        # Late, because it takes a tenth of a second that right usage need not wait for.
        from typer.rich_utils import rich_format_error

        # These are of Typer's own copy of click, which it does not export.
        rich_format_error(error)  # type: ignore[arg-type]
        return USAGE if error.exit_code == 2 else 1
    except (KeyboardInterrupt, typer.Abort):
        fail("interrupted")
        return 130
    except BrokenPipeError:
        # Whoever read our output has had enough; nothing can be said to them any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1 if error.code else 0
    except Exception as error:  # noqa: BLE001 - the last resort of a command
        traceback.print_exc()
        fail(f"{type(error).__name__} was not foreseen; this is a defect, please report it with the lines above")
        return 1
    return status if isinstance(status, int) else 0


def main() -> Never:
    """The console script. Ends the process by `os._exit`, because the SDK's teardown can crash and spoil the status."""
    # What a command prints, JSON above all, has standard output for itself; `serve` configures its own.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    status = run()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = status or 1
    os._exit(status)
