"""What vCenter's history says about an incident, on both worlds, held against what `QueryEvents` answers."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pyVmomi import vim

from contracts.errors import Unreachable
from contracts.incidents import INCIDENT_TYPES, Meaning, meaning_of
from tests.support.lab import vcenter_settings
from tests.support.simulator import SimulatorProcess
from tests.vsphere.conftest import World
from vsphere.event_xml import RawEvent
from vsphere.incident_events import EVENT_TYPE_IDS, newest_events, read_incident_events
from vsphere.inventory import find_host, host_index
from vsphere.sessions import SessionPool, content

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def raw(key: int, type_name: str = "VmPoweredOnEvent", second: int = 0, problem: str = "") -> RawEvent:
    created = datetime(2026, 1, 2, 3, 4, second, tzinfo=UTC)
    return RawEvent(key=key, created=created, type_name=type_name, vm_moid="vm-1", problem=problem)


def asked_of_pyvmomi(si: vim.ServiceInstance, entity: Any) -> list[tuple[int, str]]:
    """Key and type of the same events, unfiltered by vCenter and decoded by pyVmomi."""
    spec = vim.event.EventFilterSpec(
        entity=vim.event.EventFilterSpec.ByEntity(entity=entity, recursion="all"), maxCount=1000
    )
    events = content(si).eventManager.QueryEvents(spec)
    named = [(event.key, getattr(event, "eventTypeId", None) or type(event)._wsdlName) for event in events]
    return sorted((key, name) for key, name in named if meaning_of(name) is not None)


def test_every_classic_type_is_one_that_vsphere_has() -> None:
    classic = [name for name in INCIDENT_TYPES if "." not in name]
    assert [name for name in classic if not hasattr(vim.event, name)] == []
    assert set(classic) < set(EVENT_TYPE_IDS)


def test_an_event_ex_is_asked_for_in_the_letter_cases_that_releases_use() -> None:
    assert {"com.vmware.vc.HA.DasHostFailedEvent", "com.vmware.vc.ha.DasHostFailedEvent"} <= set(EVENT_TYPE_IDS)
    assert {"com.vmware.vc.HA.VmRestartedByHAEvent", "com.vmware.vc.ha.VmRestartedByHAEvent"} <= set(EVENT_TYPE_IDS)
    assert all(meaning_of(name) is not None for name in EVENT_TYPE_IDS)


def test_only_the_newest_are_kept_and_that_is_told() -> None:
    notes: list[str] = []
    kept = newest_events([raw(3, second=9), raw(1, second=1), raw(2, second=5)], "e", 2, notes)
    assert [event.key.key for event in kept] == [2, 3]
    assert notes == ["only the 2 newest events are kept: none before 2026-01-02 03:04:05 UTC"]


def test_as_many_as_there_may_be_are_no_cut() -> None:
    notes: list[str] = []
    assert len(newest_events([raw(1), raw(2)], "e", 2, notes)) == 2
    assert notes == []


def test_broken_events_are_counted_and_cost_no_neighbour() -> None:
    notes: list[str] = []
    kept = newest_events([raw(1), raw(-1, problem="its key '' is not a number"), raw(2)], "e", 9, notes)
    assert [event.key.key for event in kept] == [1, 2]
    assert notes == ["1 events could not be read"]


def test_doubled_events_are_told_once_and_a_restored_vcenters_keys_are_told_apart() -> None:
    kept = newest_events([raw(1), raw(1), raw(1, second=7)], "e", 9, [])
    assert [event.created.second for event in kept] == [0, 7]


def test_what_means_nothing_is_left_out() -> None:
    assert newest_events([raw(1, "UserLoginSessionEvent"), raw(2, "VmMacAssignedEvent")], "e", 9, []) == ()


def post(si: vim.ServiceInstance, kind: Any, **fields: Any) -> None:
    event = kind(key=0, chainId=0, createdTime=datetime.now(UTC), userName="", **fields)
    content(si).eventManager.PostEvent(event, None)


def test_the_events_of_a_cluster_are_those_that_pyvmomi_finds(world: World) -> None:
    with SessionPool(world.settings()) as pool, pool.session() as si:
        index = host_index(si, world.name)
        host = index.find(world.hosts[1])
        argument = vim.event.HostEventArgument(name=host.ref.name, host=vim.HostSystem(host.ref.moid))
        cluster = vim.event.ComputeResourceEventArgument(
            name=world.cluster, computeResource=vim.ClusterComputeResource(host.cluster_moid)
        )
        about = {"host": argument, "computeResource": cluster}
        post(si, vim.event.HostConnectionLostEvent, **about)
        post(si, vim.event.DasHostFailedEvent, failedHost=argument, **about)
        post(si, vim.event.GeneralHostWarningEvent, message="chatter", **about)
        for spelled in ("com.vmware.vc.ha.DasHostFailedEvent", "com.vmware.vc.HA.VmRestartedByHAEvent", "com.x.Other"):
            # vcsim breaks down over an EventEx without an object.
            of = {"objectType": vim.HostSystem, "objectId": host.ref.moid, "objectName": host.ref.name}
            post(si, vim.event.EventEx, eventTypeId=spelled, message="", **of, **about)
        expected = asked_of_pyvmomi(si, vim.ClusterComputeResource(host.cluster_moid, si._stub))
        found, note = read_incident_events(
            si, world.name, cluster_moid=host.cluster_moid, host_moids=(), since=LONG_AGO
        )
    assert sorted((event.key.key, event.type_name) for event in found) == expected
    assert note == ""
    assert [event.key.key for event in found] == sorted(event.key.key for event in found)
    posted = [event.meaning for event in found if event.host_moid == host.ref.moid][-4:]
    assert posted == [Meaning.HOST_LOST, Meaning.HOST_FAILED, Meaning.HOST_FAILED, Meaning.VM_RESTARTED]


def test_the_events_of_a_host_in_no_cluster_are_its_own(vcsim: World) -> None:
    with SessionPool(vcsim.settings()) as pool, pool.session() as si:
        alone = find_host(si, "vcsim", "DC0_H0")
        argument = vim.event.HostEventArgument(name=alone.name, host=vim.HostSystem(alone.moid))
        post(si, vim.event.HostConnectionLostEvent, host=argument)
        expected = asked_of_pyvmomi(si, vim.HostSystem(alone.moid, si._stub))
        found, _ = read_incident_events(si, "vcsim", cluster_moid="", host_moids=[alone.moid], since=LONG_AGO)
        assert read_incident_events(si, "vcsim", cluster_moid="", host_moids=[], since=LONG_AGO) == ((), "")
    assert sorted((event.key.key, event.type_name) for event in found) == expected
    assert found[-1].meaning is Meaning.HOST_LOST
    assert found[-1].host_moid == alone.moid


def test_reading_begins_where_it_is_told(world: World) -> None:
    with SessionPool(world.settings()) as pool, pool.session() as si:
        index = host_index(si, world.name)
        cluster_moid = index.find(world.hosts[0]).cluster_moid
        later = si.CurrentTime() + timedelta(days=1)
        assert read_incident_events(si, world.name, cluster_moid=cluster_moid, host_moids=(), since=later) == ((), "")


def test_collectors_are_given_back(world: World) -> None:
    with SessionPool(world.settings()) as pool, pool.session() as si:
        moid = host_index(si, world.name).find(world.hosts[0]).ref.moid
        now = si.CurrentTime()
        # A session may hold 32.
        read_incident_events(si, world.name, cluster_moid="", host_moids=[moid] * 40, since=now)


def test_a_host_that_is_gone_is_told_and_the_others_are_read(simulated: World) -> None:
    with SessionPool(simulated.settings()) as pool, pool.session() as si:
        host = find_host(si, "simulated", simulated.hosts[0])
        argument = vim.event.HostEventArgument(name=host.name, host=vim.HostSystem(host.moid))
        post(si, vim.event.HostConnectedEvent, host=argument)
        moids = ["host-999999", host.moid]
        found, note = read_incident_events(si, "simulated", cluster_moid="", host_moids=moids, since=LONG_AGO)
    assert note.startswith("host-999999 is no longer in the inventory")
    assert Meaning.HOST_BACK in {event.meaning for event in found}


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SimulatorProcess, SessionPool]]:
    """A cluster of three hosts with two GPUs and three GPU VMs; ten minutes pass in a second."""
    with SimulatorProcess(clusters=1, hosts=3, gpus=2, vms=3, gpu_vms=3, time_scale=600, seed=5) as running:
        settings = vcenter_settings(running, tmp_path_factory.mktemp("failing"), name="failing")
        with SessionPool(settings) as pool:
            yield running, pool


def test_a_host_that_fails_is_told_with_the_vms_that_ran_there(failing: tuple[SimulatorProcess, SessionPool]) -> None:
    simulator, pool = failing
    with pool.session() as si:
        host = host_index(si, "failing").find("esx-01-01.gpu.test")
        since = si.CurrentTime()
        simulator.act("fail_host", host=host.ref.name)

        def read() -> dict[Meaning | None, list[Any]]:
            events, note = read_incident_events(
                si, "failing", cluster_moid=host.cluster_moid, host_moids=(), since=since
            )
            assert note == ""
            by_meaning: dict[Meaning | None, list[Any]] = {}
            for event in events:
                by_meaning.setdefault(event.meaning, []).append(event)
            return by_meaning

        deadline = time.monotonic() + 60
        while Meaning.VM_RESTARTED not in (found := read()):
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
    (failed,) = found[Meaning.HOST_FAILED]
    assert (failed.host_moid, failed.host_name) == (host.ref.moid, host.ref.name)
    restarted = found[Meaning.VM_RESTARTED][0]
    assert restarted.source_host_moid == host.ref.moid
    assert restarted.host_moid != host.ref.moid
    assert restarted.vm_moid
    assert restarted.message


def test_events_that_the_account_may_not_see_do_not_end_the_reading(
    failing: tuple[SimulatorProcess, SessionPool],
) -> None:
    _, pool = failing
    with pool.session() as si:
        host = host_index(si, "failing").find("esx-01-02.gpu.test")
        stub, real, empties = si._stub, si._stub.invoke_raw, [2]

        def blind(mo: Any, method: str, *args: Any) -> bytes:
            # As vCenter answers where the next thousand events are of things that the account may not see.
            if method == "ReadNextEvents" and empties[0]:
                empties[0] -= 1
                return b"<Envelope/>"
            return bytes(real(mo, method, *args))

        argument = vim.event.HostEventArgument(name=host.ref.name, host=vim.HostSystem(host.ref.moid))
        post(si, vim.event.HostConnectedEvent, host=argument)
        stub.invoke_raw = blind
        try:
            found, note = read_incident_events(
                si, "failing", cluster_moid=host.cluster_moid, host_moids=(), since=LONG_AGO
            )
        finally:
            del stub.invoke_raw
    assert Meaning.HOST_BACK in {event.meaning for event in found}
    assert note == ""


def test_a_session_that_ends_meanwhile_is_told(failing: tuple[SimulatorProcess, SessionPool]) -> None:
    simulator, pool = failing
    with pool.session() as si:
        host = host_index(si, "failing").find("esx-01-02.gpu.test")
        simulator.add_fault(method="ReadNextEvents", error="vim.fault.NotAuthenticated", times=1)
        try:
            with pytest.raises(Unreachable, match="session ended"):
                read_incident_events(si, "failing", cluster_moid=host.cluster_moid, host_moids=(), since=LONG_AGO)
        finally:
            simulator.clear_faults()
