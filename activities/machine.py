"""What gpuwright does to a GPU VM. Every change checks that it may, then the state, then acts once."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from temporalio import activity

from activities.heartbeats import beating, seconds_left
from activities.vm_looking import look_at_vm
from activities.vm_permits import VmGuard, own_mark, request_of
from activities.vm_room import look_for_room
from contracts.activities import VmActivities
from contracts.approvals import ApprovalTerms
from contracts.errors import BadRequest, Conflict
from contracts.machine import VmRef
from contracts.plan import StepKind
from contracts.provision import (
    AwaitPowerOn,
    LookAtVm,
    PowerOnEnd,
    VmLimits,
    VmPlan,
    VmStepOrder,
    VmStepOutcome,
    VmWork,
)
from contracts.signing import Keyring
from contracts.vm_fleet import LookForRoom, RoomFound
from contracts.vms import StaticGpu, VmRequest
from planning.machine_rules import devices_of
from vsphere import hosts, machines, vm_build, vm_change, vm_power, vm_wait
from vsphere.inventory import find_host
from vsphere.sessions import SessionPool

__all__ = ["VCenterVmActivities"]

_CLOCK_GRAIN = timedelta(seconds=2)


class VCenterVmActivities(VmActivities):
    """`VmActivities` through vCenter. Blocking; each call runs in an activity thread."""

    def __init__(
        self,
        pools: Mapping[str, SessionPool],
        keyring: Keyring,
        *,
        terms: ApprovalTerms,
        limits: VmLimits,
        ask_always: bool = False,
        cloud_init: Mapping[str, Path] | None = None,
        credentials: Collection[str] = (),
    ) -> None:
        self._guard = VmGuard(pools, keyring, ask_always=ask_always)
        self._terms = terms
        self._limits = limits
        self._ask_always = ask_always
        self._cloud_init = dict(cloud_init or {})
        self._credentials = frozenset(credentials)

    @activity.defn(name="look_and_plan_vm")
    def look_and_plan_vm(self, order: LookAtVm) -> VmPlan:
        """See `VmActivities`."""
        vcenter = order.request.vcenter if order.request is not None else order.vm.vcenter if order.vm else ""
        if order.request is not None and order.work in (VmWork.PROVISION, VmWork.CHANGE):
            self._check_named(order.request)
        own = order.model_copy(update={"run": own_mark()})
        return look_at_vm(self._guard.pool(vcenter), own, self._terms, self._limits, ask_always=self._ask_always)

    @activity.defn(name="look_for_room")
    def look_for_room(self, order: LookForRoom) -> RoomFound:
        """See `VmActivities`."""
        self._check_named(order.request)
        return look_for_room(self._guard.pool(order.request.vcenter), order)

    @activity.defn(name="create_vm")
    def create_vm(self, order: VmStepOrder) -> VmStepOutcome:
        """See `VmActivities`."""
        pool, request = self._guard.permitted(order, StepKind.CREATE_VM), request_of(order)
        if order.target is None:
            raise BadRequest(f"create {request.name}: the order has no target")
        text = self._user_data(request)
        with beating(f"create {request.name}"), pool.session() as si:
            waited = datetime.now(UTC) - activity.info().scheduled_time
            # A first try has nothing to look for, and would follow another run's copy of the same template.
            since = hosts.current_time(si) - waited - _CLOCK_GRAIN if activity.info().attempt > 1 else None
            task = vm_build.create_vm(
                si,
                request,
                order.target,
                own_mark(),
                host_moid=_static_host(si, request) or order.host_moid,
                user_data=text,
                since=since,
                timeout_s=order.timeout_s,
            )
        return _submitted(task, "created", "was created already")

    @activity.defn(name="configure_vm")
    def configure_vm(self, order: VmStepOrder) -> VmStepOutcome:
        """See `VmActivities`."""
        pool = self._guard.permitted(order, StepKind.CONFIGURE_VM)
        with pool.session() as si:
            task = vm_change.configure_vm(si, self._there(si, order), order.step.params, order.change_version)
        return _submitted(task, "configured", "was configured so already")

    @activity.defn(name="set_vm_gpus")
    def set_vm_gpus(self, order: VmStepOrder) -> VmStepOutcome:
        """See `VmActivities`."""
        pool = self._guard.permitted(order, StepKind.SET_VM_GPUS)
        devices = () if order.work is VmWork.RETIRE else devices_of(request_of(order).gpus)
        with pool.session() as si:
            task = vm_change.set_gpus(si, self._there(si, order), devices, order.change_version)
        return _submitted(task, "GPU devices set", "had these GPU devices already")

    @activity.defn(name="upgrade_hardware")
    def upgrade_hardware(self, order: VmStepOrder) -> VmStepOutcome:
        """See `VmActivities`."""
        pool = self._guard.permitted(order, StepKind.UPGRADE_HARDWARE)
        version = order.step.params["version"]
        with pool.session() as si:
            task = vm_change.upgrade_hardware(si, self._there(si, order), version)
        return _submitted(task, f"hardware version is {version}", "was as new already")

    @activity.defn(name="power_on_gpu_vm")
    def power_on_gpu_vm(self, order: VmStepOrder) -> VmStepOutcome:
        """See `VmActivities`."""
        pool, request = self._guard.permitted(order, StepKind.POWER_ON_VM), request_of(order)
        with beating(f"power on {order.step.target}"), pool.session() as si:
            host_moid = _static_host(si, request) or order.host_moid
            task = vm_power.power_on_placed(si, self._there(si, order), host_moid)
        return _submitted(task, "powered on", "was on already")

    @activity.defn(name="await_power_on")
    def await_power_on(self, order: AwaitPowerOn) -> PowerOnEnd:
        """See `VmActivities`."""
        with self._guard.pool(order.vm.vcenter).session() as si:
            end = vm_wait.await_power_on(si, order.vm, order.task, activity.heartbeat, seconds_left(order.timeout_s, 1))
        if end.state == "late":
            return PowerOnEnd(state="failed", error="NeedsHuman", text=f"{end.text}; see it in vCenter")
        return PowerOnEnd(
            state=end.state,
            text=end.text,
            error=type(end.cause).__name__ if end.cause else "NeedsHuman" if end.state == "failed" else "",
        )

    @activity.defn(name="shut_down_gpu_vm")
    def shut_down_gpu_vm(self, order: VmStepOrder) -> VmStepOutcome:
        """See `VmActivities`."""
        pool = self._guard.permitted(order, StepKind.SHUT_DOWN_GUEST)
        with pool.session() as si:
            asked = machines.shut_down_guest(si, order.vcenter, self._there(si, order).moid)
        return VmStepOutcome(changed=asked, text="shut down by its guest" if asked else "was off already")

    @activity.defn(name="delete_vm")
    def delete_vm(self, order: VmStepOrder) -> VmStepOutcome:
        """See `VmActivities`."""
        pool = self._guard.permitted(order, StepKind.DELETE_VM)
        with beating(f"delete {order.step.target}"), pool.session() as si:
            state = self._guard.confirm(si, order)
            only_mine = own_mark() if order.work is VmWork.UNDO else None
            task = vm_power.delete_vm(si, state.ref, only_mine) if state is not None else None
        return _submitted(task, "deleted", "was gone already")

    def _there(self, si: Any, order: VmStepOrder) -> VmRef:
        """The order's VM, there and allowed to be changed."""
        state = self._guard.confirm(si, order)
        if state is None:
            raise Conflict(f"{order.step.kind} of {order.step.target}: it is no longer in the inventory")
        return state.ref

    def _check_named(self, request: VmRequest) -> None:
        """What a request names of the configuration is there: told before anything is made."""
        self._user_data(request)
        login = request.driver.credentials
        if login is not None and login not in self._credentials:
            known = ", ".join(sorted(self._credentials)) or "none is"
            raise BadRequest(f"no 'guest_credentials' entry is called {login!r} in the configuration; {known} there")

    def _user_data(self, request: VmRequest) -> str:
        """cloud-init's user data that the request names; empty when it names none."""
        wanted = request.customization.cloud_init if request.customization is not None else None
        if wanted is None:
            return ""
        if wanted.user_data not in self._cloud_init:
            known = ", ".join(sorted(self._cloud_init)) or "none is"
            raise BadRequest(
                f"no 'cloud_init' entry is called {wanted.user_data!r} in the configuration; {known} there"
            )
        path = self._cloud_init[wanted.user_data]
        try:
            return path.read_text()
        except OSError as error:
            raise BadRequest(f"cloud_init {wanted.user_data!r}: {path} cannot be read: {error.strerror}") from error


def _static_host(si: Any, request: VmRequest) -> str:
    """The moid of the host that static devices bind the VM to; empty without."""
    wish = next((wish for wish in request.gpus if isinstance(wish, StaticGpu)), None)
    return find_host(si, request.vcenter, wish.host).moid if wish is not None else ""


def _submitted(task: str | None, done: str, already: str) -> VmStepOutcome:
    if task is None:
        return VmStepOutcome(changed=False, text=already)
    return VmStepOutcome(changed=True, text=done, task=task)
