"""`gpuwright demo`: the main job in one go, with the commands that a user would type."""

import asyncio
import json
import os
import secrets
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import yaml
from pyVmomi import vim
from rich.console import Console

from contracts.errors import NeedsHuman, Unreachable
from vsphere.sessions import SessionPool, content
from vsphere.settings import VCenterSettings
from workers.temporal_server import temporal_server

__all__ = ["demo"]

_NEW_HOST = "esx-new.gpu.test"
_USER = "gpuwright@vsphere.local"
_A100 = "10de:20f1"
_TIME_SCALE = 30
_PATIENCE_S = 180.0

T = TypeVar("T")

_console = Console(highlight=False, soft_wrap=True)


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Stay up afterwards, until Ctrl-C.")] = False,
) -> None:
    """Run the main job against a simulated vCenter: a GPU host is added, approved, prepared and proven.

    On a terminal you decide about the plan; elsewhere the demo approves it. Ends with exit status 0 only if everything
    was proven.
    """
    with tempfile.TemporaryDirectory(prefix="gpuwright-demo-") as folder:
        asyncio.run(_demo(Path(folder), keep))


async def _demo(folder: Path, keep: bool) -> None:
    began = time.monotonic()
    _chapter("Set-up")
    async with temporal_server(folder, _say) as (address, ui_url):
        _say(f"Temporal at {address}" + (f", UI at {ui_url}" if ui_url else ""))
        with _simulator(folder) as url, _service(folder, address, url):
            await asyncio.to_thread(_story, folder, url, ui_url)
            _say(f"\n[bold green]Proven[/] in {time.monotonic() - began:.0f} s.")
            if keep:
                await _stay(folder, ui_url)


def _story(folder: Path, url: str, ui_url: str | None) -> None:
    _chapter("1. A GPU host is added to cluster gpu-01 in vCenter")
    host = _add_host(folder, url)
    _say(f"vCenter added {_NEW_HOST}; the listener hears HostAddedEvent, a rule starts PrepareGpuHost")

    _chapter("2. The run has looked and planned, and asks a person")
    approval = _until("the approval", lambda: _waiting(folder))
    _gpuwright(folder, "approvals", "show", approval["workflow_id"])
    if ui_url:
        _say(f"See it in the Temporal UI: {ui_url}/namespaces/default/workflows")

    _chapter("3. A person decides")
    decide = ["approvals", "approve", approval["workflow_id"]]
    if not sys.stdin.isatty():
        decide += ["--hash", approval["plan_hash"], "--comment", "demo"]
    if _gpuwright(folder, *decide, check=False) != 0:
        raise NeedsHuman("the plan was not approved, so the host stays as it is")

    _chapter("4. The run converges: maintenance mode, vGPU Manager, passthrough, reboot, back")
    _gpuwright(folder, "prepare", _NEW_HOST, "--profile", "mixed")

    _chapter("5. Proof")
    _say("The plan for the host is empty now (exit status 0):")
    _gpuwright(folder, "plan", "host", _NEW_HOST, "--profile", "mixed")
    _prove(folder, url, host)


def _prove(folder: Path, url: str, host: dict[str, Any]) -> None:
    """Read vCenter once more, without gpuwright's workflows, and compare with how the host was added."""
    with SessionPool(_vcenter(folder, url)) as pool, pool.session() as si:
        system: Any = vim.HostSystem(host["moid"], si._stub)
        passthrough = {info.id: info for info in system.config.pciPassthruInfo if info.id in host["gpus"]}
        whole = [info for info in passthrough.values() if info.passthruEnabled and info.passthruActive]
        shared = [info.pciId for info in system.config.graphicsInfo if info.graphicsType == "sharedDirect"]
        entered = [event for event in _events(si, system) if isinstance(event, vim.event.EnteredMaintenanceModeEvent)]
        facts = {
            "one GPU is in passthrough, active, with the label Training": [info.hardwareLabel for info in whole]
            == ["Training"],
            "the other is Shared Direct": set(shared) == set(passthrough) - {info.id for info in whole},
            f"vGPU profiles are on offer: {', '.join(system.config.sharedPassthruGpuTypes[:3])} …": bool(
                system.config.sharedPassthruGpuTypes
            ),
            "the host was rebooted": system.runtime.bootTime > host["boot_time"],
            "it entered maintenance mode once": len(entered) == 1,
            "it is connected and out of maintenance mode": system.runtime.connectionState == "connected"
            and not system.runtime.inMaintenanceMode,
        }
    for fact, holds in facts.items():
        _say(f"{'[green]✔[/]' if holds else '[red]✘[/]'} {fact}")
    if not all(facts.values()):
        raise NeedsHuman("not everything was proven; see the lines marked ✘")


