"""The listener against vcsim and a Temporal server: what is posted there starts workflows here."""

from __future__ import annotations

from pyVmomi import vim

from contracts import names
from contracts.watch import WatchStatus
from tests.listeners.conftest import Watched, rules, until
from tests.listeners.posting import PostingVcsim
from tests.listeners.proxy import proxy_to
from tests.support.recording import FINISH

HostAdded = vim.event.HostAddedEvent
HostConnected = vim.event.HostConnectedEvent


async def test_a_host_event_starts_the_preparation_of_that_host(watched: Watched) -> None:
    first, second = watched.hosts[:2]
    async with watched.workers(rules()):
        await watched.start()
        await watched.begun()
        await watched.post(HostAdded, first)
        assert len(await until(lambda: watched.keys(first), bool)) == 1
        assert await watched.keys(second) == []
        status = await until(watched.status, lambda status: status.counters.started == 1)
        assert status.lag_s is not None
        assert status.lag_s < 2
        described = await watched.client.get_workflow_handle(watched.workflow_id(first)).describe()
        assert "HostAddedEvent" in (await described.static_summary() or "")


async def test_events_before_the_first_start_are_left_to_the_periodic_look(watched: Watched) -> None:
    old, new = watched.hosts[:2]
    await watched.post(HostAdded, old)
    async with watched.workers(rules()):
        await watched.start()
        await watched.begun()
        await watched.post(HostAdded, new)
        await until(lambda: watched.keys(new), bool)
        assert await watched.keys(old) == []


async def test_more_events_of_a_host_join_its_live_run_and_start_another_after_it(watched: Watched) -> None:
    host = watched.hosts[0]
    async with watched.workers(rules()):
        await watched.start()
        await watched.begun()
        for count in (1, 2, 3):
            await watched.post(HostAdded, host)
            await until(lambda: watched.keys(host), lambda keys, count=count: len(keys) == count)  # type: ignore[misc]
        run = watched.client.get_workflow_handle(watched.workflow_id(host))
        await run.signal(FINISH)
        first_keys = await run.result()
        await watched.post(HostAdded, host)
        await until(lambda: watched.keys(host), lambda keys: len(keys) == 1)
        assert not set(await watched.keys(host)) & set(first_keys)


async def test_type_and_where_decide_which_events_count(watched: Watched) -> None:
    clustered, alone = watched.hosts[0], watched.hosts[-1]
    assert alone.parent.name != clustered.parent.name
    async with watched.workers(rules(cluster=clustered.parent.name)):
        await watched.start()
        await watched.begun()
        await watched.post(HostConnected, clustered)
        await watched.post(HostAdded, alone)
        await watched.post(HostAdded, clustered)
        assert len(await until(lambda: watched.keys(clustered), bool)) == 1
        assert await watched.keys(alone) == []


async def test_a_burst_of_500_events_is_handed_over_whole(watched: Watched) -> None:
    async with watched.workers(rules()):
        await watched.start()
        await watched.begun()
        await watched.post(HostAdded, *(watched.hosts * 125))
        seen = []
        for host in watched.hosts:
            seen += await until(lambda: watched.keys(host), lambda keys: len(keys) >= 125)  # noqa: B023
        assert len(seen) == len(set(seen)) == 500


async def test_an_event_of_a_host_that_is_gone_is_quarantined_with_the_reason(watched: Watched) -> None:
    there = watched.hosts[0]
    gone = vim.HostSystem("host-9999")
    async with watched.workers(rules()):
        await watched.start()
        await watched.begun()
        await watched.post_about(HostAdded, gone, "esx-gone")
        await watched.post(HostAdded, there)
        await until(lambda: watched.keys(there), bool)
        status = await until(watched.status, lambda status: bool(status.quarantined))
        assert [event.type_name for event in status.quarantined] == ["HostAddedEvent"]
        assert "esx-gone (host-9999)" in status.quarantined[0].reason


async def test_a_vcenter_that_goes_away_is_named_and_read_on_when_it_is_back(watched: Watched) -> None:
    host = watched.hosts[0]
    async with (
        proxy_to(watched.server.port) as proxy,
        watched.workers(rules(), url=f"https://127.0.0.1:{proxy.port}"),
    ):
        await watched.start()
        await watched.begun()
        await proxy.down()
        status = await until(watched.status, lambda status: bool(status.trouble))
        assert status.trouble.startswith(f"vCenter {watched.vcenter}") or watched.vcenter in status.trouble
        [pending] = (await watched.watch.describe()).raw_description.pending_activities
        assert watched.vcenter in pending.last_failure.message
        await watched.post(HostAdded, host)
        await proxy.up()
        assert len(await until(lambda: watched.keys(host), bool)) == 1
        await until(watched.status, lambda status: not status.trouble)


async def test_keys_that_start_over_are_a_gap_and_a_new_epoch(watched: Watched) -> None:
    host = watched.hosts[0]
    unverified = {"server_cert_file": None, "insecure_skip_verify": True}
    async with (
        proxy_to(watched.server.port) as proxy,
        watched.workers(rules(), url=f"https://127.0.0.1:{proxy.port}", **unverified),
    ):
        await watched.start()
        before = await watched.begun()
        await watched.post(HostAdded, *([host] * 60))
        await until(lambda: watched.keys(host), lambda keys: len(keys) == 60)
        await proxy.down()
        with PostingVcsim() as restored:
            proxy.target = restored.port
            await proxy.up()
            status = await until(watched.status, lambda status: bool(status.gaps))
            assert before.cursor is not None
            assert status.gaps[0].epoch == before.cursor.epoch
            after = await until(
                watched.status, lambda status: status.cursor is not None and status.round > before.round
            )
            assert after.cursor is not None
            assert after.cursor.epoch != status.gaps[0].epoch
            again = restored.hosts()[1]
            restored.post(HostAdded, again)
            started = await until(watched.status, lambda status: status.counters.started == 2)
            assert started.trouble == ""
            await proxy.down()


async def test_a_wrong_password_waits_for_a_person_and_recovers_when_told(watched: Watched) -> None:
    host = watched.hosts[0]
    password = watched.server.cert.with_name("another-password")
    password.write_text("wrong")
    async with watched.workers(rules(), password_file=password):
        await watched.start()
        status = await until(watched.status, lambda status: "BadRequest" in status.trouble)
        assert "password" in status.trouble
        password.write_text(watched.server.password)
        await watched.watch.signal(names.RECHECK)
        await watched.begun()
        await watched.post(HostAdded, host)
        await until(lambda: watched.keys(host), bool)


async def test_a_stopped_watch_tells_how_far_it_came(watched: Watched) -> None:
    host = watched.hosts[0]
    async with watched.workers(rules()):
        await watched.start()
        await watched.begun()
        await watched.post(HostAdded, host)
        [key] = await until(lambda: watched.keys(host), bool)
        await watched.watch.signal(names.STOP)
        ended: WatchStatus = await watched.watch.result()
        assert ended.cursor is not None
        assert ended.cursor.key >= key
        assert ended.counters.started == 1
