"""What a forward tells people: gaps, and trouble that lasts."""

import asyncio

from temporalio.client import Client, WorkflowHandle

from contracts import ids
from contracts.errors import BadRequest, Unreachable
from contracts.forward import ForwardInput, ForwardStatus
from contracts.names import TaskQueues
from contracts.notices import Notice, Severity
from contracts.watch import FollowPosition, WatchCounters
from tests.support.directed_forward import WEBHOOK, DirectedForwarder, Forward
from tests.support.directed_watch import Call, at, gap
from workers.assembly import Parts, build_workers
from workflows.forward_events import ForwardEvents


async def test_events_that_a_webhook_never_gets_are_told_once_while_the_others_go_on(forward: Forward) -> None:
    (await forward.forwarding()).returns(at(20), gap(10))
    [notice] = await forward.told(1)
    assert (await forward.reader.call()).order.cursor == at(20)
    assert notice.id == f"webhook-{WEBHOOK}-missing-uuid.0-10-19"
    assert (notice.kind, notice.severity, notice.lasts) == ("webhook_events_missing", Severity.WARNING, False)
    assert notice.happened.startswith(
        f"Webhook {WEBHOOK} never gets the events of {forward.vcenter} after event 10 of "
    )
    assert notice.happened.endswith(" 2026-01-02 03:04:05 UTC: purged.")
    assert "event.maxAge" in notice.advice
    assert notice.workflow_id == ids.forward(forward.vcenter, WEBHOOK)


async def test_each_gap_of_a_forward_is_told_once_however_often_it_is_found(forward: Forward) -> None:
    (await forward.forwarding()).returns(at(20), gap(10))
    (await forward.reader.call()).returns(at(20), gap(10))
    restored = gap(30).model_copy(update={"before_key": 0, "reason": "keys went back"})
    (await forward.reader.call()).returns(at(40), restored)
    told = {notice.id: notice for notice in await forward.told(2)}
    assert sorted(told) == [f"webhook-{WEBHOOK}-missing-uuid.0-{keys}" for keys in ("10-19", "30-0")]
    assert "restored" in told[f"webhook-{WEBHOOK}-missing-uuid.0-30-0"].advice
    assert (await forward.status()).trouble == ""


async def told_of_trouble(forward: Forward) -> tuple[Call, Notice]:
    """The webhook is in trouble for longer than the limit."""
    sending = await forward.forwarding()
    await forward.tell(round=2, attempt=1, cursor=at(12), trouble="it answered 503", unreachable_after_s=1)
    [notice] = await forward.told(1)
    return sending, notice


async def test_a_webhook_in_trouble_that_lasts_is_told_once_and_so_is_its_end(forward: Forward) -> None:
    _, notice = await told_of_trouble(forward)
    assert (notice.kind, notice.severity, notice.lasts) == ("webhook_stuck", Severity.WARNING, True)
    assert notice.happened.startswith(f"Events of {forward.vcenter} do not get to webhook {WEBHOOK} since ")
    assert notice.happened.endswith("(1 s): it answered 503")
    assert "gets them later, from event 12 on" in notice.means
    assert f"gpuwright runs recheck {ids.forward(forward.vcenter, WEBHOOK)}" in notice.advice
    outage = (await forward.status()).outage
    assert outage is not None
    assert (outage.notice_id, outage.cursor) == (notice.id, at(12))
    shown = await forward.shown()
    assert "Events do not get there since" in shown
    assert "and people were told" in shown
    # Other words about it are no other trouble.
    await forward.tell(round=2, attempt=1, cursor=at(12), trouble="no answer", unreachable_after_s=1)
    assert await forward.reader.quiet(2)
    await forward.tell(round=2, attempt=1, cursor=at(15), unreachable_after_s=1)
    [_, over] = await forward.told(2)
    assert (over.severity, over.clears, over.lasts) == (Severity.INFO, notice.id, False)
    assert f"get to webhook {WEBHOOK} again since" in over.happened
    assert over.means == "It gets what it waited for; none was missed."
    assert (await forward.status()).outage is None


