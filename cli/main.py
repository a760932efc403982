"""The command `gpuwright`: its sub-commands, and what becomes of errors and exit statuses."""

import os
import sys
import traceback
from importlib.metadata import version
from typing import Annotated, Never

import typer
from typer.exceptions import TyperException
from typer.rich_utils import rich_format_error

from cli import approvals, runs
from cli.demo import demo
from cli.keys import keys
from cli.output import fail
from cli.prepare import plan_app, prepare
from cli.serve import check_config, serve
from contracts.errors import GpuwrightError
from simulator.command import simulate

__all__ = ["app", "main", "run"]

USAGE = 64
"""`EX_USAGE` of sysexits.h; 2 is taken, because `gpuwright plan` says by it that there are steps."""

app = typer.Typer(
    name="gpuwright",
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


app.command()(prepare)
app.add_typer(plan_app, name="plan")
app.add_typer(approvals.app, name="approvals")
app.add_typer(runs.app, name="runs")
app.command()(serve)
app.command("check-config")(check_config)
app.command("simulator")(simulate)
app.add_typer(keys, name="keys")
app.command()(demo)


def run(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status: 0, what the command says, 1 error, 64 wrong usage, 130 interrupted."""
    try:
        status = app(args=arguments, standalone_mode=False)
    except GpuwrightError as error:
        fail(str(error))
        return 1
    except TyperException as error:
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
    status = run()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = status or 1
    os._exit(status)
