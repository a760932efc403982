"""`gpuwright plan`: what would be done, without doing it."""

import typer

from cli.prepare import plan_host
from cli.vm import plan_vm

__all__ = ["app"]

app = typer.Typer(help="Show what gpuwright would do, and change nothing.", no_args_is_help=True)
app.command("host")(plan_host)
app.command("vm")(plan_vm)