def _events(si: vim.ServiceInstance, system: vim.HostSystem) -> list[vim.event.Event]:
    entity = vim.event.EventFilterSpec.ByEntity(entity=system, recursion="self")
    return list(content(si).eventManager.QueryEvents(vim.event.EventFilterSpec(entity=entity)))


def _add_host(folder: Path, url: str) -> dict[str, Any]:
    """Add a host as the vSphere client does, and remember how it was."""
    with SessionPool(_vcenter(folder, url)) as pool, pool.session() as si:
        (cluster,) = content(si).rootFolder.childEntity[0].hostFolder.childEntity
        spec = vim.host.ConnectSpec(hostName=_NEW_HOST, userName="root", password="x", force=True)  # noqa: S106
        task = cluster.AddHost_Task(spec, True, None, None)
        system = _until("the host to be added", lambda: task.info.result)
        gpus = [info.pciId for info in system.config.graphicsInfo]
        return {"moid": system._moId, "gpus": gpus, "boot_time": system.runtime.bootTime}


def _waiting(folder: Path) -> dict[str, Any] | None:
    done = _run(folder, "approvals", "list", "--json", capture_output=True)
    found = [each for each in json.loads(done.stdout or "[]") if _NEW_HOST in each["subject"]]
    return found[0] if found else None


@contextmanager
def _simulator(folder: Path) -> Iterator[str]:
    password = secrets.token_urlsafe(12)
    (folder / "password").touch(mode=0o600)
    (folder / "password").write_text(password)
    command = ["simulator", "--listen", "127.0.0.1:0", "--clusters", "1", "--hosts", "3", "--gpus", "2", "--vms", "6"]
    command += ["--time-scale", str(_TIME_SCALE), "--user", _USER, "--ca-file", str(folder / "ca.pem")]
    with _process(folder, "simulator", *command, password=password) as process:
        url = process.stdout.readline().strip() if process.stdout else ""
        if not url:
            raise Unreachable(f"the simulator did not start:\n{_log(folder, 'simulator')}")
        _say(f"A simulated vCenter at {url}: 1 cluster, 3 hosts with 2 GPUs each; time runs {_TIME_SCALE} times faster")
        yield url


