"""The looks of a preparation at its host, and waiting for what stands in its way."""

from collections.abc import Callable
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from contracts import names, search_attributes
    from contracts.activities import HostActivities, PackageActivities
    from contracts.packages import DepotContent
    from contracts.plan import Blocker
    from contracts.prepare import HostLimits, HostPlan, LookAtHost, PrepareGpuHostInput, Restore, Stage, StepStatus
    from contracts.profiles import Profile

from workflows import policies
from workflows.asking import cause
from workflows.host_work import HostWork

__all__ = ["HostLooks"]

_WAITABLE = {"NeedsHuman", "Unreachable", "Busy"}


class HostLooks:
    """What a run saw of its host, and what it works towards since the first look."""

    def __init__(self, order: PrepareGpuHostInput, work: HostWork, tell: Callable[[Stage, str], None]) -> None:
        self._order, self._work, self._tell = order, work, tell
        self._pinned: Profile | None = None
        self._before: Profile | None = None
        self._restore = Restore()
        self._depot: DepotContent | None = None
        self.last: HostPlan | None = None
        self.limits = HostLimits()
        self.news = False
        """A signal says that a look is worth it."""
        self.skipped: tuple[str, ...] = ()
        """IDs of steps that a person skipped."""
        self.restoring = False
        self.ssh_ran: bool | None = None

    def restore(self) -> None:
        """Work towards what was there at the first look from now on."""
        self._pinned, self.skipped, self.restoring = self._before, (), True

    async def look(self) -> HostPlan:
        """Look and plan; waits for as long as something outside this run's reach stands in the way."""
        self._tell(Stage.LOOKING if not self._work.records else Stage.WORKING, "Looking at the host.")
        order = self._look_order()
        waited_since = workflow.now()
        pause_s: float = 0
        while True:
            look, blockers = await self._try_look(order)
            if look and not blockers:
                return look
            # Once the host was touched, even a wrong password is waited for: giving up would leave it half-done.
            final = next((b for b in blockers if b.error not in _WAITABLE and not self._work.records), None)
            text = " ".join(f"{blocker.text}. Fix: {blocker.fix}." for blocker in blockers)
            if final:
                raise self._work.end(final.error, f"{final.text}. Fix: {final.fix}.")
            limits = self.limits
            if workflow.now() - waited_since >= timedelta(seconds=limits.blocked_deadline_s):
                raise self._work.end("NeedsHuman", f"{text} Nothing changed in {limits.blocked_deadline_s} s.")
            pause_s = min(max(pause_s * 2, limits.blocked_recheck_s), limits.blocked_recheck_s * 16)
            left = f" {self._work.left()}" if self._work.vms_left_off else ""
            self._tell(Stage.BLOCKED, f"{text}{left} Looking again by itself (signal `{names.RECHECK}` to look now).")
            await self.pause(pause_s, "until the next look")

    async def inspect_depot(self) -> None:
        """Read what the profile's depot holds; the next look plans with it."""
        try:
            self._depot = await workflow.execute_activity_method(
                PackageActivities.inspect_depot,
                self._look_order(),
                **policies.wait(self.limits.package_timeout_s),
                task_queue=policies.wait_queue(),
                summary="read the depot",
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            raise self._work.end(*cause(error)) from error

    async def pause(self, seconds: float, summary: str) -> None:
        """Wait for a signal, at most so long."""
        try:
            await workflow.wait_condition(
                lambda: self.news, timeout=timedelta(seconds=seconds), timeout_summary=summary
            )
        except TimeoutError:
            return

    def _look_order(self) -> LookAtHost:
        restore = None
        if self.restoring:
            ran = tuple(record.step for record in self._work.records if record.status is not StepStatus.SKIPPED)
            restore = self._restore.model_copy(update={"ran": ran})
        return LookAtHost(
            host=self._order.host,
            profile=self._order.profile,
            entered_maintenance=self._work.entered_maintenance,
            pinned=self._pinned,
            depot=self._depot,
            skip=self.skipped,
            shut_down=self._work.shut_down,
            restore=restore,
            bios_ordered=self._work.bios_ordered,
        )

    async def _try_look(self, order: LookAtHost) -> tuple[HostPlan | None, tuple[Blocker, ...]]:
        self.news = False
        try:
            look = await workflow.execute_activity_method(
                HostActivities.look_and_plan_host,
                order,
                **policies.look(),
                summary=f"look at {order.host.name}",
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            kind, text = cause(error)
            return None, (Blocker(code="look-failed", text=text, fix="see the error", error=kind),)
        self.last, self.limits = look, look.limits
        self._work.saw(look.state.stopped)
        if ssh := look.state.service("TSM-SSH"):
            # What an attempt that died has opened is running at a later look, but was not at the first.
            self.ssh_ran = ssh.running and self.ssh_ran is not False
        if not look.plan.blockers and self._pinned is None:
            self._pinned, self._before, self._restore = look.pinned, look.before, look.restore
        if look.state.cluster:
            workflow.upsert_search_attributes(
                [search_attributes.GPU_CLUSTER.value_set(search_attributes.cut(look.state.cluster.name))]
            )
        if look.gpus:
            modes = ",".join(sorted({gpu.mode for gpu in look.gpus}))
            workflow.upsert_search_attributes([search_attributes.GPU_MODE.value_set(modes)])
        return look, look.plan.blockers
