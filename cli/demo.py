"""`gpuwright demo`: the main job in one go, with the commands that a user would type."""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from pyVmomi import vim

from cli.demo_failure import fail_and_audit
from cli.demo_lab import Lab, add_host, chapter, decide, say, service, simulator, tell_facts, until, waiting
from cli.demo_vm import provision
from vsphere.sessions import SessionPool, content
from workers.temporal_server import temporal_server

__all__ = ["demo"]

_NEW_HOST = "esx-new.gpu.test"


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Stay up afterwards, until Ctrl-C.")] = False,
) -> None:
    """Run the main job against a simulated vCenter: a GPU host is added, approved, prepared and proven,
    a VM is given one of its GPUs, the host fails, and every GPU VM is accounted for.

    On a terminal you decide about the plan; elsewhere the demo approves it. Ends with exit status 0 only if everything
    was proven.
    """
    with tempfile.TemporaryDirectory(prefix="gpuwright-demo-") as folder:
        asyncio.run(_demo(Path(folder), keep))


async def _demo(folder: Path, keep: bool) -> None:
    began = time.monotonic()
    chapter("Set-up")
    async with temporal_server(folder, say) as (address, ui_url):
        say(f"Temporal at {address}" + (f", UI at {ui_url}" if ui_url else ""))
        with simulator(folder) as lab, service(lab, address):
            await asyncio.to_thread(_story, lab, ui_url)
            say(f"\n[bold green]Proven[/] in {time.monotonic() - began:.0f} s.")
            if keep:
                await _stay(folder, ui_url)


def _story(lab: Lab, ui_url: str | None) -> None:
    chapter("1. A GPU host is added to cluster gpu-01 in vCenter")
    host = add_host(lab, _NEW_HOST)
    say(f"vCenter added {_NEW_HOST}; the listener hears HostAddedEvent, a rule starts PrepareGpuHost")

    chapter("2. The run has looked and planned, and asks a person")
    approval = until("the approval", lambda: waiting(lab, _NEW_HOST))
    lab.gpuwright("approvals", "show", approval["workflow_id"])
    if ui_url:
        say(f"See it in the Temporal UI: {ui_url}/namespaces/default/workflows")

    chapter("3. A person decides")
    decide(lab, approval, "the plan was not approved, so the host stays as it is")

    chapter("4. The run converges: maintenance mode, vGPU Manager, passthrough, reboot, back")
    lab.gpuwright("prepare", _NEW_HOST, "--profile", "mixed")

    chapter("5. Proof")
    say("The plan for the host is empty now (exit status 0):")
    lab.gpuwright("plan", "host", _NEW_HOST, "--profile", "mixed")
    _prove(lab, host)
    provision(lab, _NEW_HOST)
    fail_and_audit(lab, _NEW_HOST)


def _prove(lab: Lab, host: dict[str, Any]) -> None:
    """Read vCenter once more, without gpuwright's workflows, and compare with how the host was added."""
    with SessionPool(lab.vcenter) as pool, pool.session() as si:
        system: Any = vim.HostSystem(host["moid"], si._stub)
        passthrough = {info.id: info for info in system.config.pciPassthruInfo if info.id in host["gpus"]}
        whole = [info for info in passthrough.values() if info.passthruEnabled and info.passthruActive]
        shared = [info.pciId for info in system.config.graphicsInfo if info.graphicsType == "sharedDirect"]
        entered = [event for event in _events(si, system) if isinstance(event, vim.event.EnteredMaintenanceModeEvent)]
        facts = {
            "two GPUs are in passthrough, active, with the label Training": [info.hardwareLabel for info in whole]
            == ["Training", "Training"],
            "the third is Shared Direct": set(shared) == set(passthrough) - {info.id for info in whole},
            f"vGPU profiles are on offer: {', '.join(system.config.sharedPassthruGpuTypes[:3])} …": bool(
                system.config.sharedPassthruGpuTypes
            ),
            "the host was rebooted": system.runtime.bootTime > host["boot_time"],
            "it entered maintenance mode once": len(entered) == 1,
            "it is connected and out of maintenance mode": system.runtime.connectionState == "connected"
            and not system.runtime.inMaintenanceMode,
        }
    tell_facts(facts)


def _events(si: vim.ServiceInstance, system: vim.HostSystem) -> list[vim.event.Event]:
    entity = vim.event.EventFilterSpec.ByEntity(entity=system, recursion="self")
    return list(content(si).eventManager.QueryEvents(vim.event.EventFilterSpec(entity=entity)))


async def _stay(folder: Path, ui_url: str | None) -> None:
    say("\nEverything stays up until Ctrl-C. Try, in another terminal:")
    say(f"  export GPUWRIGHT_CONFIG={folder / 'gpuwright.yaml'} GPUWRIGHT_KEY={folder / 'me'}")
    say("  gpuwright plan host esx-01-01.gpu.test --profile mixed")
    say("  gpuwright prepare esx-01-01.gpu.test --profile mixed")
    if ui_url:
        say(f"  Temporal UI: {ui_url}")
    await asyncio.Event().wait()
