"""What a step of a remedy has to prove, and that it is done to the VM that was approved, and to no other."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from temporalio.testing import ActivityEnvironment

from activities.remedies import VCenterRemedyActivities, check_remedy_permit
from contracts import ids
from contracts.approvals import DecisionClaims, Verdict
from contracts.audit import RemedyOrder, RemedyPolicy
from contracts.errors import BadRequest, Conflict
from contracts.fleet import VmGpu
from contracts.plan import Plan, Step, StepKind, plan_hash
from contracts.provision import VmStepOutcome
from contracts.signing import Keyring, sign
from contracts.verdicts import (
    HeldGpu,
    Reason,
    Recovery,
    Victim,
    VmVerdict,
)
from planning.remedies import remedies
from planning.remedy_steps import LOCKED, REMEDY_KINDS, remedy_step, written
from tests.simulator.vm_site import PASSTHROUGH, PLAIN, VGPU, VmSite
from tests.support.simulator import SimulatorProcess
from vsphere.fleet import read_fleet
from vsphere.inventory import find_host
from vsphere.passthrough import set_passthrough
from vsphere.sessions import SessionPool
from vsphere.settings import VCenterSettings
from vsphere.tasks import await_task

KEY, OTHER_KEY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
RINGS = Keyring.of(KEY.public_key())
NOW = datetime(2026, 3, 1, tzinfo=UTC)
SUBJECT = "vc/domain-c1"
RUN = {"workflow_id": ids.ha_recovery_audit("vc", "domain-c1"), "run_id": "run-1"}
DEVICES = written([VmGpu(key=0, kind="dynamic", allowed=("10de:20f1",), label="Training", sbdf="0000:81:00.0")])
PARAMS: dict[StepKind, dict[str, str]] = {
    StepKind.REGISTER_VM: {"host": "host-2", "host_name": "esx-2", "from": "host-1", "from_name": "esx-1",
                           "path": "[ds] a/a.vmx", "folder": "group-v1", "pool": "resgroup-1"},
    StepKind.CONFIGURE_VM: {LOCKED: "TRUE"},
    StepKind.SET_VM_GPUS: {"gpus": DEVICES},
    StepKind.POWER_ON_VM: {"host": "host-2", "host_name": "esx-2"},
    StepKind.APPLY_RECOMMENDATION: {"host": "host-2", "host_name": "esx-2", "key": "1", "cluster": "domain-c1"},
    StepKind.MOVE_VM: {"host": "host-2", "host_name": "esx-2", "for_name": "train-9"},
    StepKind.SUSPEND_VM: {"for_name": "train-9"},
}  # fmt: skip
METHODS = {
    StepKind.REGISTER_VM: "register_lost_vm",
    StepKind.CONFIGURE_VM: "configure_lost_vm",
    StepKind.SET_VM_GPUS: "convert_lost_vm",
    StepKind.POWER_ON_VM: "power_on_lost_vm",
    StepKind.APPLY_RECOMMENDATION: "apply_recommendation",
    StepKind.MOVE_VM: "move_vm",
    StepKind.SUSPEND_VM: "suspend_vm",
}


def step(kind: StepKind, name: str = "train-1", uuid: str = "uuid-1", **params: str) -> Step:
    return remedy_step(kind, name, uuid=uuid, moid="vm-1", more=PARAMS[kind] | params)


def order(*steps: Step, subject: str = SUBJECT, **more: Any) -> RemedyOrder:
    """An order for the first of the steps of an approved plan."""
    plan = Plan(steps=steps)
    vcenter = subject.partition("/")[0]
    fields: dict[str, Any] = {
        "vcenter": vcenter, "step": steps[0], "plan": plan, "plan_hash": plan_hash(subject, plan), "subject": subject,
    }  # fmt: skip
    return granted(RemedyOrder.model_validate(fields | more))


def granted(made: RemedyOrder, key: Ed25519PrivateKey = KEY, **changes: Any) -> RemedyOrder:
    vcenter, _, about = made.subject.partition("/")
    claims: dict[str, Any] = {
        "workflow_id": ids.ha_recovery_audit(vcenter, about), "run_id": "run-1", "plan_hash": made.plan_hash,
        "verdict": Verdict.APPROVE, "approver": "cli:bob", "nonce": "n", "decided_at": NOW,
        "expires_at": NOW + timedelta(hours=1),
    }  # fmt: skip
    return made.model_copy(update={"grant": sign(DecisionClaims.model_validate(claims | changes), key)})


def check(made: RemedyOrder, kind: StepKind | None = None, **run: str) -> None:
    check_remedy_permit(made, kind or made.step.kind, RINGS, **(RUN | run), now=NOW)


@pytest.mark.parametrize("kind", sorted(REMEDY_KINDS))
def test_an_approved_step_is_allowed_and_the_same_step_without_a_grant_is_not(kind: StepKind) -> None:
    made = order(step(kind))
    check(made)
    with pytest.raises(Conflict, match="nobody approved"):
        check(made.model_copy(update={"grant": ""}))


POWER_ON, SUSPEND = step(StepKind.POWER_ON_VM), step(StepKind.SUSPEND_VM)
GOOD = order(POWER_ON)
LIE = POWER_ON.model_copy(update={"change": "powered on on esx-3"})
MUTE = POWER_ON.model_copy(update={"params": {"vm": "uuid-1", "moid": "vm-1", "for": "uuid-1"}})
NO_GPUS = step(StepKind.SET_VM_GPUS).model_copy(update={"params": {"vm": "u", "moid": "m", "for": "u", "gpus": "[]"}})
DELETE = POWER_ON.model_copy(update={"kind": StepKind.DELETE_VM})


@pytest.mark.parametrize(
    ("forged", "run", "words"),
    [
        (GOOD.model_copy(update={"step": SUSPEND}), {}, "not part of plan"),
        (
            GOOD.model_copy(update={"step": POWER_ON.model_copy(update={"target": "prod-1"})}), {}, "not part of plan"
        ),
        (GOOD.model_copy(update={"plan": Plan(steps=(SUSPEND,)), "step": SUSPEND}), {}, "does not have the hash"),
        (GOOD.model_copy(update={"subject": "vc/domain-c2"}), {}, "does not have the hash"),
        (GOOD.model_copy(update={"vcenter": "other"}), {}, "does not look after"),
        (order(POWER_ON, subject="vc/domain-c2"), {}, "which ha-recovery-audit/.* does not look after"),
        (GOOD, {"workflow_id": "prepare-gpu-host/vc/x"}, "does not look after"),
        (GOOD, {"run_id": "run-2"}, "not for this run"),
        (order(LIE), {}, "its words are 'powered on on esx-3', and it would do 'powered on on esx-2'"),
        (order(MUTE), {}, "it has no host, host_name"),
        (order(NO_GPUS), {}, "no conversions"),
        (order(DELETE), {}, "is no remedy"),
        (granted(GOOD, verdict=Verdict.DENY), {}, "not approve"),
        (granted(GOOD, plan_hash="0" * 32), {}, "not for plan"),
        (granted(GOOD, expires_at=NOW), {}, "expired"),
        (granted(GOOD, OTHER_KEY), {}, "not trusted"),
    ],
)  # fmt: skip
def test_a_forged_order_is_refused(forged: RemedyOrder, run: dict[str, str], words: str) -> None:
    with pytest.raises(Conflict, match=words):
        check(forged, **run)


@pytest.mark.parametrize("kind", sorted(REMEDY_KINDS))
def test_each_activity_takes_its_own_kind_of_step_only(kind: StepKind) -> None:
    other = POWER_ON if kind is not StepKind.POWER_ON_VM else SUSPEND
    acts = VCenterRemedyActivities({}, RINGS)
    with pytest.raises(Conflict, match=f"the order is for {other.kind}"):
        environment().run(getattr(acts, METHODS[kind]), order(other))


def test_a_vcenter_that_is_not_configured_is_named() -> None:
    acts = VCenterRemedyActivities({}, RINGS)
    later = {"expires_at": datetime.now(UTC) + timedelta(hours=1)}
    with pytest.raises(BadRequest, match="no vCenter 'vc'"):
        environment().run(acts.suspend_vm, granted(order(SUSPEND), **later))


def environment(workflow_id: str = RUN["workflow_id"]) -> ActivityEnvironment:
    made = ActivityEnvironment()
    made.info = replace(made.info, workflow_id=workflow_id, workflow_run_id="run-1")
    return made


# -- in a vCenter ----------------------------------------------------------------------------------------------------


class Ward:
    """A vCenter whose VMs are brought back."""

    def __init__(self, site: VmSite, pool: SessionPool) -> None:
        self.site, self.pool = site, pool
        self.acts = VCenterRemedyActivities({"vc": pool}, RINGS)
        self.subject = f"vc/{site.cluster._moId}"

    def host(self, name: str) -> dict[str, str]:
        return {"host": self.site.hosts[name]._moId, "host_name": name}

    def run(self, *steps: Step) -> VmStepOutcome:
        """The first step of an approved plan, and its task to its end."""
        made = granted(order(*steps, subject=self.subject), expires_at=datetime.now(UTC) + timedelta(hours=1))
        where = environment(ids.ha_recovery_audit("vc", self.site.cluster._moId))
        outcome: VmStepOutcome = where.run(getattr(self.acts, METHODS[steps[0].kind]), made)
        if outcome.task is not None:
            end = await_task(self.site.si, outcome.task, lambda _: None, 60)
            assert end.state == "success", end
        return outcome


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    password: Path = tmp_path_factory.mktemp("ward") / "password"
    with SimulatorProcess(clusters=1, hosts=3, gpus=4, vms=0, gpu_vms=1, time_scale=300) as running:
        password.write_text(running.password)
        site = VmSite(running)
        vcenter = VCenterSettings(
            name="vc",
            url=f"https://{running.host}:{running.port}",
            user=running.user,
            password_file=password,
            ca_file=running.ca_file,
        )
        with SessionPool(vcenter) as pool:
            yield Ward(site, pool)
        site.close()


def test_the_approved_steps_bring_a_pinned_vm_of_a_dead_host_back(ward: Ward) -> None:
    site = ward.site
    sbdf = [each.id for each in site.hosts[PASSTHROUGH].config.pciPassthruInfo if each.passthruActive][-1]
    vm = site.vm(site.act("add_vm", host=PASSTHROUGH, name="pinned", gpu="static", device=sbdf))
    uuid, path = vm.config.instanceUuid, vm.config.files.vmPathName
    folder, pool = vm.parent._moId, vm.resourcePool._moId
    site.act("add_host", cluster="gpu-01", name="spare.gpu.test")
    site.hosts["spare.gpu.test"] = next(host for host in site.cluster.host if host.name == "spare.gpu.test")
    # What it had is in reach again on the host that was in passthrough all along, under the same address.
    move = {**ward.host("spare.gpu.test"), "from": site.hosts[PASSTHROUGH]._moId, "from_name": PASSTHROUGH,
            "path": path, "folder": folder, "pool": pool}  # fmt: skip
    dynamic = VmGpu(key=0, kind="dynamic", allowed=("10de:20f1",), label="Training", sbdf=sbdf)
    register = step(StepKind.REGISTER_VM, "pinned", uuid, **move)
    with pytest.raises(Conflict, match="may run there"):
        ward.run(register)
    site.act("fail_host", host=PASSTHROUGH)
    site.until(lambda: site.hosts[PASSTHROUGH].runtime.connectionState == "notResponding")
    plan = (register, step(StepKind.SET_VM_GPUS, "pinned", uuid, gpus=written([dynamic])))
    assert ward.run(*plan).text == "registered"
    assert ward.run(*plan).text == "was registered there already"
    settings = {LOCKED: "TRUE", "pciPassthru.64bitMMIOSizeGB": "4096"}
    configure = remedy_step(StepKind.CONFIGURE_VM, "pinned", uuid=uuid, moid="vm-1", more=settings)
    assert ward.run(configure).text == "configured"
    assert ward.run(configure).text == "was configured so already"
    assert ward.run(plan[1]).text == "static devices replaced"
    assert ward.run(plan[1]).text == "was converted already"
    site.act("restore_host", host=PASSTHROUGH)
    site.until(lambda: site.hosts[PASSTHROUGH].runtime.connectionState == "connected")
    power_on = step(StepKind.POWER_ON_VM, "pinned", uuid, **ward.host(PASSTHROUGH))
    assert ward.run(power_on).text == "powered on"
    assert ward.run(power_on).text == "was on already"
    (again,) = site.content.searchIndex.FindAllByUuid(None, uuid, True, True)
    assert (again.runtime.powerState, again.runtime.host.name) == ("poweredOn", PASSTHROUGH)


def test_a_plan_is_carried_to_its_end_and_what_is_left_of_it_stays_what_was_approved(ward: Ward) -> None:
    """From vCenter to the plan and back, with a look after each step."""
    site, label = ward.site, "Twin"
    for name in ("twin-1.gpu.test", "twin-2.gpu.test"):
        site.act("add_host", cluster="gpu-01", name=name, rebind_without_reboot=True)
        site.hosts[name] = next(host for host in site.cluster.host if host.name == name)
        found = find_host(site.si, "vc", name)
        assert set_passthrough(site.si, found, "0000:81:00.0", True, label, apply_now=True)
    home = site.hosts["twin-1.gpu.test"]
    site.act("add_vm", host=home.name, name="twin", gpu="static", device="0000:81:00.0")
    before = read_fleet(site.si, "vc", "gpu-01")
    (vm,) = [each for each in before.vms if each.name == "twin"]
    (held,) = [gpu for host in before.hosts for gpu in host.gpus if vm.moid in gpu.vm_moids]
    at = datetime.now(UTC)
    victim = Victim(
        vm=vm,
        host=find_host(site.si, "vc", home.name),
        held=(HeldGpu(sbdf=held.sbdf, vendor_device=held.vendor_device, label=held.label),),
        lost_at=at,
    )
    verdict = VmVerdict(
        moid=vm.moid, instance_uuid=vm.instance_uuid, name="twin", was_on=home.name, recovery=Recovery.NOT_RESTARTED,
        reason=Reason.STATIC_PINNED, text="", lost_at=at,
    )  # fmt: skip

    def planned() -> Plan:
        return remedies([verdict], [victim], read_fleet(site.si, "vc", "gpu-01"), RemedyPolicy())

    site.act("disconnect_host", host=home.name)
    site.until(lambda: home.runtime.connectionState == "notResponding")
    assert planned().steps == ()
    assert "its VMs may run there" in planned().notes[0]
    site.act("restore_host", host=home.name)
    site.until(lambda: home.runtime.connectionState == "connected")
    site.act("fail_host", host=home.name)
    site.until(lambda: home.runtime.connectionState == "notResponding")
    steps = planned().steps
    assert [each.kind for each in steps] == [
        StepKind.REGISTER_VM, StepKind.SET_VM_GPUS, StepKind.POWER_ON_VM,
    ]  # fmt: skip
    for index in range(len(steps)):
        ward.run(*steps[index:])
        assert [each.id for each in planned().steps] == [each.id for each in steps[index + 1 :]]
    (now,) = [each for each in read_fleet(site.si, "vc", "gpu-01").vms if each.name == "twin"]
    assert (now.powered_on, now.host_moid) == (True, site.hosts["twin-2.gpu.test"]._moId)
    assert [(gpu.kind, gpu.label) for gpu in now.gpus] == [("dynamic", label)]


def test_a_step_is_for_the_vm_whose_name_was_read(ward: Ward) -> None:
    site = ward.site
    vm = site.vm(site.act("add_vm", host=VGPU, name="production", gpu="vgpu", profile="grid_a100-20c"))
    uuid = vm.config.instanceUuid
    with pytest.raises(Conflict, match="the VM with that instance UUID is called production now"):
        ward.run(step(StepKind.SUSPEND_VM, "scratch", uuid))
    with pytest.raises(Conflict, match="no longer in the inventory"):
        ward.run(step(StepKind.SUSPEND_VM, "production", "52f0c1a0-0000-4000-8000-000000000000"))
    with pytest.raises(Conflict, match="was approved"):
        ward.run(step(StepKind.MOVE_VM, "production", uuid, host=site.hosts[PLAIN]._moId, host_name=PASSTHROUGH))
    assert ward.run(step(StepKind.SUSPEND_VM, "production", uuid)).text == "suspended"
    assert ward.run(step(StepKind.SUSPEND_VM, "production", uuid)).text == "was suspended already"
