"""Which hosts were lost and not taken down, and who ran there: from a snapshot, from events, and from neither."""

import random
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.fleet import GpuFleet
from contracts.incidents import HostDown, IncidentEvent
from planning.presence import lost_hosts, victims_of
from tests.support.incident import (
    A30,
    A40,
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
    ref,
    shared,
    static,
    vgpu,
    vm,
    whole,
)

NOW = fleet(dead(1, whole()), host(2, whole()))
TAKEN = LOST - timedelta(minutes=10)


def who(
    *events: IncidentEvent, before: GpuFleet | None = None, now: GpuFleet = NOW, downs: tuple[HostDown, ...] = ()
) -> list[str]:
    found = victims_of(downs or (down(1),), before, TAKEN if before else None, events, now)
    return [f"{victim.vm.name} {victim.host.name} {victim.known_by}" for victim in found]


# -- lost, or taken down -------------------------------------------------------------------------------------------


def test_the_time_of_a_loss_is_that_of_its_first_event() -> None:
    events = [
        event(2, "com.vmware.vc.ha.dashostfailedevent", 12, on=1),
        event(1, "HostConnectionLostEvent", 3, on=1),
        event(3, "DasHostFailedEvent", 1, on=2),
    ]
    assert lost_hosts([down(1, 12)], events, NOW) == ((down(1, 3),), ())


def test_a_host_that_flaps_is_lost_once_and_since_the_first_time() -> None:
    events = [
        event(1, "HostConnectionLostEvent", 0, on=1),
        event(2, "HostConnectedEvent", 30, on=1),
        event(3, "HostConnectionLostEvent", 60, on=1),
    ]
    assert lost_hosts([down(1, 60), down(1, 0)], events, NOW) == ((down(1, 0),), ())
    assert lost_hosts([down(1, 60)], events, NOW) == ((down(1, 60),), ())


@pytest.mark.parametrize(
    ("type_name", "word"),
    [
        ("EnteringMaintenanceModeEvent", "maintenance mode"),
        ("EnteredMaintenanceModeEvent", "maintenance mode"),
        ("EnteringStandbyModeEvent", "standby"),
        ("DrsEnteredStandbyModeEvent", "standby"),
    ],
)
def test_a_host_in_maintenance_or_standby_was_taken_down(type_name: str, word: str) -> None:
    events = [event(1, type_name, -60, on=1), event(2, "HostConnectionLostEvent", 0, on=1)]
    lost, planned = lost_hosts([down(1)], events, NOW)
    assert not lost
    assert planned[0].startswith("esx-1 was taken down on purpose")
    assert word in planned[0]
    assert f"event 1, {type_name}" in planned[0]


@pytest.mark.parametrize("ends", ["ExitMaintenanceModeEvent", "CanceledHostOperationEvent"])
def test_a_host_that_had_left_maintenance_was_lost(ends: str) -> None:
    events = [
        event(1, "EnteringMaintenanceModeEvent", -60, on=1),
        event(2, ends, -30, on=1),
        event(3, "HostConnectionLostEvent", 0, on=1),
    ]
    now = fleet(dead(1, whole(), in_maintenance=True))
    assert lost_hosts([down(1)], events, now) == ((down(1),), ())


def test_a_host_that_ha_saw_fail_on_its_way_into_maintenance_was_lost() -> None:
    entering = event(1, "EnteringMaintenanceModeEvent", -60, on=1)
    failed = event(2, "DasHostFailedEvent", 0, on=1)
    assert lost_hosts([down(1)], [entering, failed], NOW) == ((down(1),), ())
    entered = event(3, "EnteredMaintenanceModeEvent", -30, on=1)
    assert lost_hosts([down(1)], [entering, entered, failed], NOW)[0] == ()


@pytest.mark.parametrize("state", [{"in_maintenance": True}, {"standby": True}])
def test_where_no_event_says_so_the_inventory_does(state: dict[str, bool]) -> None:
    now = fleet(dead(1, whole(), **state))
    lost, planned = lost_hosts([down(1)], [event(2, "HostConnectionLostEvent", 0, on=1)], now)
    assert not lost
    assert "runtime." in planned[0]


