"""What became of each GPU VM after a failure: every verdict by an example, with what it was told from."""

from dataclasses import replace

import pytest

from contracts.audit import AuditLimits
from contracts.fleet import FleetGpu, FleetVm, GpuFleet, VmGpu
from contracts.incidents import HostDown, IncidentEvent
from contracts.verdicts import Reason, Recovery, VmVerdict
from planning.incident import standings
from planning.presence import victims_of
from planning.verdicts import Sight, judge
from tests.support.incident import (
    A30,
    A100,
    BOOTED,
    FIRST,
    LOST,
    PROFILE,
    SECOND,
    after,
    dead,
    down,
    dynamic,
    event,
    fleet,
    host,
    shared,
    static,
    vgpu,
    vm,
    whole,
)

LIMITS = AuditLimits()
BEFORE = fleet(host(1, whole(), whole(SECOND)), host(2, whole()), vms=(vm(1, 1),))
FAILED = (event(1, "HostConnectionLostEvent", 0, on=1), event(2, "DasHostFailedEvent", 1, on=1))
CUT_OFF = FAILED[:1]
RESTARTED = event(10, "VmRestartedOnAlternateHostEvent", 41, on=2, vm=1, source=1)
NO_ROOM = event(11, "VmFailoverFailed", 40, on=1, vm=1)


def sight(now: GpuFleet, events: tuple[IncidentEvent, ...], seconds: float = 120, *downs: HostDown) -> Sight:
    hosts = standings(downs or [down(1)], events, now)
    return Sight(now, events, {each.host.key: each for each in hosts}, after(seconds), LIMITS)


def verdict(
    now: GpuFleet,
    *events: IncidentEvent,
    seconds: float = 120,
    before: GpuFleet = BEFORE,
    lost: tuple[IncidentEvent, ...] = FAILED,
) -> VmVerdict:
    """Of the one VM that ran on host 1."""
    victims = victims_of([down(1)], before, BOOTED, lost, now)
    (found,) = judge(victims, sight(now, (*lost, *events), seconds))
    assert found.evidence
    assert all(found.evidence)
    return found


def said(found: VmVerdict) -> tuple[Recovery, Reason]:
    return found.recovery, found.reason


def elsewhere(*gpus: VmGpu, **more: object) -> FleetVm:
    """The VM, restarted on host 2."""
    known: dict[str, object] = {"gpus": gpus or (dynamic(on=FIRST),), "boot_time": after(40)}
    return vm(1, 2, **{**known, **more})


def off(*gpus: VmGpu, on: int = 1, **more: object) -> FleetVm:
    known: dict[str, object] = {"gpus": gpus or (dynamic(),), "powered_on": False}
    return vm(1, on, **{**known, **more})


# -- gone, or lost to vCenter ------------------------------------------------------------------------------------------


def test_a_vm_that_somebody_deleted_is_retired() -> None:
    found = verdict(fleet(dead(1, whole()), host(2, whole())), event(20, "VmRemovedEvent", 60, vm=1))
    assert said(found) == (Recovery.RETIRED, Reason.NONE)
    assert any("event 20, VmRemovedEvent" in line for line in found.evidence)


def test_a_vm_that_the_audit_took_out_of_the_inventory_and_could_not_register_is_not_retired() -> None:
    removed = (*FAILED, event(20, "VmRemovedEvent", 60, vm=1))
    now = fleet(dead(1, whole()), host(2, whole()))
    victims = victims_of([down(1)], BEFORE, BOOTED, FAILED, now)
    (found,) = judge(victims, replace(sight(now, removed), unregistered=[victims[0].vm.instance_uuid]))
    assert said(found) == (Recovery.NOT_RESTARTED, Reason.ORPHANED)
    assert "by hand" in found.text
    assert any("event 20, VmRemovedEvent" in line for line in found.evidence)


def test_a_vm_that_is_gone_without_a_word_is_unknown() -> None:
    changed = event(20, "VmReconfiguredEvent", 60, vm=1)
    found = verdict(fleet(dead(1, whole()), host(2, whole())), changed)
    assert said(found) == (Recovery.UNKNOWN, Reason.NOT_KNOWN)
    assert "uuid-1" in found.evidence[0]
    assert "event 20" in found.evidence[1]


