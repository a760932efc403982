"""How hosts stand after a failure, who else is down, and the story that is told of it."""

import random
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.audit import AuditLimits
from contracts.durations import duration_words
from contracts.fleet import FleetHost, FleetVm, GpuFleet
from contracts.incidents import IncidentEvent
from contracts.verdicts import (
    HostStanding,
    Reason,
    Recovery,
    Victim,
)
from planning.incident import also_down, last_event_at, standings, timeline
from planning.presence import victims_of
from planning.verdicts import Sight, judge
from tests.support.incident import (
    A30,
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

LOSS = event(1, "HostConnectionLostEvent", 0, on=1)
FAILED = event(2, "DasHostFailedEvent", 3, on=1)
ISOLATED = event(3, "com.vmware.vc.HA.DasHostIsolatedEvent", 3, on=1)
BACK = event(9, "HostConnectedEvent", 90, on=1)
VICTIM = Victim(vm=vm(1, 1), host=ref(1), lost_at=LOST)


# -- standings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "events", "standing", "evidence"),
    [
        (dead(1), [LOSS], HostStanding.DOWN, "dasHostState is hostDown"),
        (dead(1, ha_state="connectedToMaster"), [LOSS, FAILED], HostStanding.DOWN, "event 2, DasHostFailedEvent"),
        (dead(1, ha_state="networkIsolated"), [LOSS], HostStanding.ISOLATED, "networkIsolated"),
        (dead(1, ha_state=""), [LOSS, ISOLATED], HostStanding.ISOLATED, "event 3"),
        (dead(1), [LOSS, ISOLATED], HostStanding.DOWN, "hostDown"),
        (dead(1, ha_state="connectedToMaster"), [LOSS], HostStanding.CUT_OFF, "no event of HA"),
        (dead(1, ha_state="connectedToMaster"), [FAILED, BACK, event(10, "HostConnectionLostEvent", 99, on=1)],
         HostStanding.CUT_OFF, "no event of HA"),
        (dead(1, ha_state=""), [LOSS], HostStanding.CUT_OFF, "not set"),
        (dead(1, ha_state="", power_state="poweredOff"), [LOSS], HostStanding.DOWN, "poweredOff"),
        (host(1, ha_state="networkIsolated"), [ISOLATED], HostStanding.ISOLATED, "networkIsolated"),
        (host(1), [LOSS, FAILED, BACK], HostStanding.BACK, "event 9, HostConnectedEvent"),
        (host(1), [LOSS], HostStanding.BACK, "runtime.connectionState is connected"),
        (host(2), [LOSS], HostStanding.REMOVED, "key-1"),
    ],
)  # fmt: skip
def test_a_host_stands_as_vcenter_and_ha_tell(
    now: FleetHost, events: list[IncidentEvent], standing: HostStanding, evidence: str
) -> None:
    (found,) = standings([down(1), down(1, 50)], events, fleet(now))
    assert found.standing is standing
    assert evidence in found.evidence
    assert found.lost_at == LOST
    assert found.back_at == (after(90) if standing is HostStanding.BACK and BACK in events else None)


def test_without_ha_silence_means_that_the_host_is_down() -> None:
    for now in (fleet(dead(1, ha_state=""), ha_enabled=False), fleet(dead(1, ha_state="", cluster_moid=""))):
        assert standings([down(1)], [LOSS], now)[0].standing is HostStanding.DOWN


def test_a_host_that_was_added_again_is_back() -> None:
    now = fleet(host(1, ref=ref(1).model_copy(update={"moid": "host-9"})))
    (found,) = standings([down(1)], [LOSS, event(9, "HostConnectedEvent", 90, on=9)], now)
    assert (found.standing, found.back_at, found.host.moid) == (HostStanding.BACK, after(90), "host-9")


# -- also down ---------------------------------------------------------------------------------------------------------


def test_hosts_of_the_cluster_that_nobody_told_of_are_found() -> None:
    now = fleet(
        dead(1),
        dead(2),
        host(3),
        dead(4, in_maintenance=True),
        dead(5, standby=True),
        dead(6),
        dead(7, cluster_moid="domain-c2"),
        dead(8),
        dead(9, connection_state="disconnected"),
        dead(10, connection_state="disconnected"),
    )
    events = [
        LOSS,
        event(20, "HostConnectionLostEvent", 7, on=2),
        event(21, "EnteredMaintenanceModeEvent", -30, on=6),
        event(22, "HostConnectionLostEvent", 7, on=6),
        event(23, "HostDisconnectedEvent", 8, on=10),
    ]
    assert also_down([down(1)], events, now, after(60)) == (down(2, 7), down(10, 8), down(8, 60))


def test_a_host_in_no_cluster_goes_down_alone() -> None:
    now = fleet(dead(1, cluster_moid=""), dead(2, cluster_moid=""))
    assert also_down([down(1)], [LOSS], now, after(60)) == ()


# -- quiet, and the story ----------------------------------------------------------------------------------------------


