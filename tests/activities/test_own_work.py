"""A host that gpuwright itself took down is told from one that failed by the steps of the run that worked on it."""

from datetime import UTC, datetime, timedelta

import pytest

from activities.own_work import took_down
from contracts.plan import Risk, Step, StepKind
from contracts.prepare import StepRecord, StepStatus

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def record(kind: StepKind, began: int, ended: int | None, status: StepStatus = StepStatus.DONE) -> StepRecord:
    return StepRecord(
        step=Step(kind=kind, target="esx-1", reason="", change="", risk=Risk.DISRUPTIVE),
        status=status,
        started_at=NOW + timedelta(minutes=began),
        finished_at=None if ended is None else NOW + timedelta(minutes=ended),
    )


ENTER = record(StepKind.ENTER_MAINTENANCE, 0, 10)
REBOOT = record(StepKind.REBOOT, 12, 17)
EXIT = record(StepKind.EXIT_MAINTENANCE, 20, 21)


@pytest.mark.parametrize(
    ("minute", "why"),
    [
        (-1, ""),
        (5, ""),  # VMs were still leaving it, so its failure hits those that had not.
        (11, "had it in maintenance mode"),
        (13, "rebooted it"),
        (18, "had it in maintenance mode"),
        (22, ""),
    ],
)
def test_only_what_was_emptied_or_rebooted_then_was_taken_down(minute: int, why: str) -> None:
    told = took_down([ENTER, REBOOT, EXIT], NOW + timedelta(minutes=minute))
    assert told.startswith(why) if why else told == ""


def test_a_reboot_that_goes_on_counts_and_steps_that_failed_or_were_skipped_do_not() -> None:
    at = NOW + timedelta(minutes=30)
    assert "rebooted it" in took_down([record(StepKind.REBOOT, 12, None, StepStatus.RUNNING)], at)
    assert took_down([record(StepKind.ENTER_MAINTENANCE, 0, 10, StepStatus.FAILED)], at) == ""
    assert took_down([record(StepKind.ENTER_MAINTENANCE, 0, 10, StepStatus.SKIPPED)], at) == ""