@contextmanager
def _service(folder: Path, address: str, url: str) -> Iterator[None]:
    _gpuwright(folder, "keys", "new", str(folder / "me"), quiet=True)
    vcenter = _vcenter(folder, url).model_dump(mode="json", exclude_defaults=True)
    config = {
        "temporal": {"address": address, "task_queue": f"gpuwright-demo-{secrets.token_hex(4)}"},
        "vcenters": [vcenter],
        "rules_file": "rules.yaml",
        "approvals": {"trusted_key_files": ["me.pub"]},
    }
    site = _depot(folder, url)
    gpus = [
        {"match": _A100, "count": 1, "mode": "passthrough", "label": "Training"},
        {"match": _A100, "mode": "vgpu"},
    ]
    manager = {
        "name": site["vib"]["name"],
        "version": ">=550",
        "depot": f"{url.removesuffix('/sdk')}{site['url']}",
        "sha256": site["sha256"],
    }
    rules = {
        "rules": [
            {
                "name": "prepare-new-gpu-hosts",
                "on": ["HostAddedEvent", "HostConnectedEvent"],
                "where": {"cluster": "gpu-*"},
                "start": "PrepareGpuHost",
                "with": {"profile": "mixed"},
            }
        ],
        "profiles": {"mixed": {"gpus": gpus, "vgpu_manager": manager}},
    }
    (folder / "gpuwright.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules, sort_keys=False))
    with _process(folder, "serve", "serve") as process:
        # Events older than the watch's first look are not its business, so it has to listen before a host is added.
        _until("the service", lambda: "following" in _log(folder, "serve") or process.poll() is not None)
        if process.poll() is not None:
            raise Unreachable(f"the service did not start:\n{_log(folder, 'serve')}")
        _say(f"gpuwright serve runs the listener and the workers; its configuration is {folder / 'gpuwright.yaml'}")
        yield


def _depot(folder: Path, url: str) -> dict[str, Any]:
    """The vGPU Manager's offline bundle on the simulated vendor's site, with its checksum."""
    trusted = ssl.create_default_context(cafile=folder / "ca.pem")
    with urllib.request.urlopen(f"{url.removesuffix('/sdk')}/simulator/depots", context=trusted) as answer:  # noqa: S310
        depots = json.load(answer)["depots"]
    return dict(next(depot for name, depot in depots.items() if name.startswith("NVD-AIE-800_550")))


def _vcenter(folder: Path, url: str) -> VCenterSettings:
    return VCenterSettings(
        name="demo", url=url, user=_USER, password_file=folder / "password", ca_file=folder / "ca.pem"
    )


@contextmanager
def _process(folder: Path, name: str, *arguments: str, password: str = "") -> Iterator[subprocess.Popen[str]]:
    """One of gpuwright's long-running commands, ended by its process ID."""
    environment = _environment(folder) | ({"GPUWRIGHT_SIMULATOR_PASSWORD": password} if password else {})
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [_program(), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


def _gpuwright(folder: Path, *arguments: str, check: bool = True, quiet: bool = False) -> int:
    """Run a command as a user would, and show it."""
    if not quiet:
        _say(f"[bold cyan]$ gpuwright {' '.join(arguments)}[/]")
    done = _run(folder, *arguments, capture_output=quiet)
    if check and done.returncode != 0:
        raise NeedsHuman(f"`gpuwright {' '.join(arguments)}` ended with status {done.returncode} {done.stderr or ''}")
    return done.returncode


def _run(folder: Path, *arguments: str, capture_output: bool) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_program(), *arguments], env=_environment(folder), capture_output=capture_output, text=True, check=False
    )


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {"GPUWRIGHT_CONFIG": str(folder / "gpuwright.yaml"), "GPUWRIGHT_KEY": str(folder / "me")}


def _program() -> str:
    return str(Path(sys.executable).with_name("gpuwright"))


def _log(folder: Path, name: str) -> str:
    return (folder / f"{name}.log").read_text(errors="replace")[-4000:]


def _until(what: str, look: Callable[[], T | None]) -> T:
    """Look until there is something, within the demo's patience."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.5)
    raise NeedsHuman(f"waited {_PATIENCE_S:.0f} s for {what} in vain")


async def _stay(folder: Path, ui_url: str | None) -> None:
    _say("\nEverything stays up until Ctrl-C. Try, in another terminal:")
    _say(f"  export GPUWRIGHT_CONFIG={folder / 'gpuwright.yaml'} GPUWRIGHT_KEY={folder / 'me'}")
    _say("  gpuwright plan host esx-01-01.gpu.test --profile mixed")
    _say("  gpuwright prepare esx-01-01.gpu.test --profile mixed")
    if ui_url:
        _say(f"  Temporal UI: {ui_url}")
    await asyncio.Event().wait()


def _chapter(title: str) -> None:
    _say(f"\n[bold]── {title}[/]")


def _say(text: str) -> None:
    _console.print(text)