def test_the_newest_event_about_the_incident_counts() -> None:
    restarted = event(4, "VmRestartedOnAlternateHostEvent", 40, on=2, vm=1, source=1)
    others = [
        event(5, "VmReconfiguredEvent", 50, vm=1),
        event(6, "VmPoweredOnEvent", 60, on=2, vm=2),
        event(7, "UserLoginSessionEvent", 70),
        event(8, "HostConnectedEvent", 80, on=3),
    ]
    assert last_event_at([down(1)], [VICTIM], [*others, restarted, LOSS]) == after(40)
    assert last_event_at([down(1)], [VICTIM], [*others, restarted, BACK]) == after(90)
    assert last_event_at([down(1)], [VICTIM], others) is None


def test_the_story_is_told_in_order_and_in_words() -> None:
    before = fleet(host(1, whole()), host(2, whole()), vms=(vm(1, 1), vm(2, 1), vm(3, 2)))
    now = fleet(
        dead(1),
        host(2, whole()),
        vms=(vm(1, 2, dynamic(on=FIRST), boot_time=after(42)), vm(2, 1, dynamic(), powered_on=False)),
    )
    events = [
        event(12, "VmFailoverFailed", 60, on=1, vm=2, reason="no device"),
        event(11, "VmRestartedOnAlternateHostEvent", 43, on=2, vm=1, source=1),
        FAILED,
        LOSS,
        LOSS,
        event(13, "VmPoweredOnEvent", 61, on=2, vm=3),
        event(14, "HostConnectedEvent", -7200, on=1),
    ]
    victims = victims_of([down(1)], before, BOOTED, events, now)
    hosts = standings([down(1)], events, now)
    verdicts = judge(victims, Sight(now, events, {each.host.key: each for each in hosts}, after(90), AuditLimits()))
    lines = timeline([down(1)], victims, verdicts, events)
    assert [(line.at, line.key, line.what) for line in lines] == [
        (after(0), 1, "vCenter lost the connection to esx-1"),
        (after(3), 2, "HA says that esx-1 failed"),
        (after(42), -1, "train-1 is up again on esx-2 after 42 s"),
        (after(43), 11, "HA restarted train-1 on esx-2"),
        (after(60), 12, "HA could not restart train-2: no device"),
    ]
    assert [line.vm for line in lines[2:]] == ["train-1", "train-1", "train-2"]


@pytest.mark.parametrize(
    ("type_name", "what"),
    [
        ("VmSuspendedEvent", "train-1 was suspended"),
        ("VmGuestShutdownEvent", "train-1 was shut down in its guest"),
        ("VmOrphanedEvent", "train-1 is orphaned"),
        ("VmPowerOffOnIsolationEvent", "HA stopped train-1 on isolated esx-1"),
        ("VmRemovedEvent", "train-1 was removed from the inventory"),
    ],
)
def test_every_kind_of_event_has_its_words(type_name: str, what: str) -> None:
    assert [line.what for line in timeline([], [VICTIM], [], [event(5, type_name, 9, on=1, vm=1)])] == [what]


def test_a_host_that_was_found_down_by_looking_is_in_the_story() -> None:
    (line,) = timeline([down(1)], [], [], [])
    assert (line.at, line.key, line.what) == (LOST, -1, "esx-1 was seen down")


@pytest.mark.parametrize(("seconds", "words"), [(42, "42 s"), (185, "3 min 5 s"), (3725, "1 h 2 min"), (-3, "0 s")])
def test_durations_are_told_as_people_read_them(seconds: int, words: str) -> None:
    assert duration_words(timedelta(seconds=seconds)) == words


# -- whatever happened ---------------------------------------------------------------------------------------------

KINDS = (
    "VmPoweredOnEvent",
    "VmPoweredOffEvent",
    "VmMigratedEvent",
    "VmRemovedEvent",
    "VmReconfiguredEvent",
    "VmRestartedOnAlternateHostEvent",
    "com.vmware.vc.ha.VmRestartedByHAEvent",
    "VmFailoverFailed",
    "NotEnoughResourcesToStartVmEvent",
    "VmPowerOffOnIsolationEvent",
    "HostConnectionLostEvent",
    "HostConnectedEvent",
    "DasHostFailedEvent",
    "com.vmware.vc.ha.dashostisolatedevent",
)
numbers = st.integers(1, 4)


@st.composite
def events_told(draw: st.DrawFn) -> list[IncidentEvent]:
    found = []
    for key in range(draw(st.integers(0, 15))):
        kind, of = draw(st.sampled_from(KINDS)), draw(numbers)
        by_vm = kind.startswith(("Vm", "Not")) or "Vm" in kind
        source = draw(st.integers(1, 3)) if kind == "VmRestartedOnAlternateHostEvent" else 0
        found.append(
            event(key, kind, draw(st.integers(-600, 2400)), on=draw(numbers), vm=of if by_vm else 0, source=source)
        )
    return found