def test_maintenance_that_began_after_the_loss_explains_nothing() -> None:
    now = fleet(host(1, whole(), in_maintenance=True))
    later = [event(1, "HostConnectionLostEvent", 0, on=1), event(2, "EnteredMaintenanceModeEvent", 90, on=1)]
    assert lost_hosts([down(1)], later, now) == ((down(1),), ())
    by_ha = [event(1, "DasHostFailedEvent", 0, on=1)]
    assert lost_hosts([down(1)], by_ha, now) == ((down(1),), ())


def test_maintenance_that_ends_after_the_outage_had_begun_before_it() -> None:
    events = [event(1, "HostConnectionLostEvent", 0, on=1), event(2, "ExitMaintenanceModeEvent", 90, on=1)]
    lost, planned = lost_hosts([down(1)], events, NOW)
    assert not lost
    assert "left after it" in planned[0]


def test_entering_maintenance_that_was_cancelled_after_the_loss_explains_nothing() -> None:
    events = [event(1, "HostConnectionLostEvent", 0, on=1), event(2, "CanceledHostOperationEvent", 90, on=1)]
    assert lost_hosts([down(1)], events, NOW) == ((down(1),), ())


def test_a_failure_after_planned_work_counts_from_then_on() -> None:
    events = [
        event(1, "EnteredMaintenanceModeEvent", -60, on=1),
        event(2, "HostConnectionLostEvent", 0, on=1),
        event(3, "HostConnectedEvent", 200, on=1),
        event(4, "ExitMaintenanceModeEvent", 210, on=1),
        event(5, "HostConnectionLostEvent", 300, on=1),
    ]
    assert lost_hosts([down(1)], events, NOW) == ((down(1, 300),), ())


def test_a_host_that_was_added_again_is_known_by_its_key() -> None:
    now = fleet(dead(1, whole(), ref=ref(1).model_copy(update={"moid": "host-9"})))
    events = [event(1, "EnteredMaintenanceModeEvent", -60, on=9), event(2, "HostConnectionLostEvent", 0, on=9)]
    assert lost_hosts([down(1)], events, now)[0] == ()


# -- who was there -------------------------------------------------------------------------------------------------


def test_those_who_ran_there_by_the_snapshot_are_victims_and_nobody_else() -> None:
    before = fleet(
        host(1, whole()),
        host(2, whole()),
        vms=(vm(1, 1), vm(2, 1, powered_on=False), vm(3, 2), vm(4, 1, template=True)),
    )
    assert who(before=before) == ["train-1 esx-1 snapshot"]


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        ([("VmPoweredOffEvent", 1)], []),
        ([("VmGuestShutdownEvent", 1)], []),
        ([("VmSuspendedEvent", 1)], []),
        ([("VmRemovedEvent", 1)], []),
        ([("VmMigratedEvent", 2)], []),
        ([("VmPoweredOffEvent", 1), ("DrsVmPoweredOnEvent", 1)], ["train-1 esx-1 snapshot"]),
        ([("VmMigratedEvent", 2), ("DrsVmMigratedEvent", 1)], ["train-1 esx-1 snapshot"]),
        ([("VmRestartedOnAlternateHostEvent", 2)], []),
    ],
)
def test_events_since_the_snapshot_move_and_stop_vms(story: list[tuple[str, int]], expected: list[str]) -> None:
    before = fleet(host(1, whole()), host(2, whole()), vms=(vm(1, 1),))
    events = [event(key, kind, -300 + key, on=on, vm=1) for key, (kind, on) in enumerate(story)]
    assert who(*events, before=before) == expected
    # What happened before the snapshot, or after the loss, changes nothing.
    for offset in (-900, 300):
        moved = [each.model_copy(update={"created": after(offset + each.key.key)}) for each in events]
        assert who(*moved, before=before) == ["train-1 esx-1 snapshot"]


