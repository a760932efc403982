"""What a look at the fleet tells, what it leaves alone, and which rule acts."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.fleet import FleetCluster, FleetGpu, FleetHost, FleetVm, GpuFleet, VgpuKind, VmGpu
from contracts.host import HostRef
from contracts.profiles import GpuMode, GpuWanted, Profile
from contracts.reconcile import Finding, FindingKind, LivePreparation
from contracts.rules import Rule
from planning.differences import acts, counts, differences, known_labels

A100, A40 = "10de:20f1", "10de:2235"
CLUSTER = FleetCluster(moid="domain-c1", name="gpu-01", ha_enabled=True)
PREPARED = tuple(f"key-{number}" for number in range(9))
LABELS = frozenset({"Training"})


def gpu(sbdf: str = "0000:81:00.0", pair: str = A100, **more: Any) -> FleetGpu:
    fields = {"sbdf": sbdf, "vendor_device": pair, "name": "NVIDIA A100", "passthru_active": True, "label": "Training"}
    return FleetGpu.model_validate(fields | more)


def card(*profiles: str, **more: Any) -> FleetGpu:
    return gpu(pair=A40, label="", passthru_active=False, active_type="sharedDirect", profiles=profiles, **more)


def host(number: int = 1, *gpus: FleetGpu, **more: Any) -> FleetHost:
    ref = HostRef(vcenter="vc", key=f"key-{number}", moid=f"host-{number}", name=f"esx-{number}")
    return FleetHost.model_validate({"ref": ref, "cluster_moid": "domain-c1", "gpus": gpus or (gpu(),)} | more)


def vm(*gpus: VmGpu, on: int = 1, **more: Any) -> FleetVm:
    fields = {
        "moid": "vm-1",
        "instance_uuid": "uuid-1",
        "name": "train-1",
        "host_moid": f"host-{on}",
        "powered_on": True,
        "gpus": gpus,
        "ha_protected": True,
    }
    return FleetVm.model_validate(fields | more)


def dynamic(**more: Any) -> VmGpu:
    fields = {"key": 13000, "kind": "dynamic", "allowed": (A100,), "label": "Training", "assigned": "0000:81:00.0"}
    return VmGpu.model_validate(fields | more)


def vgpu(profile: str) -> VmGpu:
    return VmGpu(key=13001, kind="vgpu", profile=profile)


def found(
    hosts: Sequence[FleetHost] = (),
    vms: Sequence[FleetVm] = (),
    *,
    clusters: Sequence[FleetCluster] = (CLUSTER,),
    prepared: Sequence[str] = PREPARED,
    live: Sequence[LivePreparation] = (),
    labels: frozenset[str] = LABELS,
) -> tuple[Finding, ...]:
    fleet = GpuFleet(vcenter="vc", clusters=tuple(clusters), hosts=tuple(hosts or [host()]), vms=tuple(vms))
    return differences(fleet, prepared, live, labels)


def at_work(number: int, asks: bool = False) -> LivePreparation:
    return LivePreparation(host_key=f"key-{number}", workflow_id=f"prepare-{number}", run_id="run", asks=asks)


def only(findings: Sequence[Finding], kind: FindingKind) -> Finding:
    (finding,) = findings
    assert finding.kind is kind
    assert finding.fix
    return finding


def test_a_fleet_as_expected_gives_nothing_to_tell() -> None:
    shared = host(2, card("nvidia_a40-8c", "nvidia_a40-16c"))
    assert found([host(), shared], [vm(dynamic()), vm(vgpu("nvidia_a40-8c"), on=2, moid="vm-2")]) == ()


def test_a_host_that_nobody_took_down_is_down() -> None:
    finding = only(found([host(connection_state="notResponding", ha_state="hostDown")]), FindingKind.HOST_DOWN)
    assert finding.host is not None
    assert (finding.host.name, finding.cluster_name) == ("esx-1", "gpu-01")
    assert "runtime.connectionState notResponding, runtime.dasHostState hostDown" in finding.text
    assert "HaRecoveryAudit" in finding.fix


@pytest.mark.parametrize("state", [{"in_maintenance": True}, {"standby": True}])
def test_hosts_in_maintenance_or_standby_were_taken_down(state: dict[str, bool]) -> None:
    assert found([host(connection_state="notResponding", **state)]) == ()


def test_a_host_that_a_preparation_reboots_was_taken_down_and_one_that_waits_for_approval_was_not() -> None:
    down = host(connection_state="notResponding")
    assert found([down], live=[at_work(1)]) == ()
    only(found([down], live=[at_work(1, asks=True)]), FindingKind.HOST_DOWN)


def test_a_host_that_shows_its_failure_otherwise_at_the_next_look_is_the_same_finding() -> None:
    states = [{"connection_state": "notResponding"}, {"connection_state": "disconnected", "ha_state": "hostDown"}]
    first, second = (only(found([host(**state)]), FindingKind.HOST_DOWN) for state in states)
    assert first.text != second.text
    assert first.key == second.key


def test_a_gpu_host_that_no_run_prepared_is_told_with_its_gpus() -> None:
    new = host(9, gpu(), gpu("0000:c1:00.0"))
    finding = only(found([new]), FindingKind.HOST_NEVER_PREPARED)
    assert "2 x NVIDIA A100" in finding.text
    assert finding.fix.startswith("gpuwright prepare esx-9 --profile")
    assert found([new], live=[at_work(9)]) == ()
    assert found([new], live=[at_work(9, asks=True)]) == ()
    only(found([host(9, connection_state="notResponding")]), FindingKind.HOST_DOWN)


@pytest.mark.parametrize(
    ("card_there", "words"),
    [
        (
            gpu(pair=A40, name="NVIDIA A40"),
            "allows 10de:20f1 and holds 0000:81:00.0 (assignedId), which is a 10de:2235",
        ),
        (
            gpu(label="Inference"),
            "asks for the label 'Training' and holds 0000:81:00.0 (assignedId), which has the label",
        ),
        (gpu(label=""), "which has no label"),
    ],
)
def test_a_running_vm_whose_device_holds_another_gpu_is_told(card_there: FleetGpu, words: str) -> None:
    labels = frozenset({"Training", "Inference"})
    finding = only(found([host(1, card_there)], [vm(dynamic())], labels=labels), FindingKind.VM_ON_UNEXPECTED_GPU)
    assert words in finding.text
    assert (finding.vm_moid, finding.vm_name) == ("vm-1", "train-1")
    assert "gpuwright vm change train-1" in finding.fix


@pytest.mark.parametrize(
    "unseen",
    [
        vm(dynamic(), powered_on=False),
        vm(dynamic(), template=True),
        vm(dynamic(), connection_state="disconnected"),
        vm(dynamic(), on=77),
        # A dynamic device that is no GPU, or that nobody assigned yet.
        vm(dynamic(assigned="0000:05:00.0")),
        vm(dynamic(assigned="")),
    ],
)
def test_what_cannot_be_seen_is_no_difference(unseen: FleetVm) -> None:
    assert found([host(1, gpu(pair=A40))], [unseen]) == ()


def test_vms_of_a_host_that_is_down_are_not_judged_by_what_they_were() -> None:
    down = host(1, gpu(pair=A40), connection_state="notResponding")
    only(found([down], [vm(dynamic(), ha_protected=False)]), FindingKind.HOST_DOWN)


def test_a_vgpu_vm_on_a_host_that_does_not_offer_its_profile_is_told() -> None:
    running = [vm(vgpu("nvidia_a40-48c"))]
    offering = host(1, card("nvidia_a40-8c"))
    finding = only(found([offering], running), FindingKind.VM_ON_UNEXPECTED_GPU)
    assert "profile nvidia_a40-48c, and the host offers only nvidia_a40-8c" in finding.text
    none = host(1, gpu(active_type="direct"))
    assert (
        "no GPU of the host is in vGPU mode: 0000:81:00.0 direct"
        in only(found([none], running), FindingKind.VM_ON_UNEXPECTED_GPU).text
    )


def test_where_cards_do_not_tell_their_profiles_the_host_does_or_nobody() -> None:
    silent = [card(), card("nvidia_a40-8c", sbdf="0000:c1:00.0")]
    running = [vm(vgpu("nvidia_a40-48c"))]
    assert found([host(1, *silent)], running) == ()
    knows = VgpuKind(name="nvidia_a40-48c")
    assert found([host(1, *silent, vgpu_kinds=(knows,))], running) == ()
    other = VgpuKind(name="nvidia_a40-4c")
    only(found([host(1, *silent, vgpu_kinds=(other,))], running), FindingKind.VM_ON_UNEXPECTED_GPU)


@pytest.mark.parametrize(
    ("lost", "words", "fix"),
    [
        (
            vm(VmGpu(key=1, kind="static", sbdf="0000:81:00.0")),
            "binds it to 0000:81:00.0",
            "gpuwright vm change train-1",
        ),
        (vm(dynamic(), ha_protected=False), "dasProtected is false", "vSphere Availability"),
        (vm(dynamic(), restart_priority="disabled"), "restart priority is disabled", "VM Overrides"),
    ],
)
def test_a_running_vm_that_ha_would_leave_off_is_told(lost: FleetVm, words: str, fix: str) -> None:
    finding = only(found(vms=[lost]), FindingKind.VM_NOT_SAVED_BY_HA)
    assert words in finding.text
    assert fix in finding.fix
    assert found(vms=[lost.model_copy(update={"powered_on": False})]) == ()
    assert found(vms=[lost], clusters=[CLUSTER.model_copy(update={"ha_enabled": False})]) == ()


def test_without_host_monitoring_ha_saves_nobody() -> None:
    blind = CLUSTER.model_copy(update={"ha_host_monitoring": False})
    finding = only(found(vms=[vm(dynamic())], clusters=[blind]), FindingKind.VM_NOT_SAVED_BY_HA)
    assert "host monitoring is off" in finding.text


def test_a_label_that_no_profile_sets_is_told_once_a_host() -> None:
    gpus = [
        gpu(f"0000:{number}1:00.0", label=label)
        for number, label in enumerate(["Trainnig", "Trainnig", "", "Training"])
    ]
    finding = only(found([host(1, *gpus)]), FindingKind.UNKNOWN_LABEL)
    assert finding.text == "hardware label 'Trainnig' on 0000:01:00.0, 0000:11:00.0; the profiles set: Training"
    wanted = GpuWanted(match=A100, mode=GpuMode.PASSTHROUGH, label="Trainnig")
    unlabelled = GpuWanted(match=A100, mode=GpuMode.PASSTHROUGH, label="")
    known = known_labels([Profile(name="p", gpus=(wanted, unlabelled))])
    assert known == {"Trainnig"}
    assert found([host(1, *gpus[:3])], labels=known) == ()


def rule(name: str, kind: str, start: str = "PrepareGpuHost", **where: str) -> Rule:
    given = {"profile": "training"} if start == "PrepareGpuHost" else {}
    return Rule.model_validate({"name": name, "on": [kind], "where": where, "start": start, "with": given})


NEW = found([host(9)])


@pytest.mark.parametrize(
    ("rules", "acting"),
    [
        ([], ""),
        ([rule("all", "gpuwright.HostNeverPrepared")], "all"),
        ([rule("lower", "GPUWRIGHT.hostneverprepared")], "lower"),
        ([rule("event", "HostAddedEvent"), rule("elsewhere", "gpuwright.HostNeverPrepared", cluster="other-*")], ""),
        ([rule("there", "gpuwright.HostNeverPrepared", cluster="gpu-*", host="esx-*", vcenter="v?")], "there"),
        ([rule("other vcenter", "gpuwright.HostNeverPrepared", vcenter="vc-2")], ""),
        ([rule("unfit", "gpuwright.HostNeverPrepared", start="HaRecoveryAudit")], ""),
        ([rule("one", "gpuwright.HostNeverPrepared"), rule("two", "gpuwright.HostNeverPrepared")], "one"),
    ],
)
def test_the_first_rule_that_names_the_finding_where_it_is_acts(rules: list[Rule], acting: str) -> None:
    (finding,) = acts(NEW, rules, "vc")
    assert (finding.rule, finding.profile) == (acting, "training" if acting else "")


def test_a_host_down_is_audited_by_rule_and_everything_else_is_told_only() -> None:
    audit = rule("audit", "gpuwright.HostDown", "HaRecoveryAudit")
    (down,) = acts(found([host(connection_state="notResponding")]), [audit], "vc")
    assert (down.rule, down.profile) == ("audit", "")
    told = found([host(1, gpu(label="odd"))], [vm(dynamic(), ha_protected=False)])
    everywhere = [rule(kind, kind) for kind in FindingKind] + [
        rule(f"a-{kind}", kind, "HaRecoveryAudit") for kind in FindingKind
    ]
    assert {each.kind for each in told} == {
        FindingKind.UNKNOWN_LABEL,
        FindingKind.VM_ON_UNEXPECTED_GPU,
        FindingKind.VM_NOT_SAVED_BY_HA,
    }
    assert [each.rule for each in acts(told, everywhere, "vc")] == ["", "", ""]


@given(st.permutations(range(6)), st.sets(st.integers(0, 5)))
def test_findings_come_in_one_order_whatever_the_inventory_s(order: list[int], down: set[int]) -> None:
    def fleet(numbers: Sequence[int]) -> list[FleetHost]:
        state = {True: "notResponding", False: "connected"}
        return [host(number, connection_state=state[number in down]) for number in numbers]

    findings = found(fleet(order), prepared=())
    assert findings == found(fleet(range(6)), prepared=())
    assert counts(findings) == {
        kind.value: number
        for kind, number in ((FindingKind.HOST_DOWN, len(down)), (FindingKind.HOST_NEVER_PREPARED, 6 - len(down)))
        if number
    }
    assert len({each.key for each in findings}) == 6
