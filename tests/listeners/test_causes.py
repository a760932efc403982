"""Why a host's event begins no incident: for every order of events about maintenance mode and standby."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.gate import HolderGone, Lease, LeaseRequest
from contracts.host import HostRef
from contracts.rules import Rule
from listeners.causes import NOTHING_TOLD, Cause, Told, cause_of, concerns, lease_of, needs_look, told
from vsphere.events import RawEvent
from vsphere.host_modes import HostModes

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
AUDIT = Rule.model_validate({"name": "audit", "on": ["HostConnectionLostEvent"], "start": "HaRecoveryAudit"})
LOST = "HostConnectionLostEvent"


def event(key: int, type_name: str = LOST, host: str = "host-1", vm: str = "") -> RawEvent:
    return RawEvent(key=key, created=NOON + timedelta(seconds=key), type_name=type_name, host_moid=host, vm_moid=vm)


def causes(*types: str, of: str = LOST) -> list[Cause | None]:
    """Why each event of this type happened, as far as the events tell."""
    events = [event(key, name) for key, name in enumerate(types)]
    at, _ = told(events)
    return [cause_of(each, at[each.key], None, None, leased=False) for each in events if each.type_name == of]


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (["EnteredMaintenanceModeEvent", LOST, "HostConnectedEvent", "ExitMaintenanceModeEvent", LOST],
         [Cause.MAINTENANCE, None]),
        (["enteredmaintenancemodeevent", LOST], [Cause.MAINTENANCE]),
        # VMs still run on a host that only enters maintenance mode.
        (["EnteringMaintenanceModeEvent", LOST, "EnteredMaintenanceModeEvent", LOST], [None, Cause.MAINTENANCE]),
        (["EnteringMaintenanceModeEvent", "CanceledHostOperationEvent", LOST], [None]),
        # What comes next tells what was.
        ([LOST, "ExitMaintenanceModeEvent"], [Cause.MAINTENANCE]),
        ([LOST, "EnteredMaintenanceModeEvent"], [None]),
        ([LOST, "EnteringStandbyModeEvent", LOST, "EnteredStandbyModeEvent", LOST],
         [None, Cause.STANDBY, Cause.STANDBY]),
        (["DrsEnteringStandbyModeEvent", LOST, "DrsEnteredStandbyModeEvent", "DrsExitedStandbyModeEvent", LOST],
         [Cause.STANDBY, None]),
        ([LOST, "DrsEnteredStandbyModeEvent"], [Cause.STANDBY]),
        ([LOST, "ExitedStandbyModeEvent"], [Cause.STANDBY]),
        (["EnteringStandbyModeEvent", "CanceledHostOperationEvent", LOST], [None]),
        ([LOST], [None]),
    ],
)  # fmt: skip
def test_events_tell_what_is_done_on_purpose(types: list[str], expected: list[Cause | None]) -> None:
    assert causes(*types) == expected


def test_one_host_in_maintenance_mode_says_nothing_of_another() -> None:
    at, _ = told([event(1, "EnteredMaintenanceModeEvent", "host-2"), event(2)])
    assert cause_of(event(2), at[2], None, None, leased=False) is None


TURNS = [
    "EnteringMaintenanceModeEvent",
    "EnteredMaintenanceModeEvent",
    "ExitMaintenanceModeEvent",
    "EnteringStandbyModeEvent",
    "EnteredStandbyModeEvent",
    "ExitedStandbyModeEvent",
    "CanceledHostOperationEvent",
    LOST,
]


@given(st.lists(st.builds(lambda name, host: (name, host), st.sampled_from(TURNS), st.sampled_from("ab"))), st.data())
def test_pages_cut_anywhere_tell_no_more_than_the_whole_and_end_alike(
    told_of: list[tuple[str, str]], data: st.DataObject
) -> None:
    events = [event(key, name, host) for key, (name, host) in enumerate(told_of)]
    cut = data.draw(st.integers(0, len(events)))
    whole, end = told(events)
    first, between = told(events[:cut])
    second, end_of_both = told(events[cut:], between)
    assert end_of_both == end
    assert {key: second[key] for key in second} == {key: whole[key] for key in whole if key >= cut}
    for key, known in first.items():
        for mode in ("maintenance", "standby"):
            assert getattr(known, mode) in (None, getattr(whole[key], mode))


NOW = NOON + timedelta(seconds=30)
FREE, IN_MAINTENANCE, IN_STANDBY = HostModes(False, False), HostModes(True, False), HostModes(False, True)


@pytest.mark.parametrize(
    ("known", "modes", "now", "leased", "expected"),
    [
        (NOTHING_TOLD, IN_MAINTENANCE, NOW, False, Cause.MAINTENANCE),
        (NOTHING_TOLD, IN_STANDBY, NOW, False, Cause.STANDBY),
        (NOTHING_TOLD, FREE, NOW, False, None),
        (NOTHING_TOLD, FREE, NOW, True, Cause.LEASE),
        (NOTHING_TOLD, None, None, True, Cause.LEASE),
        # The events are right about the time of the event, whatever is so now.
        (Told(maintenance=False), IN_MAINTENANCE, NOW, False, None),
        (Told(maintenance=True), FREE, NOW, False, Cause.MAINTENANCE),
        (Told(maintenance=False), IN_STANDBY, NOW, False, Cause.STANDBY),
        # What is so now says nothing of an hour ago.
        (NOTHING_TOLD, IN_MAINTENANCE, NOON + timedelta(hours=1), False, None),
    ],
)
def test_events_come_before_the_present_and_the_present_before_leases(
    known: Told, modes: HostModes | None, now: datetime | None, leased: bool, expected: Cause | None
) -> None:
    assert cause_of(event(1), known, modes, now, leased=leased) is expected


def test_vcenter_is_asked_only_where_events_leave_it_open() -> None:
    assert needs_look(NOTHING_TOLD)
    assert needs_look(Told(maintenance=False))
    assert not needs_look(Told(maintenance=False, standby=False))
    assert not needs_look(Told(maintenance=True))


def test_only_what_happens_to_hosts_is_asked_about() -> None:
    assert concerns(AUDIT, event(1))
    assert concerns(AUDIT, event(1, "com.example.host.lost"))
    assert not concerns(AUDIT, event(1, "VmRestartedOnAlternateHostEvent", vm="vm-1"))
    assert not concerns(AUDIT, event(1, "com.VMware.vc.HA.VmRestartedByHAEvent"))
    assert not concerns(AUDIT, event(1, "com.example.vm.lost", vm="vm-1"))
    assert not concerns(AUDIT, event(1, "DasHostFailedEvent", host=""))
    prepare = {"name": "p", "on": [LOST], "start": "PrepareGpuHost", "with": {"profile": "p"}}
    assert not concerns(Rule.model_validate(prepare), event(1))


def lease(host: str = "host-1", granted_s: int = 0, gone: bool = False) -> Lease:
    request = LeaseRequest(
        token="t", workflow_id="w", first_run_id="r", host=HostRef(vcenter="v", key="k", moid=host, name="esx"),
        cluster_moid="c", cluster_name="c", requested_at=NOON,
    )  # fmt: skip
    holder = HolderGone(token="t", why="it was terminated", since=NOON) if gone else None
    return Lease(request=request, granted_at=NOON + timedelta(seconds=granted_s), gone=holder)


def test_a_lease_is_of_its_host_from_its_grant_on_and_as_long_as_its_holder_lives() -> None:
    mine = lease()
    assert lease_of(event(1), [lease("host-2"), mine]) is mine
    assert lease_of(event(1), [lease("host-2")]) is None
    assert lease_of(event(1), [lease(granted_s=600)]) is None
    assert lease_of(event(1), [lease(gone=True)]) is None
