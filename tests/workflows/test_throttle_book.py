"""A throttle's memory with the decisions about it, over random weeks: what is promised of throttles holds."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.audit import HaRecoveryAuditInput
from contracts.events import EventKey
from contracts.host import HostRef
from contracts.incidents import IncidentEvent
from contracts.packing import packed, unpacked
from contracts.prepare import PrepareGpuHostInput
from contracts.throttles import Became, Outcome, Released, StartedRun, ThrottledTarget, ThrottleMemory
from contracts.windows import Window
from planning.throttles import Candidate, Terms, Verdict, choose
from planning.windows import covered_until
from workflows.throttle_book import Book

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def book_of(memory: ThrottleMemory, now: datetime = NOON) -> Book:
    return Book(memory, now, room_s=15, linger_s=600)


def target(host: int, group: str, *keys: int, begins: bool = True) -> ThrottledTarget:
    return ThrottledTarget(
        workflow_id=f"prepare-gpu-host/v/uuid-{host}",
        group=group,
        group_name=group,
        summary=f"Prepare esx-{host}",
        begins=begins,
        prepare=PrepareGpuHostInput(
            host=HostRef(vcenter="v", key=f"uuid-{host}", moid=f"host-{host}-{max(keys)}", name=f"esx-{host}"),
            profile="p",
            requester="rule:r",
            events=tuple(EventKey(epoch="e.0", key=key) for key in keys),
        ),
    )


@dataclass
class World:
    """Runs that come and go, and the activity's part with them."""

    terms: Terms
    now: datetime = NOON
    book: Book = field(default_factory=lambda: book_of(ThrottleMemory()))
    live: dict[str, str] = field(default_factory=dict)
    """Run ID by workflow ID."""
    ours: dict[str, str] = field(default_factory=dict)
    """Group by run ID, of those that the rule started."""
    given: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    suppressed: set[int] = field(default_factory=set)
    starts: dict[str, list[datetime]] = field(default_factory=lambda: defaultdict(list))
    runs: int = 0

    def start(self, workflow_id: str) -> str:
        self.runs += 1
        self.live[workflow_id] = f"run-{self.runs}"
        return self.live[workflow_id]

    def is_open(self, run: StartedRun) -> bool:
        return self.live.get(run.workflow_id) == run.run_id

    def look(self) -> None:
        """One round, as the activity makes it."""
        memory = unpacked(ThrottleMemory, packed(self.book.order(self.now)))
        open_runs = [run for run in memory.runs if self.is_open(run)]
        candidates = [
            Candidate(w.target.group, w.target.workflow_id in self.live, w.target.begins, w.waited, w.behind)
            for w in memory.waiting
        ]
        running = Counter(run.group for run in open_runs)
        became = []
        for each, choice in zip(
            memory.waiting, choose(candidates, self.terms, memory.started_at, running, self.now), strict=True
        ):
            keys = [key.key for key in each.target.keys]
            run_id = ""
            outcome = Outcome.WAITS
            if choice.verdict is Verdict.START:
                outcome, run_id = Outcome.STARTED, self.start(each.target.workflow_id)
                self._check_start(each.target.group)
                self.ours[run_id] = each.target.group
            elif choice.verdict is Verdict.JOIN:
                outcome = Outcome.JOINED
            elif choice.verdict is Verdict.SUPPRESS:
                outcome = Outcome.SUPPRESSED
                self.suppressed.update(keys)
            elif choice.verdict is Verdict.UNNEEDED:
                outcome = Outcome.UNNEEDED
                self.suppressed.update(keys)
            if outcome in (Outcome.STARTED, Outcome.JOINED):
                self.given[each.target.workflow_id] += keys
            if self.terms.max_concurrent is None:
                run_id = ""
            became.append(Became(outcome=outcome, run_id=run_id, at=self.now, until=choice.until, why=choice.why))
        window = self.terms.once_within
        self.book.apply(
            Released(
                became=tuple(became),
                closed=tuple(run for run in memory.runs if run not in open_runs),
                forgotten=tuple(
                    group for group, at in memory.started_at.items() if window is None or at + window <= self.now
                ),
                terms="t",
            ),
            self.now,
        )

    def _check_start(self, group: str) -> None:
        assert covered_until(self.terms.quiet, self.now) is None
        if self.terms.max_concurrent is not None:
            open_ones = [run for run, of in self.ours.items() if of == group and run in self.live.values()]
            assert len(open_ones) < self.terms.max_concurrent
        if self.terms.once_within is not None and self.starts[group]:
            assert self.now >= self.starts[group][-1] + self.terms.once_within
        self.starts[group].append(self.now)

    def go_on(self, until: datetime) -> None:
        """Look whenever the book wants it, up to then."""
        for _ in range(2000):
            wake_at = max(self.book.wake_at(self.now), self.now)
            if wake_at > until or self.book.done(wake_at):
                self.now = max(until, self.now)
                return
            self.now = wake_at
            self.look()
        raise AssertionError("it never rests")


