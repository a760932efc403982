"""The vCenters of a running service. They come and go: each with its sessions, its listen worker, its watch and its
drift schedule, which are brought in line with what is wanted again and again until they are.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import structlog
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

from contracts import names
from contracts.errors import BadRequest, Busy, GpuwrightError, Unreachable
from vsphere.sessions import SessionPool
from vsphere.settings import VCenterSettings
from workers.assembly import GRACE, Parts, listen_workers
from workers.schedules import ensure_drift_schedules, remove_drift_schedule
from workers.settings import DriftSettings
from workers.watches import ensure_forwards, ensure_watches, stop_watch

__all__ = ["LOGOUT_TIMEOUT_S", "RETRY_S", "STOP_TIMEOUT_S", "Differences", "VCenters"]

_log = structlog.get_logger(__name__)

RETRY_S = (1.0, 2.0, 5.0, 10.0)
"""Pauses between attempts to reach Temporal; the last one repeats."""

STOP_TIMEOUT_S = GRACE.total_seconds() + 10
"""After this long a stop is over, whatever still runs: a thread in a vCenter call cannot be interrupted."""

LOGOUT_TIMEOUT_S = 5.0


class Differences(NamedTuple):
    """How the vCenters that are wanted differ from those wanted before, by name."""

    added: list[str]
    removed: list[str]
    changed: list[str]


@dataclass(frozen=True)
class _Wanted:
    settings: VCenterSettings
    certificates: bytes
    """Of the content of its certificate files, which may change under the same names."""
    pool: SessionPool


@dataclass(frozen=True)
class _Member:
    """One that is listened to."""

    wanted: _Wanted
    workers: list[Worker]
    running: asyncio.Future[list[None]]
    """All of them; done when one has failed or all have ended."""

    async def shut_down(self) -> None:
        await asyncio.gather(*(worker.shutdown() for worker in self.workers))


class VCenters:
    """Owner of the vCenters of one process. What is wanted is said by `want`; `settle` and `tend` do it.

    Everything done to Temporal may be done by several services at once, each when it learns of a change: whichever
    comes last leaves what its configuration says.
    """

    def __init__(
        self,
        client: Client,
        queues: names.TaskQueues,
        parts: Parts,
        pools: dict[str, SessionPool],
        drift: DriftSettings,
    ) -> None:
        """`pools` is the mapping that all activities of `parts` look into; nobody else changes it."""
        self._client, self._queues, self._parts, self._drift = client, queues, parts, drift
        self._pools = pools
        self._retired: dict[str, list[SessionPool]] = {}
        """Sessions that are lent to nobody any more, and that the reader of events may still use."""
        self._wanted: dict[str, _Wanted] = {}
        self._members: dict[str, _Member] = {}
        self._wake = asyncio.Event()

    async def want(self, vcenters: Iterable[VCenterSettings]) -> Differences:
        """From now on these. Raises `BadRequest` for unusable certificate files, and then nothing has changed."""
        before = self._wanted
        after = await asyncio.to_thread(_made, before, tuple(vcenters))
        self._wanted = after
        self._wake.set()
        both = [name for name in after if name in before]
        return Differences(
            added=[name for name in after if name not in before],
            removed=[name for name in before if name not in after],
            changed=[name for name in both if after[name] is not before[name]],
        )

    async def tend(self) -> None:
        """Keep all as wanted, until cancelled."""
        attempt = 0
        while True:
            if await self.settle(attempt):
                attempt, pause = 0, None  # until there is something to do
            else:
                pause = _pause_s(attempt)
                attempt += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)

    async def settle(self, attempt: int = 0) -> bool:
        """Bring each in line once; whether all are. What stands in the way is logged."""
        self._wake.clear()
        unsettled = [name for name in {**self._wanted, **self._pools, **self._members} if not self._settled(name)]
        return all(await asyncio.gather(*(self._try(name, attempt) for name in unsettled)))

    async def shut_down(self) -> None:
        """End all listen workers within `STOP_TIMEOUT_S`; sessions stay for whoever still uses them."""
        ending = {asyncio.create_task(member.shut_down()): name for name, member in self._members.items()}
        if not ending:
            return
        _, unfinished = await asyncio.wait(ending, timeout=STOP_TIMEOUT_S)
        for task in unfinished:
            _log.warning("left a listen worker that does not end", vcenter=ending[task])
        running = [member.running for member in self._members.values()]
        for task in unfinished:
            task.cancel()
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def log_out(self) -> None:
        """Close all sessions."""
        await _log_out([*self._pools.values(), *(pool for some in self._retired.values() for pool in some)])

    def _settled(self, name: str) -> bool:
        wanted, member = self._wanted.get(name), self._members.get(name)
        return member is not None and member.wanted is wanted and not member.running.done()

    async def _try(self, name: str, attempt: int) -> bool:
        member, wanted = self._members.get(name), self._wanted.get(name)
        try:
            if wanted is None:
                await self._remove(name)
            elif member is not None and member.wanted is wanted:
                # It failed. A new one is made after the pause.
                await self._end(name)
                raise Unreachable(f"one of its listen workers failed: {member.running.exception()}")
            else:
                await self._replace(name, wanted)
        except (RPCError, GpuwrightError) as error:
            _log.warning(
                "vCenter not removed yet" if wanted is None else "vCenter not listened to yet",
                vcenter=name,
                error=str(error),
                attempt=attempt + 1,
                next_attempt_in_s=_pause_s(attempt),
            )
            return False
        _log.info("vCenter removed" if wanted is None else "vCenter listened to", vcenter=name)
        return True

    async def _remove(self, name: str) -> None:
        # The watch first: told while its activity still runs, it ends with how far the events were handed over.
        await stop_watch(self._client, name)
        await ensure_forwards(self._client, self._queues, name, ())
        await remove_drift_schedule(self._client, name)
        self._lend(name, None)
        await self._end(name)

    async def _replace(self, name: str, wanted: _Wanted) -> None:
        """Listen with these settings. Where others were in force until now, the watch goes on from its cursor."""
        self._lend(name, wanted.pool)
        await self._end(name)
        await ensure_watches(self._client, self._queues, [name])
        await ensure_forwards(self._client, self._queues, name, self._parts.webhooks)
        await ensure_drift_schedules(self._client, self._queues, [name], self._drift)
        workers = listen_workers(self._client, self._queues, self._parts, name)
        running = asyncio.gather(*(worker.run() for worker in workers))
        running.add_done_callback(lambda _: self._wake.set())
        self._members[name] = _Member(wanted, workers, running)

    async def _end(self, name: str) -> None:
        """Shut the listen worker down, and close the sessions that are lent no more; raises `Busy`."""
        if (member := self._members.get(name)) is not None:
            try:
                await asyncio.wait_for(member.shut_down(), STOP_TIMEOUT_S)
            except TimeoutError:
                raise Busy(f"its listen worker does not end within {STOP_TIMEOUT_S:g} s; tried again") from None
            await asyncio.wait([member.running])
            del self._members[name]
        await _log_out(self._retired.pop(name, []))

    def _lend(self, name: str, pool: SessionPool | None) -> None:
        """From now on activities get these sessions."""
        before = self._pools.get(name)
        if before is not None and before is not pool:
            self._retired.setdefault(name, []).append(before)
        if pool is not None:
            self._pools[name] = pool
        else:
            self._pools.pop(name, None)


def _pause_s(attempt: int) -> float:
    return RETRY_S[min(attempt, len(RETRY_S) - 1)]


def _made(before: Mapping[str, _Wanted], vcenters: Iterable[VCenterSettings]) -> dict[str, _Wanted]:
    """What is wanted, with the sessions of those that did not change."""
    wanted = {}
    for settings in vcenters:
        certificates = _certificates(settings)
        known = before.get(settings.name)
        if known is None or (known.settings, known.certificates) != (settings, certificates):
            known = _Wanted(settings, certificates, SessionPool(settings))
        wanted[settings.name] = known
    return wanted


def _certificates(settings: VCenterSettings) -> bytes:
    found = hashlib.sha256()
    for file in (settings.ca_file, settings.server_cert_file):
        try:
            found.update(file.read_bytes() if file else b"")
        except OSError as error:
            raise BadRequest(f"vCenter {settings.name}: {file} cannot be read: {error.strerror}") from error
    return found.digest()


async def _log_out(pools: Iterable[SessionPool]) -> None:
    """Close every pool; one whose vCenter does not answer is left behind after `LOGOUT_TIMEOUT_S`."""
    executor = ThreadPoolExecutor(thread_name_prefix="log-out")
    loop = asyncio.get_running_loop()
    closing = {loop.run_in_executor(executor, pool.close): pool.name for pool in pools}
    executor.shutdown(wait=False)
    if not closing:
        return
    done, late = await asyncio.wait(closing, timeout=LOGOUT_TIMEOUT_S)
    for future in (*done, *late):
        if future in late or future.exception():
            _log.warning("not logged out; the session ends by itself", vcenter=closing[future])
