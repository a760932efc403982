"""Why a GPU VM that is off was not restarted: every reason by an example, in the order in which they count."""

import pytest

from contracts.fleet import FleetHost, FleetRecommendation, VmGpu
from contracts.verdicts import Reason, Recovery, Victim
from planning.presence import victims_of
from planning.verdicts import judge
from tests.planning.test_verdicts import CUT_OFF, FAILED, NO_ROOM, RESTARTED, off, said, sight, verdict
from tests.support.incident import (
    A30,
    BOOTED,
    FIRST,
    LOST,
    after,
    dead,
    down,
    dynamic,
    event,
    fleet,
    host,
    ref,
    shared,
    static,
    vgpu,
    vm,
    whole,
)


def test_a_vm_that_somebody_stopped_after_it_was_back_is_retired() -> None:
    now = fleet(dead(1), host(2, whole()), vms=(off(on=2),))
    stopped = event(20, "VmGuestShutdownEvent", 90, on=2, vm=1)
    found = verdict(now, RESTARTED, stopped)
    assert said(found) == (Recovery.RETIRED, Reason.NONE)
    assert "event 20" in found.evidence[0]
    assert verdict(now, stopped).recovery is Recovery.RESTARTING


def test_a_vm_that_was_stopped_before_the_loss_is_retired() -> None:
    victim = Victim(vm=vm(1, 1), host=ref(1), lost_at=LOST)
    stopped = event(20, "VmPoweredOffEvent", -30, on=1, vm=1)
    now = fleet(dead(1), host(2, whole()), vms=(off(),))
    (found,) = judge([victim], sight(now, (*FAILED, stopped)))
    assert said(found) == (Recovery.RETIRED, Reason.NONE)


def test_a_suspended_vm_was_suspended_by_somebody() -> None:
    now = fleet(dead(1), host(2, whole()), vms=(off(power_state="suspended"),))
    assert said(verdict(now)) == (Recovery.RETIRED, Reason.NONE)


def test_a_vm_that_was_stopped_after_its_host_was_only_cut_off_is_retired() -> None:
    now = fleet(host(1, whole()), vms=(off(),))
    back, stopped = event(30, "HostConnectedEvent", 200, on=1), event(31, "VmPoweredOffEvent", 260, on=1, vm=1)
    assert verdict(now, back, stopped, lost=CUT_OFF).recovery is Recovery.RETIRED
    # A host that failed tells of its VMs' power-off when it is back.
    assert verdict(now, back, stopped).recovery is Recovery.RESTARTING


def test_a_vm_whose_second_host_was_lost_too_was_stopped_by_nobody() -> None:
    now = fleet(dead(1), host(2), host(3, whole()), vms=(off(on=2),))
    events = (
        RESTARTED,
        event(20, "DasHostFailedEvent", 60, on=2),
        event(21, "HostConnectedEvent", 90, on=2),
        event(22, "VmPoweredOffEvent", 91, on=2, vm=1),
    )
    assert verdict(now, *events).recovery is Recovery.RESTARTING


def test_a_static_device_binds_the_vm_to_its_host() -> None:
    before = fleet(host(1, whole()), vms=(vm(1, 1, static()),))
    found = verdict(fleet(dead(1, whole()), host(2, whole()), vms=(vm(1, 1, static()),)), before=before)
    assert said(found) == (Recovery.NOT_RESTARTED, Reason.STATIC_PINNED)
    assert FIRST in found.evidence[0]
    found = verdict(fleet(host(1, whole()), vms=(off(static(on=False)),)), before=before)
    assert said(found) == (Recovery.NOT_RESTARTED, Reason.STATIC_PINNED)
    assert found.text.endswith("esx-1 is back")


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ({"restart_priority": "disabled"}, {}),
        ({}, {"restart_priority": "disabled"}),
        ({"ha_protected": False}, {"ha_protected": False}),
        ({"ha_protected": None}, {"ha_protected": False}),
    ],
)
def test_a_vm_that_ha_does_not_protect_stays_off(was: dict[str, object], now: dict[str, object]) -> None:
    before = fleet(host(1, whole()), vms=(vm(1, 1, **was),))
    there = fleet(dead(1), host(2, whole()), vms=(vm(1, 1, dynamic(), **{"powered_on": False, **now}),))
    found = verdict(there, before=before)
    assert said(found) == (Recovery.NOT_RESTARTED, Reason.UNPROTECTED)
    assert "restartPriority" in found.evidence[0] or "dasProtected" in found.evidence[0]
    # Where HA tried, it did protect it.
    assert verdict(there, NO_ROOM, before=before).reason is Reason.NOT_KNOWN


def test_what_drs_recommends_waits_for_somebody() -> None:
    waiting = FleetRecommendation(key="7", vm_moid="vm-1", host_moid="host-2", reason="power on")
    found = verdict(fleet(dead(1), host(2, whole()), vms=(off(),), recommendations=(waiting,)))
    assert said(found) == (Recovery.NOT_RESTARTED, Reason.RECOMMENDATION)
    assert "on esx-2" in found.text
    assert "recommendation 7 of gpu-01" in found.evidence[0]