happenings = st.lists(
    st.one_of(
        st.tuples(st.just("events"), st.integers(0, 5), st.integers(1, 3), st.booleans()),
        st.tuples(st.just("again"), st.integers(0, 40)),
        st.tuples(st.just("pass"), st.integers(1, 6 * 3600)),
        st.tuples(st.just("end"), st.integers(0, 5)),
        st.tuples(st.just("by hand"), st.integers(0, 5)),
        st.tuples(st.just("continue as new")),
    ),
    max_size=30,
)
terms_ = st.builds(
    Terms,
    once_within=st.none() | st.integers(1, 200).map(lambda minutes: timedelta(minutes=minutes)),
    max_concurrent=st.none() | st.integers(1, 2),
    quiet=st.sampled_from([(), (Window.model_validate({"from": "13:00", "to": "15:30"}),)]),
)


@settings(max_examples=150, deadline=None)
@given(terms_, happenings)
def test_throttles_hold_and_nothing_that_waits_is_lost(terms: Terms, what: list[tuple]) -> None:  # type: ignore[type-arg]
    world = World(terms)
    said: list[ThrottledTarget] = []
    key = 0
    for happening in what:
        match happening:
            case ("events", host, count, begins):
                keys = range(key + 1, key + count + 1)
                key += count
                said.append(target(host, f"group-{host % 2}", *keys, begins=begins))
                world.book.add([said[-1]], world.now)
                world.go_on(world.now)
            case ("again", which) if said:
                # A page is read once more: nothing changes.
                before = world.book.memory()
                world.book.add([said[which % len(said)]], world.now)
                assert unpacked(ThrottleMemory, world.book.memory()).model_copy(update={"heard_at": None}) == unpacked(
                    ThrottleMemory, before
                ).model_copy(update={"heard_at": None})
            case ("pass", seconds):
                world.go_on(world.now + timedelta(seconds=seconds))
            case ("end", host):
                world.live.pop(f"prepare-gpu-host/v/uuid-{host}", None)
            case ("by hand", host):
                name = f"prepare-gpu-host/v/uuid-{host}"
                if name not in world.live:
                    world.start(name)
            case ("continue as new",):
                world.book = book_of(unpacked(ThrottleMemory, world.book.memory()), world.now)
    # Everything ends in time when runs end: nothing waits for ever, and every event went somewhere, once.
    for _ in range(60):
        if not world.book.waiting:
            break
        world.live.clear()
        world.go_on(world.now + timedelta(hours=6))
    assert world.book.waiting == ()
    given_ = [key for keys in world.given.values() for key in keys]
    assert len(given_) == len(set(given_))
    assert set(given_) | world.suppressed == set(range(1, key + 1))
    assert not set(given_) & world.suppressed
    if terms.once_within is None:
        assert all(
            not begins for _, begins in [(e, t.begins) for t in said for e in t.keys if e.key in world.suppressed]
        )
    world.live.clear()
    world.go_on(world.now + timedelta(days=2))
    assert world.book.done(world.now)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 30)), min_size=1, max_size=20))
def test_what_waits_is_released_in_the_order_of_its_arrival(arrivals: list[tuple[int, int]]) -> None:
    world = World(Terms(max_concurrent=1))
    world.live["other"] = "other"
    order: list[str] = []
    for position, (host, _) in enumerate(arrivals):
        one = target(host, "g", position + 1)
        if one.workflow_id not in order:
            order.append(one.workflow_id)
        world.book.add([one], world.now)
    released: list[str] = []
    while world.book.waiting:
        world.go_on(world.now + timedelta(seconds=20))
        released += [name for name in world.live if name != "other" and name not in released]
        for name in order:
            world.live.pop(name, None)
    assert released == order
    assert world.book.counters.started == len(order)


def test_events_that_come_while_their_target_is_looked_at_are_not_lost() -> None:
    book = book_of(ThrottleMemory())
    book.add([target(1, "g", 1), target(2, "g", 2)], NOON)
    order = book.order(NOON)
    assert len(order.waiting) == 2
    book.add([target(1, "g", 3), target(2, "g", 4)], NOON)
    became = [
        Became(outcome=Outcome.STARTED, run_id="r", at=NOON),
        Became(outcome=Outcome.WAITS, at=NOON, why="1 of 1 runs are open"),
    ]
    book.apply(Released(became=tuple(became), terms="t"), NOON)
    left = {each.target.workflow_id: [key.key for key in each.target.keys] for each in book.waiting}
    assert left == {"prepare-gpu-host/v/uuid-2": [2, 4], "prepare-gpu-host/v/uuid-1": [3]}
    assert [each.waited for each in book.waiting] == [True, False]