def test_a_vm_that_was_registered_again_is_found_by_its_uuid() -> None:
    again = elsewhere(moid="vm-77")
    removed = event(20, "VmRemovedEvent", 20, vm=1)
    found = verdict(fleet(dead(1, whole()), host(2, whole()), vms=(again,)), removed)
    assert said(found) == (Recovery.RECOVERED, Reason.NONE)
    assert found.moid == "vm-1"


@pytest.mark.parametrize(
    ("state", "reason"),
    [("orphaned", Reason.ORPHANED), ("inaccessible", Reason.INACCESSIBLE), ("invalid", Reason.INACCESSIBLE)],
)
def test_a_vm_that_vcenter_lost_says_so(state: str, reason: Reason) -> None:
    found = verdict(fleet(dead(1, whole()), host(2, whole()), vms=(off(connection_state=state),)))
    assert said(found) == (Recovery.NOT_RESTARTED, reason)
    assert "runtime.connectionState" in found.evidence[0]


# -- running -----------------------------------------------------------------------------------------------------------


def test_a_vm_that_has_its_gpu_again_is_recovered() -> None:
    found = verdict(fleet(dead(1, whole()), host(2, whole(SECOND)), vms=(elsewhere(dynamic(on=SECOND)),)), RESTARTED)
    assert said(found) == (Recovery.RECOVERED, Reason.NONE)
    assert found.now_on == "esx-2"
    assert found.recovered_at == after(40)
    assert found.took is not None
    assert found.took.total_seconds() == 40
    assert [(gpu.sbdf, gpu.vendor_device) for gpu in found.holds] == [(SECOND, A100)]
    text = " ".join(found.evidence)
    assert SECOND in text
    assert "event 10" in text
    assert f"before: NVIDIA {A100} at {FIRST}" in text


def test_the_binding_of_the_host_proves_a_device_too() -> None:
    card = whole(SECOND).model_copy(update={"vm_moids": ("vm-1",)})
    assert verdict(fleet(dead(1), host(2, card), vms=(elsewhere(dynamic()),))).recovery is Recovery.RECOVERED


def test_a_restart_that_was_told_before_the_loss_took_no_time() -> None:
    found = verdict(fleet(dead(1), host(2, whole()), vms=(elsewhere(boot_time=after(-20)),)))
    assert found.recovery is Recovery.RECOVERED
    assert found.recovered_at == LOST


def test_a_device_that_nothing_names_is_not_proven() -> None:
    found = verdict(fleet(dead(1), host(2, whole()), vms=(elsewhere(dynamic()),)))
    assert said(found) == (Recovery.UNKNOWN, Reason.NOT_KNOWN)
    assert "nothing on esx-2 names the GPU" in found.text
    found = verdict(fleet(dead(1), vms=(elsewhere(),)))
    assert said(found) == (Recovery.UNKNOWN, Reason.NOT_KNOWN)
    assert "not among the hosts with GPUs" in found.text


@pytest.mark.parametrize(
    ("had", "has", "gpu", "words"),
    [
        (whole(), whole(pair=A30, framebuffer_mib=24576), dynamic(A30, on=FIRST), f"{A30} (NVIDIA {A30}) instead of"),
        (whole(label="Training"), whole(), dynamic(on=FIRST), "label none instead of Training"),
        (whole(framebuffer_mib=81920), whole(), dynamic(on=FIRST), "40960 MiB of framebuffer instead of 81920"),
        (whole(), whole(pair=A30), dynamic(A100, on=FIRST), f"is not what its device allows ({A100})"),
        (whole(), whole(label="Spare"), dynamic(label="Training", on=FIRST), "its device asks for Training"),
    ],
)
def test_a_weaker_or_wrong_gpu_is_told_with_its_difference(
    had: FleetGpu, has: FleetGpu, gpu: VmGpu, words: str
) -> None:
    before = fleet(host(1, had), vms=(vm(1, 1),))
    found = verdict(fleet(dead(1), host(2, has), vms=(elsewhere(gpu),)), before=before)
    assert said(found) == (Recovery.OTHER_GPU, Reason.NONE)
    assert words in found.text
    assert any(words in line for line in found.evidence)
    assert found.recovered_at == after(40)


def test_a_larger_framebuffer_is_as_good() -> None:
    now = fleet(dead(1), host(2, whole(framebuffer_mib=81920)), vms=(elsewhere(),))
    assert verdict(now).recovery is Recovery.RECOVERED