def test_memory_that_is_not_reserved_keeps_it_off() -> None:
    found = verdict(fleet(dead(1), host(2, whole()), vms=(off(memory_reserved=False),)), NO_ROOM)
    assert said(found) == (Recovery.NOT_RESTARTED, Reason.RESERVATION)
    assert any("event 11" in line for line in found.evidence)


def test_too_little_mmio_keeps_it_off_where_the_power_on_says_so() -> None:
    now = fleet(dead(1), host(2, whole()), vms=(off(mmio_gib=0),))
    refused = NO_ROOM.model_copy(update={"message": "Module 'DevicePowerOn' power on failed."})
    found = verdict(now, refused)
    assert said(found) == (Recovery.NOT_RESTARTED, Reason.MMIO)
    assert "DevicePowerOn" in found.evidence[0]
    assert verdict(now, NO_ROOM).reason is Reason.NOT_KNOWN
    enough = fleet(dead(1), host(2, whole()), vms=(off(mmio_gib=512),))
    assert verdict(enough, refused).reason is Reason.NOT_KNOWN


OCCUPIED = vm(9, 2)


@pytest.mark.parametrize(
    ("there", "wants", "words"),
    [
        (host(2, whole().model_copy(update={"vm_moids": ("vm-9",)})), dynamic(), f"in use: {FIRST} by train-9"),
        (host(2, whole(label="Other")), dynamic(label="Training"), "none of them has the label 'Training'"),
        (host(2, whole(pair=A30)), dynamic(), "it has no"),
        (dead(2, whole()), dynamic(), "no host is left"),
        (host(2, whole(), in_maintenance=True), dynamic(), "no host is left"),
        (host(2, whole(), ha_state="networkIsolated"), dynamic(), "no host is left"),
    ],
)
def test_without_a_gpu_that_fits_it_stays_off_at_once(there: FleetHost, wants: VmGpu, words: str) -> None:
    found = verdict(fleet(dead(1), there, vms=(off(wants), OCCUPIED)), seconds=1)
    assert said(found) == (Recovery.NOT_RESTARTED, Reason.NO_FREE_GPU)
    assert words in found.evidence[0]


def test_without_room_for_its_profile_it_stays_off() -> None:
    before = fleet(host(1, shared(by=("vm-1",))), vms=(vm(1, 1, vgpu()),))
    others = (vm(8, 2, vgpu(FIRST)), vm(9, 2, vgpu(FIRST)))
    found = verdict(fleet(dead(1), host(2, shared(by=("vm-8", "vm-9"))), vms=(off(vgpu()), *others)), before=before)
    assert said(found) == (Recovery.NOT_RESTARTED, Reason.NO_PROFILE_ROOM)
    assert "no card has enough framebuffer left" in found.evidence[0]


def test_rules_that_bar_every_host_with_a_gpu_are_the_reason() -> None:
    found = verdict(fleet(dead(1), host(2, whole()), host(3), vms=(off(barred=("host-2",)),)))
    assert said(found) == (Recovery.NOT_RESTARTED, Reason.RULE)
    assert "esx-2" in found.evidence[0]


def test_a_gpu_without_memory_beside_it_is_no_room() -> None:
    full = host(2, whole(), reserved_mib=65000)
    found = verdict(fleet(dead(1), full, host(3), vms=(off(),)))
    assert said(found) == (Recovery.NOT_RESTARTED, Reason.ADMISSION)
    assert "536 MiB of memory" in found.evidence[0]


def test_with_room_ha_can_still_restart_it_until_the_deadline() -> None:
    now = fleet(dead(1), host(2, whole()), vms=(off(),))
    assert verdict(now, seconds=1799).recovery is Recovery.RESTARTING
    late = verdict(now, seconds=1800)
    assert said(late) == (Recovery.NOT_RESTARTED, Reason.NOT_KNOWN)
    assert "room for it now on esx-2" in late.text
    assert late.text.startswith("nothing tells why")
    tried = verdict(now, NO_ROOM, event(12, "NotEnoughResourcesToStartVmEvent", 39, vm=1))
    assert said(tried) == (Recovery.NOT_RESTARTED, Reason.NOT_KNOWN)
    assert tried.text == "HA could not restart it in 1 attempt; there is room for it now on esx-2"


def test_a_host_that_came_back_has_room_again() -> None:
    now = fleet(host(1, whole()), host(2), vms=(off(),))
    found = verdict(now, event(30, "HostConnectedEvent", 90, on=1))
    assert found.recovery is Recovery.RESTARTING
    assert "esx-1" in found.text


def test_the_worst_comes_first_and_among_equals_the_highest_priority() -> None:
    names = {1: "medium", 2: "high", 3: "medium", 4: "lowest"}
    before = fleet(host(1, whole()), vms=tuple(vm(number, 1, restart_priority=rank) for number, rank in names.items()))
    now = fleet(
        dead(1),
        host(2, whole()),
        vms=(
            vm(1, 1, dynamic(A30), powered_on=False),
            vm(2, 1, dynamic(A30), powered_on=False, restart_priority="high"),
            vm(3, 2, dynamic(on=FIRST), boot_time=after(40)),
        ),
    )
    victims = victims_of([down(1)], before, BOOTED, FAILED, now)
    assert [found.name for found in judge(victims, sight(now, FAILED))] == ["train-2", "train-1", "train-4", "train-3"]