def test_one_that_has_just_come_is_behind_those_of_its_group_that_are_not_looked_at() -> None:
    book = book_of(ThrottleMemory())
    book.add([target(host, "g", host + 1) for host in range(12)], NOON)
    order = book.order(NOON)
    assert [each.behind for each in order.waiting] == [False] * 12
    waits = Became(outcome=Outcome.WAITS, at=NOON, why="3 of 3 runs are open")
    book.apply(Released(became=(waits,) * 12, terms="t"), NOON)
    book.add([target(20, "g", 20), target(21, "h", 21)], NOON)
    order = book.order(NOON)
    assert [(each.target.group, each.behind) for each in order.waiting] == [("g", True), ("h", False)]
    book.over(NOON)
    later = NOON + timedelta(seconds=15)
    order = book.order(later)
    # The first ones go first anyway, so no more of them are looked at.
    assert [each.behind for each in order.waiting] == [False] * 10 + [True, False]


def test_a_look_that_came_to_nothing_loses_nothing() -> None:
    book = book_of(ThrottleMemory())
    book.add([target(1, "g", 1)], NOON)
    book.order(NOON)
    book.add([target(1, "g", 2)], NOON)
    book.over(NOON)
    assert [[key.key for key in each.target.keys] for each in book.waiting] == [[1, 2]]


def test_2500_hosts_that_wait_fit_one_message_and_one_look_takes_a_few() -> None:
    book = book_of(ThrottleMemory())
    for host in range(2500):
        book.add([target(host, f"host/{host}", *range(host * 40 + 1, host * 40 + 41))], NOON)
    assert len(book.memory()) < 1_500_000
    again = book_of(unpacked(ThrottleMemory, book.memory()))
    assert len(again.waiting) == 2500
    looked_at: list[str] = []
    until = NOON + timedelta(hours=1)
    while book.wake_at(NOON) <= NOON:
        order = book.order(NOON)
        assert 0 < len(order.waiting) <= 50
        looked_at += [each.target.workflow_id for each in order.waiting]
        became = (Became(outcome=Outcome.WAITS, at=NOON, until=until, why="quiet hours"),) * len(order.waiting)
        book.apply(Released(became=became, terms=""), NOON)
    # Each once, in the order of arrival, and then none before it is time, but for a look whether the rule has changed.
    assert looked_at == [f"prepare-gpu-host/v/uuid-{host}" for host in range(2500)]
    assert book.wake_at(NOON) == NOON + timedelta(minutes=5)
    assert len(book.order(NOON + timedelta(minutes=5)).waiting) == 1
    assert book.told("r").next_at == until
    assert len(book.order(until).waiting) == 50


def test_a_rule_whose_throttles_changed_is_looked_at_again_at_once() -> None:
    book = book_of(ThrottleMemory(terms="quiet hours"))
    book.add([target(1, "a", 1), target(2, "b", 2)], NOON)
    book.order(NOON)
    later = NOON + timedelta(hours=5)
    waits = Became(outcome=Outcome.WAITS, at=NOON, until=later, why="quiet hours")
    book.apply(Released(became=(waits, waits), terms="quiet hours"), NOON)
    now = book.wake_at(NOON)
    assert now == NOON + timedelta(minutes=5)
    assert len(book.order(now).waiting) == 1
    book.apply(Released(became=(Became(outcome=Outcome.STARTED, at=now),), terms=""), now)
    assert book.wake_at(now) == now
    assert [each.target.group for each in book.order(now).waiting] == ["b"]


def test_of_very_many_events_of_an_incident_the_first_and_the_newest_are_kept() -> None:
    def audit(*keys: int) -> ThrottledTarget:
        incident = tuple(
            IncidentEvent(key=EventKey(epoch="e.0", key=key), type_name="HostConnectionLostEvent", created=NOON)
            for key in keys
        )
        order = HaRecoveryAuditInput(vcenter="v", cluster_moid="c", requester="rule:r", incident=incident)
        return ThrottledTarget(workflow_id="a", group="a", group_name="a", summary="s", audit=order)

    merged = audit(*range(1, 301)).plus(audit(*range(301, 601)))
    assert [key.key for key in merged.keys] == [*range(1, 201), *range(401, 601)]
    assert [key.key for key in merged.shortened(1).keys] == [600]
    assert audit(1).plus(audit(2)).without({EventKey(epoch="e.0", key=1)}) == audit(2)
    assert audit(1).without({EventKey(epoch="e.0", key=1)}) is None


def test_the_newest_event_knows_where_the_host_is() -> None:
    merged = target(1, "g", 1).plus(target(1, "g", 7, begins=False))
    assert merged.prepare is not None
    assert merged.prepare.host.moid == "host-1-7"
    assert merged.begins


def test_it_ends_when_nothing_is_left_to_remember_and_not_before() -> None:
    world = World(Terms(once_within=timedelta(hours=1)))
    world.book.add([target(1, "g", 1)], NOON)
    world.go_on(NOON + timedelta(minutes=59))
    assert not world.book.done(world.now)
    world.go_on(NOON + timedelta(hours=1) + timedelta(minutes=20))
    assert world.book.done(world.now)