def test_a_vm_that_came_back_with_fewer_gpus_has_not_what_it_had() -> None:
    before = fleet(host(1, whole(), whole(SECOND)), vms=(vm(1, 1, dynamic(on=FIRST), dynamic(on=SECOND, key=13001)),))
    found = verdict(fleet(dead(1), host(2, whole()), vms=(elsewhere(),)), before=before)
    assert found.recovery is Recovery.OTHER_GPU
    assert "has nothing instead" in found.text


def test_a_vgpu_is_proven_by_a_card_that_names_the_vm_on_a_host_that_offers_its_profile() -> None:
    before = fleet(host(1, shared(by=("vm-1",))), vms=(vm(1, 1, vgpu()),))
    now = fleet(dead(1), host(2, shared(SECOND, by=("vm-1",))), vms=(elsewhere(vgpu()),))
    found = verdict(now, before=before)
    assert found.recovery is Recovery.RECOVERED
    assert found.holds[0].profile == PROFILE
    assert verdict(fleet(dead(1), host(2, shared(SECOND)), vms=(elsewhere(vgpu()),)), before=before).recovery is (
        Recovery.UNKNOWN
    )


def test_a_vgpu_is_not_proven_on_a_host_that_does_not_offer_its_profile() -> None:
    before = fleet(host(1, shared(by=("vm-1",))), vms=(vm(1, 1, vgpu()),))
    other = shared(by=("vm-1",)).model_copy(update={"profiles": ("nvidia_a40-8c",)})
    found = verdict(fleet(dead(1), host(2, other), vms=(elsewhere(vgpu(FIRST)),)), before=before)
    assert said(found) == (Recovery.UNKNOWN, Reason.NOT_KNOWN)
    assert f"does not offer profile {PROFILE}" in found.text


def test_a_static_device_is_proven_by_its_address() -> None:
    before = fleet(host(1, whole()), vms=(vm(1, 1, static()),))
    again = vm(1, 1, static(), boot_time=after(300))
    back = event(30, "HostConnectedEvent", 200, on=1)
    found = verdict(fleet(host(1, whole()), vms=(again,)), back, before=before, seconds=400)
    assert said(found) == (Recovery.RECOVERED, Reason.NONE)
    found = verdict(fleet(host(1), vms=(again,)), back, before=before, seconds=400)
    assert found.recovery is Recovery.UNKNOWN


def test_a_vm_whose_host_was_only_cut_off_never_stopped() -> None:
    back = event(30, "HostConnectedEvent", 200, on=1)
    found = verdict(fleet(host(1, whole()), vms=(vm(1, 1),)), back, lost=CUT_OFF, seconds=300)
    assert said(found) == (Recovery.KEPT_RUNNING, Reason.NONE)
    assert "runtime.bootTime" in found.evidence[0]
    unread = verdict(fleet(host(1, whole()), vms=(vm(1, 1, boot_time=None),)), back, lost=CUT_OFF)
    assert unread.recovery is Recovery.KEPT_RUNNING
    moved = verdict(fleet(dead(1), host(2, whole()), vms=(elsewhere(boot_time=BOOTED),)))
    assert moved.recovery is Recovery.KEPT_RUNNING


def test_a_question_keeps_a_vm_from_running() -> None:
    found = verdict(fleet(dead(1), host(2, whole()), vms=(elsewhere(question="moved or copied?"),)))
    assert said(found) == (Recovery.NOT_RESTARTED, Reason.QUESTION)
    assert "moved or copied?" in found.evidence[0]
    stuck = verdict(fleet(dead(1), host(2, whole()), vms=(off(question="moved or copied?"),)))
    assert said(stuck) == (Recovery.NOT_RESTARTED, Reason.QUESTION)


