"""`gpuwright simulator`: run a simulated vCenter until interrupted."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from simulator.core import Registry
from simulator.service import Options, Simulator, World

__all__ = ["simulate"]


def simulate(
    listen: Annotated[str, typer.Option(help="Address to serve on; port 0 picks a free one.")] = "127.0.0.1:8989",
    clusters: Annotated[int, typer.Option(min=0, help="GPU clusters in the datacenter.")] = 1,
    hosts: Annotated[int, typer.Option(min=0, help="Hosts in each cluster.")] = 3,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs in each host.")] = 2,
    vms: Annotated[int, typer.Option(min=0, help="VMs without a GPU in all, spread over the hosts.")] = 6,
    gpu_vms: Annotated[int, typer.Option(min=0, help="More VMs, each running with a GPU on a prepared host.")] = 0,
    time_scale: Annotated[
        float, typer.Option(help="How much faster than life the world runs: 60 = a minute a second.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed makes the same world.")] = 0,
    user: Annotated[str, typer.Option(help="The one user who can log in.")] = "administrator@vsphere.local",
    password: Annotated[
        str, typer.Option(envvar="GPUWRIGHT_SIMULATOR_PASSWORD", help="The user's password.")
    ] = "simulator",  # noqa: S107 - documented, and nothing real is behind it
    ca_file: Annotated[
        Path | None, typer.Option(help="Where to write the CA certificate that clients must trust (PEM).")
    ] = None,
    api_version: Annotated[str, typer.Option(help="vSphere API version to advertise.")] = "8.0.2.0",
    session_idle_s: Annotated[float, typer.Option(help="Real seconds until an idle session ends.")] = 1800.0,
    task_ttl_s: Annotated[float, typer.Option(help="Real seconds that an ended task can still be read.")] = 600.0,
    max_events: Annotated[int, typer.Option(min=1, help="Events kept before the oldest are purged.")] = 500_000,
) -> None:
    """Run a simulated vCenter with GPU hosts: HTTPS, SOAP on /sdk, control API on /simulator.

    Prints one line with its URL when it is ready, and runs until SIGINT or SIGTERM. Logs go to stderr.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise typer.BadParameter(f"{listen!r} is no ADDRESS:PORT such as 127.0.0.1:8989", param_hint="--listen")
    if not password:
        raise typer.BadParameter(
            "the password is empty: give --password or set GPUWRIGHT_SIMULATOR_PASSWORD", param_hint="--password"
        )
    # The world is a big import that `--help` does not need.
    from simulator.build import build_world
    from simulator.shell import HostShells
    from simulator.wire.content_library import ContentLibraryApi
    from simulator.wire.guest_files import GuestFiles
    from simulator.wire.lifecycle import LifecycleApi
    from simulator.wire.redfish import Redfish

    options = Options(
        host=host.strip("[]"),
        port=int(port),
        user=user,
        password=password,
        api_version=api_version,
        session_idle_s=session_idle_s,
        task_ttl_s=task_ttl_s,
        max_events=max_events,
        time_scale=time_scale,
        seed=seed,
        ca_file=ca_file,
    )

    def build(registry: Registry) -> World:
        return build_world(registry, clusters=clusters, hosts=hosts, gpus=gpus, vms=vms, gpu_vms=gpu_vms, seed=seed)

    try:
        asyncio.run(
            _serve(Simulator(options, build, sites=(HostShells, LifecycleApi, ContentLibraryApi, GuestFiles, Redfish)))
        )
    except ValueError as wrong:
        raise typer.BadParameter(str(wrong)) from wrong
    except OSError as failed:
        reason = failed.strerror or failed
        typer.echo(f"cannot serve on {listen}: {reason}; choose another --listen or --ca-file", err=True)
        raise typer.Exit(1) from failed


async def _serve(simulator: Simulator) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        await simulator.start()
        print(simulator.url, flush=True)
        await stop.wait()
    finally:
        await simulator.stop()
