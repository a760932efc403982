"""The demo's chapter about GPU VMs: one is asked for, placed, built and proven on the host just prepared."""

from typing import Any

import yaml
from pyVmomi import vim

from cli.demo_lab import GUEST, TEMPLATE, Lab, chapter, say, tell_facts
from vsphere.fleet import vm_gpus
from vsphere.sessions import SessionPool
from vsphere.vm_state import find_vm

__all__ = ["VM", "provision"]

VM = "train-01"


def provision(lab: Lab, host: str) -> None:
    """Ask for a VM with the GPU that `host` has in passthrough, and prove it."""
    chapter("6. A person asks for a VM with a GPU that is labelled Training")
    request = lab.folder / "train-01.yaml"
    request.write_text(yaml.safe_dump(_request(lab), sort_keys=False))
    say(request.read_text().rstrip())
    say("Where it could run, and why not elsewhere (exit status 2: there are steps):")
    lab.gpuwright("plan", "vm", str(request), expect=2)

    chapter("7. The run builds it, powers it on, installs the guest's driver and proves it")
    lab.gpuwright("vm", "provision", str(request))
    lab.gpuwright("vm", "list")
    _prove(lab, host)


def _request(lab: Lab) -> dict[str, Any]:
    drivers = lab.fetch("/simulator/drivers")["drivers"]
    file, driver = next((name, each) for name, each in drivers.items() if name.endswith("550.54.14-grid.run"))
    return {
        "name": VM,
        "cluster": "gpu-01",
        "source": {"template": TEMPLATE},
        "cpus": 8,
        "memory_mib": 32768,
        "gpus": [{"model": "A100", "label": "Training"}],
        "driver": {
            "policy": "install",
            "credentials": GUEST,
            "package": {
                "kind": "grid",
                "version": "550.54.14",
                "url": lab.site(f"/simulator/drivers/{file}"),
                "sha256": driver["sha256"],
            },
        },
    }


def _prove(lab: Lab, host: str) -> None:
    """Read vCenter once more, without gpuwright's workflows."""
    with SessionPool(lab.vcenter) as pool, pool.session() as si:
        machine: Any = vim.VirtualMachine(find_vm(si, lab.vcenter.name, VM).moid, si._stub)
        (gpu,) = vm_gpus(machine.config.hardware.device, machine._moId)
        on = machine.runtime.host
        labels = {info.id: info.hardwareLabel for info in on.config.pciPassthruInfo}
        extra = {option.key: option.value for option in machine.config.extraConfig}
        mmio = extra.get("pciPassthru.64bitMMIOSizeGB")
        tell_facts(
            {
                f"{VM} runs on {on.name}, the host just prepared": on.name == host
                and machine.runtime.powerState == "poweredOn",
                f"it holds {gpu.assigned}, labelled Training": labels.get(gpu.assigned) == "Training",
                "all of its memory is reserved": bool(machine.config.memoryReservationLockedToMax),
                f"its MMIO space is {mmio} GiB, enough for the largest A100": mmio == "256",
                "its guest is up": machine.guest.toolsRunningStatus == "guestToolsRunning",
            }
        )