async def test_a_webhook_whose_trouble_is_over_before_the_limit_is_not_told(forward: Forward) -> None:
    await forward.forwarding()
    await forward.tell(round=2, attempt=1, cursor=at(12), trouble="no answer", unreachable_after_s=3)
    assert (await forward.status()).outage is not None
    await forward.tell(round=2, attempt=1, cursor=at(12), unreachable_after_s=3)
    await forward.until(lambda status: status.outage is None)
    assert forward.notices.told == []


async def test_the_end_of_a_webhooks_trouble_says_when_events_are_missing(forward: Forward) -> None:
    sending, notice = await told_of_trouble(forward)
    sending.returns(at(40), gap(12))
    told = await forward.told(3)
    [over] = [each for each in told if each.clears]
    assert over.clears == notice.id
    assert "Events are missing there: each gap (1 in all)" in over.means
    assert {each.kind for each in told} == {"webhook_events_missing", "webhook_stuck"}


async def test_what_a_person_has_to_mend_for_a_webhook_is_told_too(forward: Forward) -> None:
    sending = await forward.forwarding()
    await forward.tell(round=2, attempt=1, cursor=at(12), unreachable_after_s=1)
    sending.fails(BadRequest("webhook 'functions' gets no events"))
    [notice] = await forward.told(1)
    assert "BadRequest: webhook 'functions' gets no events" in notice.happened
    await forward.handle.signal(ForwardEvents.recheck)
    (await forward.reader.call()).returns(at(13))
    [_, over] = await forward.told(2)
    assert over.clears == notice.id


async def test_a_webhooks_trouble_outlasts_the_run_of_its_forward(forward: Forward) -> None:
    sending, notice = await told_of_trouble(forward)
    first_run = (await forward.handle.describe()).run_id
    # Temporal suggests a new run at 4 MB of history; those of an older round change nothing.
    for _ in range(6):
        await forward.tell(round=0, attempt=0, trouble="x" * 1_300_000)
    await asyncio.wait_for(sending.cancelled.wait(), 60)
    sending.end.cancel()
    await forward.reader.call()
    assert (await forward.handle.describe()).run_id != first_run
    outage = (await forward.status()).outage
    assert outage is not None
    assert outage.notice_id == notice.id
    await forward.tell(round=3, attempt=1, cursor=at(12), unreachable_after_s=1)
    [_, over] = await forward.told(2)
    assert over.clears == notice.id


async def test_a_forward_that_is_stopped_takes_back_what_it_told(forward: Forward) -> None:
    sending, notice = await told_of_trouble(forward)
    await forward.stopped(sending)
    sending.end.cancel()
    await forward.ended()
    [_, over] = await forward.told(2)
    assert over.clears == notice.id
    assert "that was stopped" in over.happened


async def test_a_lost_reader_is_told_and_another_goes_on_from_its_last_heartbeat(
    forward: Forward, temporal_client: Client, queues: TaskQueues
) -> None:
    vcenter, reader = f"{forward.vcenter}-unheard", DirectedForwarder()
    handle: WorkflowHandle[ForwardEvents, ForwardStatus] = await temporal_client.start_workflow(
        ForwardEvents.run,
        ForwardInput(vcenter=vcenter, webhook=WEBHOOK, unreachable_after_s=4),
        id=ids.forward(vcenter, WEBHOOK),
        task_queue=queues.main,
    )
    parts = Parts(forward=[reader.forward_events], webhooks=[WEBHOOK], vcenters=[vcenter])
    [first] = build_workers(temporal_client, queues, parts)
    async with first:
        (await reader.call()).returns(at(10))
        sending = await reader.call()
        sending.position = FollowPosition(cursor=at(17), counters=WatchCounters(events=7))
        await asyncio.sleep(1.5)
        sending.fails(Unreachable("the worker is about to end"))
    [notice] = await forward.told(1)
    assert (notice.vcenter, notice.kind) == (vcenter, "webhook_stuck")
    assert "no worker has taken it up for 4 s" in notice.happened
    [second] = build_workers(temporal_client, queues, parts)
    async with second:
        again = await reader.call()
        assert again.order.cursor == at(17)
        again.returns(at(20), events=3)
        [_, over] = await forward.told(2)
        assert over.clears == notice.id
        status = await handle.query(ForwardEvents.status)
        assert (status.cursor, status.counters.events) == (at(20), 10)
        await handle.terminate("the test is over")
        reader.close()
