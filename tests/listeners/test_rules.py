"""Matching, grouping and cursor arithmetic, for all events."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from contracts import ids
from contracts.events import Cursor
from contracts.host import HostRef
from contracts.rules import Rule
from listeners import cursor as cursors
from listeners.rules import RuleBook, group_by_target, with_names
from vsphere.events import RawEvent
from vsphere.inventory import IndexedHost

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
TYPES = ["HostAddedEvent", "HostConnectedEvent", "com.vmware.vc.HA.DasHostFailedEvent"]
HOSTS = {f"host-{n}": IndexedHost(HostRef(vcenter="v", key=f"uuid-{n % 4}", moid=f"host-{n}", name=f"esx-{n}"))
         for n in range(6)}  # fmt: skip


def rule(name: str = "r", on: tuple[str, ...] = ("HostAddedEvent",), **where: str) -> Rule:
    return Rule.model_validate(
        {"name": name, "on": on, "where": where, "start": "PrepareGpuHost", "with": {"profile": "p"}}
    )


def event(key: int = 1, type_name: str = "HostAddedEvent", **more: str) -> RawEvent:
    return RawEvent(key=key, created=NOON + timedelta(seconds=key // 3), type_name=type_name, **more)


events = st.builds(
    event,
    key=st.integers(-1, 60),
    type_name=st.sampled_from([*TYPES, "VmPoweredOnEvent"]),
    host_moid=st.sampled_from([*HOSTS, "host-gone", ""]),
    cluster_name=st.sampled_from(["gpu-a", "gpu-b", "web", ""]),
)
pages = st.lists(events, max_size=40)


def test_type_names_and_event_type_ids_match_in_any_letter_case() -> None:
    book = RuleBook("v", [rule(on=("com.vmware.vc.ha.dashostfailedevent", "HOSTADDEDEVENT"))])
    by_id = event(type_name="com.vmware.vc.HA.DasHostFailedEvent")
    assert book.matches(replace(by_id, base_type="EventEx"))
    assert book.matches(event())
    assert not book.matches(event(type_name="HostRemovedEvent"))


def test_where_holds_against_every_given_name() -> None:
    book = RuleBook("v", [rule(vcenter="v*", cluster="gpu-*", host="esx-?")])
    fitting = event(cluster_name="gpu-a", host_name="esx-1")
    assert book.matches(fitting)
    assert not book.matches(replace(fitting, cluster_name="web"))
    assert not book.matches(replace(fitting, host_name="esx-10"))
    assert not RuleBook("other", [rule(vcenter="v*")]).matches(fitting)


def test_the_first_rule_of_the_file_wins_whatever_names_the_event_goes_by() -> None:
    ex = replace(event(type_name="some.id"), base_type="EventEx")
    rules = [rule("first", on=("EventEx",)), rule("second", on=("some.id",))]
    for order in (rules, rules[::-1]):
        [match] = RuleBook("v", order).matches(ex)
        assert match.rule is order[0]


def test_names_that_an_event_leaves_out_come_from_the_inventory() -> None:
    hosts = {"host-1": replace(HOSTS["host-1"], cluster_name="gpu-a")}
    named = with_names(event(host_moid="host-1"), hosts)
    assert (named.host_name, named.cluster_name) == ("esx-1", "gpu-a")
    told = event(host_moid="host-1", host_name="then", cluster_name="before")
    assert with_names(told, hosts) == told


@given(pages)
def test_every_match_is_in_exactly_one_group_or_unresolved(page: list[RawEvent]) -> None:
    book = RuleBook("v", [rule(on=tuple(TYPES))])
    matches = [match for each in cursors.fresh(page, _cursor(-1)) for match in book.matches(each)]
    groups, unresolved = group_by_target("v", matches, HOSTS)
    handed = [each for group in groups for each in group.events] + [match.event for match in unresolved]
    assert sorted(each.key for each in handed) == sorted(match.event.key for match in matches)
    assert len({group.workflow_id for group in groups}) == len(groups)
    for group in groups:
        keys = [each.key for each in group.events]
        assert keys == sorted(keys)
        [key] = {HOSTS[each.host_moid].ref.key for each in group.events}
        assert group.workflow_id == ids.prepare_gpu_host("v", key)


def _cursor(key: int) -> Cursor:
    return Cursor(epoch="uuid.0", key=key, created=NOON)


@given(pages, st.integers(0, 60))
def test_the_cursor_passes_each_event_once_and_never_moves_back(page: list[RawEvent], key: int) -> None:
    before = _cursor(key)
    new = cursors.fresh(page, before)
    assert {each.key for each in new} == {each.key for each in page if each.key > key}
    after = cursors.advance(before, new)
    assert after.key == max([key, *(each.key for each in page)])
    assert not cursors.fresh(page, after)
    assert cursors.advance(after, page) == after


@given(st.sets(st.integers(1, 200), max_size=60), st.integers(1, 20), st.integers(0, 10), st.integers(1, 20))
def test_pages_read_again_after_a_crash_lose_nothing(keys: set[int], size: int, crash: int, next_size: int) -> None:
    """Whatever page the reader died in, and however the next one cuts its pages, every event is handed over."""
    history = [event(key) for key in sorted(keys)]
    cursor, handed = _cursor(0), set()
    for start in range(0, len(history), size)[:crash]:
        new = cursors.fresh(history[start : start + size], cursor)
        handed |= {each.key for each in new}
        cursor = cursors.advance(cursor, new)
    for start in range(0, len(history), next_size):
        new = cursors.fresh(history[start : start + next_size], cursor)
        assert not handed & {each.key for each in new}
        handed |= {each.key for each in new}
        cursor = cursors.advance(cursor, new)
    assert handed == keys


def test_the_time_of_the_cursor_follows_a_clock_that_steps_back() -> None:
    later = Cursor(epoch="uuid.0", key=5, created=NOON + timedelta(hours=1))
    after = cursors.advance(later, [event(6)])
    assert (after.key, after.created) == (6, event(6).created)
    broken = replace(event(7), created=datetime.fromtimestamp(0, UTC), problem="its createdTime is not a time")
    assert cursors.advance(after, [broken]) == after.model_copy(update={"key": 7})


def test_a_newest_key_below_the_cursor_is_a_new_epoch_with_a_gap() -> None:
    moved = cursors.new_epoch(_cursor(40), "uuid", event(12))
    assert moved is not None
    cursor, gap = moved
    assert (cursor.epoch, cursor.key) == ("uuid.1", 0)
    assert (gap.epoch, gap.after_key) == ("uuid.0", 40)
    assert cursors.new_epoch(_cursor(40), "uuid", event(40)) is None
    assert cursors.new_epoch(_cursor(40), "uuid", None) is None


def test_another_instance_is_a_new_epoch_whatever_its_keys() -> None:
    moved = cursors.new_epoch(_cursor(40), "other", event(41))
    assert moved is not None
    assert moved[0].epoch == "other.0"


def test_events_that_were_purged_are_a_gap() -> None:
    moved = cursors.purged(_cursor(40), [event(60), event(50)])
    assert moved is not None
    cursor, gap = moved
    assert (cursor.key, gap.after_key, gap.before_key) == (49, 40, 50)
    assert cursors.purged(cursor, [event(50)]) is None
    for page in ([], [event(40), event(50)], [event(41)]):
        assert cursors.purged(_cursor(40), page) is None