def test_vms_that_the_snapshot_does_not_know_are_taken_from_the_inventory() -> None:
    now = fleet(dead(1, whole()), host(2, whole()), vms=(vm(5, 2, dynamic(on=SECOND), boot_time=after(30)),))
    made = [event(1, "VmCreatedEvent", -200, on=1, vm=5), event(2, "VmPoweredOnEvent", -100, on=1, vm=5)]
    assert who(*made, before=fleet(host(1, whole())), now=now) == ["train-5 esx-1 events"]
    (victim,) = victims_of([down(1)], fleet(host(1, whole())), TAKEN, made, now)
    assert victim.vm.host_moid == "host-1"
    assert victim.vm.boot_time is None
    # The address that it has now is another host's; that it was an A100 follows from what it asks for.
    assert [(gpu.sbdf, gpu.vendor_device) for gpu in victim.held] == [("", A100)]
    assert who(made[0], before=fleet(host(1, whole())), now=now) == []


def test_a_vm_that_ha_restarted_from_a_lost_host_was_there_whatever_the_snapshot_says() -> None:
    before = fleet(host(1, whole()), host(2, whole()), vms=(vm(1, 2),))
    now = fleet(dead(1, whole()), host(2, whole()), vms=(vm(1, 2), vm(2, 2)))
    restarted = event(1, "VmRestartedOnAlternateHostEvent", 40, on=2, vm=1, source=1)
    assert who(restarted, before=before, now=now) == ["train-1 esx-1 events"]
    unknown = event(2, "com.vmware.vc.HA.VmRestartedByHAEvent", 40, on=2, vm=2)
    assert who(unknown, before=before, now=now) == ["train-2 esx-1 events"]
    placed = event(3, "com.vmware.vc.ha.VmRestartedByHAEvent", 40, on=2, vm=1)
    assert who(placed, before=before, now=now) == []
    off = event(4, "VmPowerOffOnIsolationEvent", 5, on=1, vm=2)
    assert who(off, before=before, now=now) == ["train-2 esx-1 events"]


@pytest.mark.parametrize("type_name", ["VmRestartedOnAlternateHostEvent", "com.vmware.vc.ha.VmRestartedByHAEvent"])
def test_a_restart_that_is_told_before_the_loss_does_not_hide_the_victim(type_name: str) -> None:
    before = fleet(host(1, whole()), host(2, whole()), vms=(vm(1, 1),))
    source = 1 if type_name.startswith("Vm") else 0
    restarted = event(1, type_name, -20, on=2, vm=1, source=source)
    lost = event(2, "HostConnectionLostEvent", 0, on=1)
    assert who(restarted, lost, before=before) == ["train-1 esx-1 snapshot"]


def test_without_a_snapshot_the_inventory_and_has_events_tell() -> None:
    now = fleet(
        dead(1, whole()),
        host(2, whole()),
        vms=(
            vm(1, 1),
            vm(2, 1, powered_on=False, ha_protected=False),
            vm(3, 1, powered_on=False),
            vm(4, 2),
            vm(5, 2),
            vm(6, 1, powered_on=False, ha_protected=None),
            vm(7, 2),
        ),
    )
    events = [
        event(1, "VmRestartedOnAlternateHostEvent", 30, on=2, vm=4, source=1),
        event(2, "com.vmware.vc.ha.VmRestartedByHAEvent", 31, on=2, vm=5),
        event(3, "VmFailoverFailed", 33, on=1, vm=6),
        event(4, "VmPoweredOnEvent", 34, on=2, vm=7),
    ]
    assert who(*events, now=now) == [f"train-{number} esx-1 inventory" for number in (1, 3, 4, 5, 6)]


def test_every_vm_is_a_victim_once_and_of_its_first_host() -> None:
    before = fleet(host(1, whole()), host(2, whole()), vms=(vm(1, 1), vm(2, 2)))
    restarted = event(1, "VmRestartedOnAlternateHostEvent", 40, on=2, vm=1, source=1)
    both = (down(2, 120), down(1))
    assert who(restarted, before=before, downs=both) == ["train-1 esx-1 snapshot", "train-2 esx-2 snapshot"]


