"""What a rule's throttles let start: each by an example, all of them in random combinations."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from contracts.windows import Window
from planning.throttles import UNTHROTTLED, Candidate, Terms, Verdict, choose
from planning.windows import covered_until

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
NIGHT = Window.model_validate({"from": "22:00", "to": "06:00"})
TEN = timedelta(minutes=10)


def verdicts(candidates: list[Candidate], terms: Terms, started=None, running=None, now: datetime = NOON) -> list[str]:  # type: ignore[no-untyped-def]
    return [str(each.verdict) for each in choose(candidates, terms, started or {}, running or {}, now)]


def test_without_throttles_everything_starts_or_joins() -> None:
    candidates = [Candidate("a"), Candidate("a", live=True), Candidate("a", begins=False), Candidate("a", waited=True)]
    assert verdicts(candidates, UNTHROTTLED) == ["start", "join", "unneeded", "start"]


def test_what_comes_soon_after_a_start_is_suppressed_and_what_waited_waits_on() -> None:
    terms, started = Terms(once_within=TEN), {"a": NOON - timedelta(minutes=9)}
    candidates = [
        Candidate("a"),
        Candidate("a", live=True),
        Candidate("b"),
        Candidate("b"),
        Candidate("a", waited=True),
    ]
    choices = choose(candidates, terms, started, {}, NOON)
    assert [str(choice.verdict) for choice in choices] == ["suppress", "join", "start", "suppress", "wait"]
    assert choices[0].until == choices[-1].until == NOON + timedelta(minutes=1)
    assert verdicts([Candidate("a")], terms, started, now=NOON + timedelta(minutes=1)) == ["start"]


def test_only_so_many_runs_of_a_group_are_open() -> None:
    terms = Terms(max_concurrent=2)
    candidates = [Candidate("a"), Candidate("a"), Candidate("b"), Candidate("b"), Candidate("b")]
    choices = choose(candidates, terms, {}, {"a": 1}, NOON)
    assert [str(choice.verdict) for choice in choices] == ["start", "wait", "start", "start", "wait"]
    assert choices[1].until is None
    assert choices[1].why == "2 of 2 runs are open (max_concurrent)"


def test_quiet_hours_are_waited_out() -> None:
    night = datetime(2026, 11, 21, 23, tzinfo=UTC)
    [choice, joins] = choose([Candidate("a"), Candidate("b", live=True)], Terms(quiet=(NIGHT,)), {}, {}, night)
    assert (choice.verdict, choice.until) == (Verdict.WAIT, datetime(2026, 11, 22, 6, tzinfo=UTC))
    assert joins.verdict is Verdict.JOIN
    assert verdicts([Candidate("a", waited=True)], Terms(quiet=(NIGHT,)), now=choice.until or night) == ["start"]


def test_nobody_overtakes_those_who_came_first() -> None:
    assert verdicts([Candidate("a", behind=True), Candidate("b")], UNTHROTTLED) == ["wait", "start"]
    terms, started = Terms(once_within=TEN), {"a": NOON - TEN}
    assert verdicts([Candidate("a", behind=True), Candidate("a")], terms, started) == ["wait", "wait"]


groups = st.sampled_from("abc")
moments = st.integers(0, 14 * 24 * 60).map(lambda minutes: NOON + timedelta(minutes=minutes))
some_terms = st.builds(
    Terms,
    once_within=st.none() | st.integers(1, 48 * 60).map(lambda minutes: timedelta(minutes=minutes)),
    max_concurrent=st.none() | st.integers(1, 3),
    quiet=st.lists(
        st.builds(lambda begin, end: Window.model_validate({"from": begin, "to": end}), st.times(), st.times()),
        max_size=2,
    ).map(tuple),
)
candidates_ = st.lists(
    st.builds(Candidate, groups, st.booleans(), st.booleans(), st.booleans(), st.booleans()), max_size=20
)


@given(candidates_, some_terms, st.dictionaries(groups, moments), st.dictionaries(groups, st.integers(0, 4)), moments)
def test_the_throttles_hold_whatever_comes(
    candidates: list[Candidate], terms: Terms, started: dict[str, datetime], running: dict[str, int], now: datetime
) -> None:
    choices = choose(candidates, terms, started, running, now)
    assert len(choices) == len(candidates)
    starts = Counter(c.group for c, choice in zip(candidates, choices, strict=True) if choice.verdict is Verdict.START)
    for group, count in starts.items():
        assert covered_until(terms.quiet, now) is None
        if terms.max_concurrent is not None:
            assert running.get(group, 0) + count <= terms.max_concurrent
        if terms.once_within is not None:
            assert count == 1
            assert group not in started or now >= started[group] + terms.once_within
    waiting = set()
    for candidate, choice in zip(candidates, choices, strict=True):
        assert (choice.verdict is Verdict.JOIN) == candidate.live
        if choice.verdict is Verdict.SUPPRESS:
            # What once waits is never dropped.
            assert not candidate.waited
            assert terms.once_within is not None
        if choice.verdict is Verdict.START:
            assert candidate.group not in waiting
            assert not candidate.behind
        if choice.verdict is Verdict.WAIT:
            waiting.add(candidate.group)
            assert choice.why
            assert choice.until is None or choice.until > now
