"""What gpuwright sees and does inside a VM's guest. Blocking and slow; runs on the queue for waits and heartbeats."""

from collections.abc import Mapping

from temporalio import activity

from activities.heartbeats import beating, seconds_left
from activities.vm_looking import reported_framebuffers
from activities.vm_permits import VmGuard, request_of
from contracts.activities import GuestActivities
from contracts.errors import BadRequest, Conflict
from contracts.machine import GuestEvidence
from contracts.plan import StepKind
from contracts.provision import GuestOrder, GuestWait, VmStepOrder, VmStepOutcome
from contracts.signing import Keyring
from contracts.vms import DriverPolicy, GuestDriver
from planning.machine_rules import silent_causes
from vsphere.fleet import read_fleet
from vsphere.guest import inspect_guest
from vsphere.guest_driver import install_driver
from vsphere.sessions import SessionPool
from vsphere.settings import GuestCredentials
from vsphere.vm_state import read_vm
from vsphere.vm_wait import await_guest

__all__ = ["VCenterGuestActivities"]


class VCenterGuestActivities(GuestActivities):
    """`GuestActivities` through VMware Tools."""

    def __init__(
        self,
        pools: Mapping[str, SessionPool],
        keyring: Keyring,
        credentials: Mapping[str, GuestCredentials] | None = None,
        *,
        ask_always: bool = False,
    ) -> None:
        self._guard = VmGuard(pools, keyring, ask_always=ask_always)
        self._credentials = dict(credentials or {})

    @activity.defn(name="await_guest")
    def await_guest(self, order: GuestOrder) -> GuestWait:
        """See `GuestActivities`."""
        pool, name = self._guard.pool(order.vm.vcenter), order.vm.name
        programs = order.request is not None and order.request.driver.policy is not DriverPolicy.NONE
        with pool.session() as si:
            timeout_s = seconds_left(order.timeout_s, 1)
            state, text = await_guest(si, order.vm, activity.heartbeat, timeout_s, operations=programs)
        match state:
            case "up":
                return GuestWait(state="up")
            case "question":
                return GuestWait(state="question", text=f"{name} waits for an answer: {text}")
            case "off":
                return GuestWait(state="off", text=f"{name} went off while its guest was waited for; see its events")
            case "gone":
                return GuestWait(state="off", text=f"{name} was removed while its guest was waited for")
        return GuestWait(state="silent", text=self._why_silent(order))

    @activity.defn(name="inspect_guest")
    def inspect_guest(self, order: GuestOrder) -> GuestEvidence:
        """See `GuestActivities`."""
        if order.request is None:
            raise BadRequest(f"inspect the guest of {order.vm.name}: the order has no request")
        login = self._login(order.request.driver)
        # `runtime.bootTime` of the look: what is seen now counts for that boot.
        with beating(f"look into {order.vm.name}"), self._guard.pool(order.vm.vcenter).session() as si:
            return inspect_guest(si, order.vm, login, order.boot_time, activity.heartbeat)

    @activity.defn(name="install_guest_driver")
    def install_guest_driver(self, order: VmStepOrder) -> VmStepOutcome:
        """See `GuestActivities`."""
        pool, request = self._guard.permitted(order, StepKind.INSTALL_GUEST_DRIVER), request_of(order)
        package, login = request.driver.package, self._login(request.driver)
        if package is None:
            raise BadRequest(f"install a driver in {request.name}: the request names no package")
        with beating(f"install the driver in {request.name}"), pool.session() as si:
            state = self._guard.confirm(si, order)
            if state is None:
                raise Conflict(f"install a driver in {request.name}: it is no longer in the inventory")
            timeout_s = seconds_left(order.timeout_s, 1)
            done = install_driver(si, state.ref, login, package, activity.heartbeat, timeout_s)
        return VmStepOutcome(changed=done.changed, text=done.text)

    def _login(self, driver: GuestDriver) -> GuestCredentials:
        name = driver.credentials or ""
        if name not in self._credentials:
            known = ", ".join(sorted(self._credentials)) or "none is"
            raise BadRequest(f"no 'guest_credentials' entry is called {name!r} in the configuration; {known} there")
        return self._credentials[name]

    def _why_silent(self, order: GuestOrder) -> str:
        """vSphere shows no error when a guest does not come up: its likely causes are told by the VM's settings."""
        name = order.vm.name
        with self._guard.pool(order.vm.vcenter).session() as si:
            state = read_vm(si, order.vm)
            if state is None:
                return f"{name} was removed while its guest was waited for"
            fleet = read_fleet(si, order.vm.vcenter, state.cluster_moid) if state.cluster_moid else None
        reported = reported_framebuffers(fleet, order.request) if fleet is not None and order.request else {}
        causes = "; ".join(silent_causes(state, reported))
        return f"the guest of {name} on {state.host_name} did not answer within {order.timeout_s} s. Likely: {causes}"