def test_a_vm_that_was_reconfigured_has_the_devices_of_now() -> None:
    before = fleet(host(1, whole(label="Training")), vms=(vm(1, 1, static()),))
    now = fleet(
        dead(1, whole(label="Training")), host(2, whole()), vms=(vm(1, 2, dynamic(label="Training", on=SECOND)),)
    )
    changed = event(1, "VmReconfiguredEvent", -200, vm=1, on=1)
    (victim,) = victims_of([down(1)], before, TAKEN, [changed], now)
    assert [(gpu.kind, gpu.assigned) for gpu in victim.vm.gpus] == [("dynamic", "")]
    (victim,) = victims_of([down(1)], before, TAKEN, [], now)
    assert [(gpu.kind, gpu.assigned) for gpu in victim.vm.gpus] == [("static", FIRST)]


def test_what_a_vm_held_is_told_by_the_hosts_cards() -> None:
    before = fleet(
        host(1, whole(FIRST, A100, "Training"), whole(SECOND, A30)),
        host(2, shared(by=("vm-2",))),
        vms=(vm(1, 1, dynamic(label="Training", on=FIRST)), vm(2, 2, vgpu()), vm(3, 1, static(SECOND))),
    )
    held = {
        victim.vm.name: [(gpu.sbdf, gpu.vendor_device, gpu.label, gpu.profile) for gpu in victim.held]
        for victim in victims_of([down(1), down(2)], before, TAKEN, [], NOW)
    }
    assert held == {
        "train-1": [(FIRST, A100, "Training", "")],
        "train-2": [(FIRST, A40, "", PROFILE)],
        "train-3": [(SECOND, A30, "", "")],
    }


def test_protection_is_that_of_the_running_vm() -> None:
    before = fleet(host(1, whole()), vms=(vm(1, 1, powered_on=False, ha_protected=False),))
    on = event(1, "VmPoweredOnEvent", -60, on=1, vm=1)
    for protected, expected in ((True, True), (False, None)):
        now = fleet(dead(1, whole()), vms=(vm(1, 1, ha_protected=protected),))
        (victim,) = victims_of([down(1)], before, TAKEN, [on], now)
        assert victim.vm.ha_protected is expected
        assert victim.vm.boot_time == BOOTED


KINDS = [
    "VmPoweredOnEvent",
    "VmPoweredOffEvent",
    "VmMigratedEvent",
    "VmRemovedEvent",
    "VmCreatedEvent",
    "VmReconfiguredEvent",
    "VmRestartedOnAlternateHostEvent",
    "com.vmware.vc.ha.VmRestartedByHAEvent",
    "VmPowerOffOnIsolationEvent",
    "HostConnectionLostEvent",
    "HostConnectedEvent",
    "DasHostFailedEvent",
    "EnteredMaintenanceModeEvent",
    "ExitMaintenanceModeEvent",
]
stories = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(-700, 300), st.integers(1, 3), st.integers(1, 4), st.integers(0, 3)),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(stories, st.booleans(), st.randoms(use_true_random=False))
def test_order_and_repetition_of_events_change_nothing(
    story: list[tuple[str, int, int, int, int]], snapshot: bool, chance: random.Random
) -> None:
    events = [
        event(
            key,
            kind,
            at,
            on=on,
            vm=0 if "Host" in kind.split("Alternate")[0] and "Vm" not in kind else of,
            source=source,
        )
        for key, (kind, at, on, of, source) in enumerate(story)
    ]
    before = fleet(host(1, whole()), host(2, whole()), host(3, whole()), vms=(vm(1, 1), vm(2, 2), vm(3, 1)))
    now = fleet(dead(1, whole()), dead(2, whole()), host(3, whole()), vms=(vm(1, 3), vm(2, 2), vm(4, 3)))
    told = [*events, *chance.sample(events, len(events) // 2)]
    chance.shuffle(told)
    downs = [down(1), down(2, 60)]
    assert lost_hosts(downs, told, now) == lost_hosts(list(reversed(downs)), events, now)
    past, taken = (before, TAKEN) if snapshot else (None, None)
    found = victims_of(downs, past, taken, told, now)
    assert found == victims_of(downs, past, taken, events, now)
    assert len({victim.vm.instance_uuid for victim in found}) == len(found)
    assert all(victim.host.moid in ("host-1", "host-2") and victim.vm.powered_on for victim in found)
