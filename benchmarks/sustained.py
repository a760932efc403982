"""The rate of events that a watch keeps up with, against the 100 a second at which event routers read.

Events are posted to vcsim by `PostEvent`, faster and faster, ten seconds at each rate; one in a hundred starts or joins
a workflow. A rate is sustained where the lag does not grow: in the last third of the time it is no more than in the
first third and a tenth of a second, lag being how long ago the poster was where the durable cursor is now, and all is
handed over in the end (vcsim keeps a thousand events only: whoever stalls for longer has lost some). It ends at the
first rate that is not sustained, or at what vcsim can take. `make bench` runs it.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from bisect import bisect_left
from collections.abc import Sequence
from math import ceil
from statistics import fmean

from benchmarks.listening import Listening, listening
from benchmarks.post_events import MATCHING
from benchmarks.posters import answered, ordered, poster_to
from benchmarks.results import keep
from tests.listeners.posting import PostingVcsim
from tests.support.recording import RecordingPrepareGpuHost

RATES = (500, 1_000, 2_000, 3_000, 4_000, 6_000)
SECONDS, LOOK_EVERY_S, NO_GROWTH_S, LATE_S = 10, 0.1, 0.1, 5
ROUTERS_PER_S = 100

Sample = tuple[float, int]
"""Wall clock (s), and how many events."""


def lags(posted: Sequence[Sample], handed_over: Sequence[Sample]) -> list[float]:
    """For each look at what is handed over, how long ago (s) so much was posted; 0 where all is."""
    counts = [count for _, count in posted]
    found = []
    for at, count in handed_over:
        # The first event that is posted and not handed over is in the batch after those that are.
        waiting = bisect_left(counts, count + 1)
        found.append(max(0.0, at - posted[waiting][0]) if waiting < len(posted) else 0.0)
    return found


def is_sustained(lags_s: Sequence[float]) -> bool:
    """Whether a lag, looked at evenly over time, did not grow."""
    third = len(lags_s) // 3
    return third > 0 and fmean(lags_s[-third:]) <= fmean(lags_s[:third]) + NO_GROWTH_S


async def _rate(bench: Listening, poster: subprocess.Popen[str], rate: int) -> tuple[float, list[float], bool]:
    """Post for some seconds; the rate that was posted, the lags meanwhile, and whether all was handed over soon."""
    before = await bench.handed_over()
    posting = asyncio.create_task(asyncio.to_thread(_storm, poster, rate))
    seen: list[Sample] = []
    while not posting.done():
        seen.append((time.time(), await bench.handed_over() - before))
        await asyncio.sleep(LOOK_EVERY_S)
    posted = await posting
    (began, first), (ended, last) = posted[0], posted[-1]
    # The first event of each hundred matches; the others are not asked for.
    matching = [(at, ceil(count / MATCHING)) for at, count in posted]
    until_s = time.monotonic() + LATE_S
    while (late := await bench.handed_over() < before + matching[-1][1]) and time.monotonic() < until_s:  # noqa: ASYNC110 - a metric
        await asyncio.sleep(LOOK_EVERY_S)
    return (last - first) / (ended - began), lags(matching, seen), not late


def _storm(poster: subprocess.Popen[str], rate: int) -> list[Sample]:
    """Have it posted; how far it was when."""
    posted, line = [], ordered(poster, f"storm {rate} {SECONDS}")
    while line != "done":
        at, count = line.split()
        posted.append((float(at), int(count)))
        line = answered(poster)
    return posted


async def main() -> None:
    """Measure, print and keep."""
    best = 0.0
    with PostingVcsim() as vcenter, poster_to(vcenter) as poster:
        async with listening(vcenter, [RecordingPrepareGpuHost]) as bench:
            await bench.start()
            await _rate(bench, poster, RATES[0])  # what is loaded once
            for rate in RATES:
                posted, lags_s, complete = await _rate(bench, poster, rate)
                sustained = complete and is_sustained(lags_s)
                words = "sustained" if sustained else "not sustained"
                print(f"{posted:,.0f} events/s: lag {fmean(lags_s):.2f} s, at most {max(lags_s):.2f} s: {words}")
                if sustained:
                    best = max(best, posted)
                if not sustained or posted < 0.9 * rate:
                    break
            await bench.stop()
    keep(
        "sustained_vs_100_per_s",
        value=best,
        unit="events/s",
        peer=ROUTERS_PER_S,
        against="what event routers read",
        higher_is_better=True,
    )


if __name__ == "__main__":
    asyncio.run(main())
