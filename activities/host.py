"""What gpuwright sees and does on an ESXi host. Every change checks its permit, then the state, then acts once."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from temporalio import activity

from activities.heartbeats import seconds_left
from activities.looking import look_at_host, profile_named
from activities.permits import Guard
from contracts.activities import HostActivities
from contracts.approvals import ApprovalTerms, DecisionClaims, Verdict
from contracts.errors import Conflict, NeedsHuman
from contracts.host import HostRef
from contracts.plan import StepKind
from contracts.prepare import (
    AwaitHostBack,
    AwaitTask,
    AwaitVmOff,
    GrantOrder,
    HostBack,
    HostLimits,
    HostPlan,
    LookAtHost,
    StepOrder,
    StepOutcome,
    TaskEnd,
)
from contracts.rules import RulesFile
from contracts.signing import Keyring, sign
from contracts.windows import Window
from vsphere import graphics, hosts, machines, passthrough, services, tasks
from vsphere.identity import confirm_host
from vsphere.sessions import SessionPool
from vsphere.settings import BmcSettings

__all__ = ["VCenterHostActivities"]

_AUTOMATIC_GRANT_LIFETIME = timedelta(hours=12)
_CLOCK_GRAIN = timedelta(seconds=2)


class VCenterHostActivities(HostActivities):
    """`HostActivities` through vCenter. Blocking; each call runs in an activity thread."""

    def __init__(
        self,
        pools: Mapping[str, SessionPool],
        rules: RulesFile,
        keyring: Keyring,
        *,
        terms: ApprovalTerms,
        limits: HostLimits,
        windows: tuple[Window, ...] = (),
        ssh: bool = True,
        bmcs: tuple[BmcSettings, ...] = (),
        signing_key: Ed25519PrivateKey | None = None,
    ) -> None:
        self._guard = Guard(pools, keyring)
        self._rules = rules
        self._terms = terms
        self._limits = limits
        self._windows = windows
        self._ssh = ssh
        self._bmcs = bmcs
        self._signing_key = signing_key

    @activity.defn(name="look_and_plan_host")
    def look_and_plan_host(self, order: LookAtHost) -> HostPlan:
        """See `HostActivities`."""
        profile = order.pinned or profile_named(self._rules, order.profile)
        return look_at_host(
            self._guard.pool(order.host.vcenter),
            order,
            profile,
            self._terms,
            self._limits,
            self._windows,
            ssh=self._ssh,
            bmcs=self._bmcs,
        )

    @activity.defn(name="grant_automatically")
    def grant_automatically(self, order: GrantOrder) -> str:
        """See `HostActivities`."""
        if not self._terms.automatic or self._signing_key is None:
            raise Conflict("this service's configuration does not approve plans by itself (approvals.auto_approve)")
        info, now = activity.info(), datetime.now(UTC)
        claims = DecisionClaims(
            workflow_id=info.workflow_id or "",
            run_id=info.workflow_run_id or "",
            plan_hash=order.plan_hash,
            verdict=Verdict.APPROVE,
            approver="policy:auto_approve",
            comment="approved by the service's configuration",
            nonce=uuid.uuid4().hex,
            decided_at=now,
            expires_at=now + _AUTOMATIC_GRANT_LIFETIME,
        )
        return sign(claims, self._signing_key)

    @activity.defn(name="enter_maintenance")
    def enter_maintenance(self, order: StepOrder) -> StepOutcome:
        """See `HostActivities`."""
        pool = self._guard.permitted(order, StepKind.ENTER_MAINTENANCE)
        with pool.session() as si:
            task = hosts.enter_maintenance(si, confirm_host(si, order.host), timeout_s=order.timeout_s)
        return _submitted(task, "entered maintenance mode", "was in maintenance mode already")

    @activity.defn(name="exit_maintenance")
    def exit_maintenance(self, order: StepOrder) -> StepOutcome:
        """See `HostActivities`."""
        pool = self._guard.permitted(order, StepKind.EXIT_MAINTENANCE)
        with pool.session() as si:
            task = hosts.exit_maintenance(si, confirm_host(si, order.host), timeout_s=order.timeout_s)
        return _submitted(task, "left maintenance mode", "was out of maintenance mode already")

    @activity.defn(name="reboot")
    def reboot(self, order: StepOrder) -> StepOutcome:
        """See `HostActivities`."""
        pool = self._guard.permitted(order, StepKind.REBOOT)
        if order.boot_time_before is None:
            raise NeedsHuman(
                f"vCenter does not say since when {order.host.name} is up, so a finished reboot could not be told; "
                "reconnect the host in vCenter and try again"
            )
        with pool.session() as si:
            # A submission whose answer was lost is found by its age, on vCenter's clock; ours may differ.
            waited = datetime.now(UTC) - activity.info().scheduled_time
            since = hosts.current_time(si) - waited - _CLOCK_GRAIN
            task = hosts.reboot(si, confirm_host(si, order.host), boot_time_before=order.boot_time_before, since=since)
        return _submitted(task, "rebooted", "had rebooted already")

    @activity.defn(name="set_graphics_type")
    def set_graphics_type(self, order: StepOrder) -> StepOutcome:
        """See `HostActivities`."""
        pool = self._guard.permitted(order, StepKind.SET_GRAPHICS_TYPE)
        with pool.session() as si:
            changed = graphics.set_graphics_type(
                si, confirm_host(si, order.host), order.step.target, order.step.params["graphics_type"]
            )
        return _changed(changed, f"graphics type set to {order.step.params['graphics_type']}")

    @activity.defn(name="set_host_graphics")
    def set_host_graphics(self, order: StepOrder) -> StepOutcome:
        """See `HostActivities`."""
        pool, params = self._guard.permitted(order, StepKind.SET_HOST_GRAPHICS), order.step.params
        with pool.session() as si:
            host = confirm_host(si, order.host)
            changed = graphics.set_host_graphics(si, host, params.get("default_type"), params.get("policy"))
        return _changed(changed, "host graphics set")

    @activity.defn(name="restart_xorg")
    def restart_xorg(self, order: StepOrder) -> StepOutcome:
        """See `HostActivities`."""
        pool = self._guard.permitted(order, StepKind.RESTART_XORG)
        with pool.session() as si:
            services.restart_service(si, confirm_host(si, order.host), services.XORG)
        return StepOutcome(changed=True, text="Xorg restarted")

    @activity.defn(name="disable_passthrough")
    def disable_passthrough(self, order: StepOrder) -> StepOutcome:
        """See `HostActivities`."""
        pool = self._guard.permitted(order, StepKind.DISABLE_PASSTHROUGH)
        with pool.session() as si:
            changed = passthrough.set_passthrough(
                si,
                confirm_host(si, order.host),
                order.step.target,
                enabled=False,
                label=order.step.params.get("label"),
                apply_now=True,
            )
        return _changed(changed, "passthrough disabled")

    @activity.defn(name="enable_passthrough")
    def enable_passthrough(self, order: StepOrder) -> StepOutcome:
        """See `HostActivities`."""
        pool = self._guard.permitted(order, StepKind.ENABLE_PASSTHROUGH)
        with pool.session() as si:
            changed = passthrough.set_passthrough(
                si,
                confirm_host(si, order.host),
                order.step.target,
                enabled=True,
                label=order.step.params.get("label"),
                apply_now=True,
            )
        return _changed(changed, "passthrough enabled")

    @activity.defn(name="set_hardware_label")
    def set_hardware_label(self, order: StepOrder) -> StepOutcome:
        """See `HostActivities`."""
        pool = self._guard.permitted(order, StepKind.SET_LABEL)
        with pool.session() as si:
            host = confirm_host(si, order.host)
            changed = passthrough.set_label(si, host, order.step.target, order.step.params["label"])
        return _changed(changed, f"hardware label set to {order.step.params['label']}")

    @activity.defn(name="shut_down_guest")
    def shut_down_guest(self, order: StepOrder) -> StepOutcome:
        """See `HostActivities`."""
        pool = self._guard.permitted(order, StepKind.SHUT_DOWN_GUEST)
        with pool.session() as si:
            asked = machines.shut_down_guest(si, order.host.vcenter, order.step.params["moid"])
        return StepOutcome(changed=asked, text="shut down by its guest" if asked else "was off already")

    @activity.defn(name="migrate_cold")
    def migrate_cold(self, order: StepOrder) -> StepOutcome:
        """See `HostActivities`."""
        pool, params = self._guard.permitted(order, StepKind.MIGRATE_COLD), order.step.params
        moid, name = params["destination"], params["destination_name"]
        with pool.session() as si:
            target = HostRef(vcenter=order.host.vcenter, key=moid, moid=moid, name=name)
            task = machines.migrate_cold(si, order.host.vcenter, params["moid"], target)
        return _submitted(task, f"moved to {name}", f"was on {name} already")

    @activity.defn(name="power_on_vm")
    def power_on_vm(self, order: StepOrder) -> StepOutcome:
        """See `HostActivities`."""
        pool = self._guard.permitted(order, StepKind.POWER_ON_VM)
        with pool.session() as si:
            task = machines.power_on(si, order.host.vcenter, order.step.params["moid"])
        return _submitted(task, "powered on", "was on already")

    @activity.defn(name="await_vm_off")
    def await_vm_off(self, order: AwaitVmOff) -> None:
        """See `HostActivities`."""
        with self._guard.pool(order.vcenter).session() as si:
            machines.await_off(si, order.vcenter, order.vm_moid, activity.heartbeat, seconds_left(order.timeout_s))

    @activity.defn(name="await_task")
    def await_task(self, order: AwaitTask) -> TaskEnd:
        """See `HostActivities`."""
        with self._guard.pool(order.vcenter).session() as si:
            end = tasks.await_task(
                si, order.task, heartbeat=activity.heartbeat, timeout_s=seconds_left(order.timeout_s)
            )
        return TaskEnd(state=end.state, error=end.error, kind=type(end.cause).__name__ if end.cause else "")

    @activity.defn(name="await_host_back")
    def await_host_back(self, order: AwaitHostBack) -> HostBack:
        """See `HostActivities`."""
        with self._guard.pool(order.host.vcenter).session() as si:
            runtime = tasks.await_host(
                si,
                confirm_host(si, order.host),
                lambda now: (
                    now.connection_state == "connected" and hosts.rebooted(order.boot_time_before, now.boot_time)
                ),
                heartbeat=activity.heartbeat,
                timeout_s=seconds_left(order.timeout_s),
            )
        return HostBack(boot_time=runtime.boot_time)


def _submitted(task: str | None, done: str, already: str) -> StepOutcome:
    if task is None:
        return StepOutcome(changed=False, text=already)
    return StepOutcome(changed=True, text=done, task=task)


def _changed(changed: bool, done: str) -> StepOutcome:
    return StepOutcome(changed=changed, text=done if changed else "was so already")
