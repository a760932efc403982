"""`gpuwright serve` and `gpuwright check-config`."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from cli.output import Json, print_json, say
from workers.configuration import load_configuration

__all__ = ["Config", "check_config", "serve"]

Config = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="GPUWRIGHT_CONFIG", help="The settings file (YAML).", show_default=False),
]


def serve(config: Config) -> None:
    """Listen to the configured vCenters and prepare their GPU hosts, until SIGINT or SIGTERM.

    vCenters that are added to the file or removed from it are taken over without a restart, at once on SIGHUP.
    """
    configuration = load_configuration(config)
    # Slow imports (pyVmomi, the SDK's workers) that a wrong configuration does not need to wait for.
    from workers.logging import configure_logging
    from workers.serve import serve as run

    configure_logging(configuration.settings.logging)
    asyncio.run(run(config, configuration))


def check_config(config: Config, as_json: Json = False) -> None:
    """Check the settings and every file they name, without connecting to anything."""
    configuration = load_configuration(config)
    settings, rules = configuration.settings, configuration.rules
    if as_json:
        print_json({"ok": True, "settings": settings, "rules": rules})
        return
    vcenters = ", ".join(vcenter.name for vcenter in settings.vcenters)
    say(f"{config} is right: vCenters {vcenters}; {len(rules.rules)} rules, {len(rules.profiles)} profiles")