@pytest.mark.parametrize(
    ("seconds", "mmio_gib", "expected"),
    [
        (120, 512, (Recovery.RESTARTING, Reason.NONE)),
        (120, 0, (Recovery.RESTARTING, Reason.NONE)),
        (1000, 0, (Recovery.NOT_RESTARTED, Reason.MMIO)),
        (1000, 64, (Recovery.NOT_RESTARTED, Reason.MMIO)),
        (1000, None, (Recovery.UNKNOWN, Reason.NOT_KNOWN)),
        (1000, 512, (Recovery.UNKNOWN, Reason.NOT_KNOWN)),
    ],
)
def test_a_guest_that_ran_before_and_is_not_up(
    seconds: int, mmio_gib: int | None, expected: tuple[Recovery, Reason]
) -> None:
    booting = elsewhere(tools_running=False, mmio_gib=mmio_gib)
    found = verdict(fleet(dead(1), host(2, whole()), vms=(booting,)), seconds=seconds)
    assert said(found) == expected
    assert "guest.toolsRunningStatus" in found.evidence[0]
    if found.reason is Reason.MMIO:
        assert "128 is needed" in found.text or "is not TRUE" in found.text


def test_a_guest_that_was_never_up_is_not_waited_for() -> None:
    before = fleet(host(1, whole()), vms=(vm(1, 1, tools_running=False),))
    now = fleet(dead(1), host(2, whole()), vms=(elsewhere(tools_running=False),))
    assert verdict(now, before=before).recovery is Recovery.RECOVERED


def test_after_the_deadline_nothing_is_restarting_any_more() -> None:
    booting = elsewhere(tools_running=False, boot_time=after(1700))
    now = fleet(dead(1), host(2, whole()), vms=(booting,))
    assert verdict(now, seconds=1799).recovery is Recovery.RESTARTING
    late = verdict(now, seconds=1801)
    assert said(late) == (Recovery.UNKNOWN, Reason.NOT_KNOWN)
    assert late.text.endswith("yet")


# -- shown running on a host that vCenter does not reach ---------------------------------------------------------------

SHOWN = vm(1, 1)


def test_on_a_host_that_is_cut_off_nobody_can_see_it() -> None:
    cut = dead(1, whole(), ha_state="connectedToMaster")
    found = verdict(fleet(cut, host(2, whole()), vms=(SHOWN,)), lost=CUT_OFF)
    assert said(found) == (Recovery.UNKNOWN, Reason.HOST_UNREACHABLE)
    assert "connectedToMaster" in found.evidence[0]


def test_on_an_isolated_host_it_runs_on_unless_ha_stopped_it() -> None:
    isolated = dead(1, whole(), ha_state="networkIsolated")
    now = fleet(isolated, host(2, whole()), vms=(SHOWN,))
    found = verdict(now, lost=CUT_OFF)
    assert said(found) == (Recovery.UNKNOWN, Reason.HOST_UNREACHABLE)
    assert "HA leaves it running" in found.text
    stopped = event(12, "VmPowerOffOnIsolationEvent", 5, on=1, vm=1)
    assert verdict(now, stopped, lost=CUT_OFF).recovery is Recovery.RESTARTING
    found = verdict(now, stopped, NO_ROOM, lost=CUT_OFF)
    assert said(found) == (Recovery.NOT_RESTARTED, Reason.ISOLATION)
    assert "event 12, VmPowerOffOnIsolationEvent" in found.evidence[0]


def test_on_a_host_that_is_down_it_is_off_whatever_vcenter_shows() -> None:
    found = verdict(fleet(dead(1, whole()), host(2, whole()), vms=(SHOWN,)))
    assert said(found) == (Recovery.RESTARTING, Reason.NONE)
    assert any("hostDown" in line for line in found.evidence)


@pytest.mark.parametrize("setting", [{"ha_enabled": False}, {"ha_host_monitoring": False}])
def test_without_ha_nobody_restarts_it(setting: dict[str, bool]) -> None:
    gone = dead(1, whole(), ha_state="")
    found = verdict(fleet(gone, host(2, whole()), vms=(SHOWN,), **setting), lost=CUT_OFF)
    assert said(found) == (Recovery.NOT_RESTARTED, Reason.HA_OFF)
    assert "cannot be seen" in found.text
    assert "dasConfig" in found.evidence[0]
    found = verdict(fleet(host(1, whole()), host(2, whole()), vms=(off(),), **setting), lost=CUT_OFF)
    assert said(found) == (Recovery.NOT_RESTARTED, Reason.HA_OFF)


def test_a_host_in_no_cluster_has_no_ha() -> None:
    gone = dead(1, whole(), ha_state="", cluster_moid="")
    now = GpuFleet(vcenter="vc", hosts=(gone,), vms=(SHOWN,))
    assert said(verdict(now, lost=CUT_OFF)) == (Recovery.NOT_RESTARTED, Reason.HA_OFF)