@st.composite
def hosts_now(draw: st.DrawFn) -> tuple[FleetHost, ...]:
    cards = st.sampled_from([(whole(),), (whole(), whole(SECOND, A30)), (shared(by=("vm-3",)),), ()])
    found = []
    for number in range(1, 5):
        make = dead if draw(st.booleans()) else host
        state = draw(st.sampled_from(["hostDown", "networkIsolated", "connectedToMaster", ""]))
        found.append(make(number, *draw(cards), ha_state=state, in_maintenance=draw(st.integers(0, 9)) == 0))
    return tuple(hosts for hosts in found if draw(st.integers(0, 9)))


@st.composite
def vms_now(draw: st.DrawFn) -> tuple[FleetVm, ...]:
    found = []
    for number in range(1, 6):
        if draw(st.integers(0, 9)) == 0:
            continue
        on = draw(st.booleans())
        bound = draw(st.sampled_from([FIRST, SECOND, ""])) if on else ""
        gpu = draw(st.sampled_from([dynamic(on=bound), dynamic(A30, "Training", bound), static(on=on), vgpu()]))
        more = {
            "powered_on": on,
            "boot_time": draw(st.sampled_from([BOOTED, after(40), after(1500), None])) if on else None,
            "tools_running": draw(st.booleans()),
            "connection_state": draw(st.sampled_from(["connected"] * 5 + ["orphaned", "inaccessible"])),
            "question": draw(st.sampled_from(["", "", "", "copied?"])),
            "memory_reserved": draw(st.integers(0, 5)) > 0,
            "ha_protected": draw(st.sampled_from([True, True, False, None])),
            "mmio_gib": draw(st.sampled_from([512, 0, None])),
            "barred": draw(st.sampled_from([(), ("host-2",)])),
        }
        found.append(vm(number, draw(numbers), gpu, **more))
    return tuple(found)


BEFORE = fleet(
    host(1, whole(), whole(SECOND)),
    host(2, shared(by=("vm-3",))),
    host(3, whole()),
    vms=(vm(1, 1), vm(2, 1, static(SECOND)), vm(3, 2, vgpu(FIRST)), vm(4, 3), vm(5, 1, powered_on=False)),
)
NOT_BACK = (Recovery.NOT_RESTARTED, Recovery.UNKNOWN)


@settings(max_examples=300, deadline=None)
@given(
    events_told(),
    hosts_now(),
    vms_now(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 3600),
    st.randoms(use_true_random=False),
)
def test_every_victim_has_one_verdict_that_is_proven_and_does_not_depend_on_how_events_were_told(
    events: list[IncidentEvent],
    hosts: tuple[FleetHost, ...],
    vms: tuple[FleetVm, ...],
    snapshot: bool,
    ha: bool,
    seconds: int,
    chance: random.Random,
) -> None:
    now = fleet(*hosts, vms=vms, ha_enabled=ha)
    downs = [down(1), down(2, 30)]

    def story(told: list[IncidentEvent]) -> tuple[object, ...]:
        victims = victims_of(downs, BEFORE if snapshot else None, LOST - timedelta(minutes=5), told, now)
        standing = {each.host.key: each for each in standings(downs, told, now)}
        verdicts = judge(victims, Sight(now, told, standing, after(seconds), AuditLimits()))
        lines = timeline(downs, victims, verdicts, told)
        return victims, verdicts, lines, also_down(downs, told, now, after(60)), last_event_at(downs, victims, told)

    doubled = [*events, *chance.sample(events, len(events) // 2)]
    chance.shuffle(doubled)
    found = story(events)
    assert story(doubled) == found
    victims, verdicts, lines = found[0], found[1], found[2]
    assert isinstance(victims, tuple)
    assert isinstance(verdicts, tuple)
    assert isinstance(lines, tuple)
    assert sorted(each.instance_uuid for each in verdicts) == sorted(each.vm.instance_uuid for each in victims)
    assert [each.key for each in lines if each.key >= 0] == list(
        dict.fromkeys(each.key for each in lines if each.key >= 0)
    )
    by_uuid = {each.instance_uuid: each for each in vms}
    for each in verdicts:
        assert each.text
        assert each.evidence
        assert all(each.evidence)
        assert (each.reason is not Reason.NONE) == (each.recovery in NOT_BACK)
        if each.recovery is Recovery.RESTARTING:
            assert seconds <= AuditLimits().settle_s
        if each.recovery in (Recovery.RECOVERED, Recovery.OTHER_GPU):
            assert _holds_a_gpu(by_uuid[each.instance_uuid], now)
            assert each.recovered_at is None or each.recovered_at >= each.lost_at
        else:
            assert each.recovered_at is None


def _holds_a_gpu(found: FleetVm, now: GpuFleet) -> bool:
    """It runs, and its host has a card at its device's address, or one that names it."""
    (there,) = [each for each in now.hosts if each.ref.moid == found.host_moid]
    (gpu,) = found.gpus
    if gpu.kind == "vgpu":
        proven = any(PROFILE in card.profiles and found.moid in card.vm_moids for card in there.gpus)
    else:
        proven = any(card.sbdf == (gpu.assigned or gpu.sbdf) for card in there.gpus)
    return found.powered_on and there.connection_state == "connected" and proven
