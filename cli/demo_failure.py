"""The demo's last chapters: a host fails, HA acts, and the audit accounts for every GPU VM."""

import json
from typing import Any

from pyVmomi import vim

from cli.demo_lab import Lab, add_host, chapter, decide, say, tell_facts, until, waiting
from cli.demo_vm import VM
from vsphere.fleet import vm_gpus
from vsphere.sessions import SessionPool
from vsphere.vm_state import find_vm

__all__ = ["fail_and_audit"]

_SPARE = "esx-spare.gpu.test"
_OLD = "legacy-01"
_CLUSTER = "gpu-01"


def fail_and_audit(lab: Lab, host: str) -> None:
    """Let `host` fail with its two GPU VMs, follow the audit, and carry out its remedies."""
    chapter("8. Before a failure: what would it do?")
    say(f"Somebody gave {_OLD} a GPU of {host} by its address, years ago: static DirectPath I/O")
    lab.fetch(
        "/simulator/actions/add_vm", {"host": host, "name": _OLD, "gpu": "static", "device": _free_gpu(lab, host)}
    )
    lab.gpuwright("ha", "forecast", "--host", host, expect=2)
    say(f"So {_SPARE} is added; the rule prepares it like the first one")
    _prepare(lab, _SPARE)
    lab.gpuwright("ha", "forecast", "--host", host, expect=2)
    lab.gpuwright("fleet", "drift", "--now")

    chapter(f"9. {host} fails; HA restarts what it can")
    lab.fetch("/simulator/actions/fail_host", {"host": host})
    say(
        "DasHostFailedEvent reaches the listener; a rule starts HaRecoveryAudit, which waits until the cluster is quiet"
    )
    approval = until("the audit's question", lambda: _asked(lab))
    # Exit status 0: it goes on.
    lab.gpuwright("audit", "show", _CLUSTER)

    chapter("10. The audit asks about its remedies, a person decides, and the rest is proven")
    decide(lab, approval, "the remedies were not approved, so what HA left off stays off")
    until("the remedies", lambda: _back(lab))
    lab.gpuwright("audit", "show", _CLUSTER)
    lab.gpuwright("fleet", "--cluster", _CLUSTER)
    _prove(lab)


def _prepare(lab: Lab, host: str) -> None:
    add_host(lab, host)
    approval = until(f"the plan for {host}", lambda: waiting(lab, host))
    lab.gpuwright("approvals", "approve", approval["workflow_id"], "--hash", approval["plan_hash"], quiet=True)
    lab.gpuwright("prepare", host, "--profile", "mixed")


def _free_gpu(lab: Lab, host: str) -> str:
    """A GPU of the host that is in passthrough and that no VM has."""
    with SessionPool(lab.vcenter) as pool, pool.session() as si:
        machine: Any = vim.VirtualMachine(find_vm(si, lab.vcenter.name, VM).moid, si._stub)
        (taken,) = vm_gpus(machine.config.hardware.device, machine._moId)
        on = machine.runtime.host
        gpus = {info.pciId for info in on.config.graphicsInfo}
        found: str = next(
            info.id
            for info in on.config.pciPassthruInfo
            if info.id in gpus and info.passthruActive and info.id != taken.assigned
        )
        return found


def _asked(lab: Lab) -> dict[str, Any] | None:
    found = waiting(lab, _CLUSTER)
    return found if found and _verdicts(lab).get(VM) == "recovered" else None


def _verdicts(lab: Lab) -> dict[str, str]:
    done = lab.run("audit", "show", _CLUSTER, "--json", capture_output=True)
    report = json.loads(done.stdout or "{}")
    return {each["name"]: each["recovery"] for each in report.get("verdicts", [])}


def _back(lab: Lab) -> bool | None:
    return True if set(_verdicts(lab).values()) == {"recovered"} else None


def _prove(lab: Lab) -> None:
    """Read vCenter once more, without gpuwright's workflows."""
    with SessionPool(lab.vcenter) as pool, pool.session() as si:
        facts = {}
        for name in (VM, _OLD):
            machine: Any = vim.VirtualMachine(find_vm(si, lab.vcenter.name, name).moid, si._stub)
            (gpu,) = vm_gpus(machine.config.hardware.device, machine._moId)
            on = machine.runtime.host
            labels = {info.id: info.hardwareLabel for info in on.config.pciPassthruInfo}
            facts[f"{name} runs on {on.name}"] = on.name == _SPARE and machine.runtime.powerState == "poweredOn"
            facts[f"it holds {gpu.assigned} by Dynamic DirectPath I/O, labelled Training"] = (
                gpu.kind == "dynamic" and labels.get(gpu.assigned) == "Training"
            )
    tell_facts(facts)
