"""The vGPU Manager on hosts and in images, MIG, which only its tools can switch, and BIOS settings."""

import json
from collections.abc import Mapping

from temporalio import activity

from activities.heartbeats import beating
from activities.images import ImageChange
from activities.looking import hardware_uuid, inspect_depot, profile_named
from activities.permits import Guard
from contracts.activities import PackageActivities
from contracts.errors import BadRequest, NeedsHuman
from contracts.host import BiosFeature
from contracts.packages import DepotContent
from contracts.plan import StepKind
from contracts.prepare import HostLimits, LookAtHost, StepOrder, StepOutcome
from contracts.rules import RulesFile
from contracts.signing import Keyring
from vsphere import host_ssh, packages, services, vlcm
from vsphere.depots import read_depot
from vsphere.identity import confirm_host
from vsphere.inventory import read_host
from vsphere.redfish import Bmc
from vsphere.sessions import SessionPool
from vsphere.settings import BmcSettings, SshSettings, bmc_for

__all__ = ["VCenterPackageActivities"]


class VCenterPackageActivities(PackageActivities):
    """`PackageActivities` through vCenter, its lifecycle manager, SSH and BMCs."""

    def __init__(
        self,
        pools: Mapping[str, SessionPool],
        rules: RulesFile,
        keyring: Keyring,
        *,
        limits: HostLimits,
        ssh: SshSettings | None = None,
        bmcs: tuple[BmcSettings, ...] = (),
    ) -> None:
        self._guard = Guard(pools, keyring)
        self._rules = rules
        self._limits = limits
        self._ssh = ssh
        self._bmcs = bmcs

    @activity.defn(name="inspect_depot")
    def inspect_depot(self, order: LookAtHost) -> DepotContent:
        """See `PackageActivities`."""
        profile = order.pinned or profile_named(self._rules, order.profile)
        with beating(f"reading the depot of profile {profile.name}"):
            return inspect_depot(self._guard.pool(order.host.vcenter), order, profile)

    @activity.defn(name="install_vgpu_manager")
    def install_vgpu_manager(self, order: StepOrder) -> StepOutcome:
        """See `PackageActivities`."""
        pool, params = self._guard.permitted(order, StepKind.INSTALL_MANAGER), order.step.params
        with beating(f"installing {params['name']}"), pool.session() as si:
            change = packages.install_package(
                si,
                confirm_host(si, order.host),
                params["name"],
                params["version"],
                params["depot"],
                params["sha256"],
            )
        return _outcome(change, f"{params['name']} was installed already")

    @activity.defn(name="remove_vgpu_manager")
    def remove_vgpu_manager(self, order: StepOrder) -> StepOutcome:
        """See `PackageActivities`."""
        pool, name = self._guard.permitted(order, StepKind.REMOVE_MANAGER), order.step.params["name"]
        with beating(f"removing {name}"), pool.session() as si:
            change = packages.remove_package(si, confirm_host(si, order.host), name)
        return _outcome(change, f"{name} was not installed")

    @activity.defn(name="remediate_image")
    def remediate_image(self, order: StepOrder) -> StepOutcome:
        """See `PackageActivities`."""
        pool, params = self._guard.permitted(order, StepKind.REMEDIATE_IMAGE), order.step.params
        with beating(f"remediating {order.host.name}"):
            with pool.session() as si:
                host = confirm_host(si, order.host)
                state = read_host(si, host)
                depot = read_depot(si, host, params["depot"], params["sha256"]) if params["depot"] else None
            if state.cluster is None:
                raise BadRequest(f"{host.name} is in no cluster, so no image manages it")
            change = ImageChange(
                cluster=state.cluster.moid,
                host=host,
                message=f"gpuwright: {order.step.reason}",
                timeout_s=self._limits.package_timeout_s,
            )
            with vlcm.lifecycle_manager(pool.settings) as manager:
                if depot is None:
                    text = change.take_out(manager, params["name"], state.vibs or ())
                else:
                    text = change.put_in(manager, params["name"], params["depot"], depot)
                changed = change.remediate(manager)
        return StepOutcome(changed=changed, text=text)

    @activity.defn(name="set_bios")
    def set_bios(self, order: StepOrder) -> StepOutcome:
        """See `PackageActivities`."""
        pool, host = self._guard.permitted(order, StepKind.SET_BIOS), order.host
        settings = bmc_for(self._bmcs, host.name, hardware_uuid(host))
        if settings is None:
            raise NeedsHuman(f"the configuration names no BMC for {host.name} any more; add it to 'bmcs', and retry")
        params = order.step.params
        with beating(f"setting the BIOS of {host.name}"):
            with pool.session() as si:
                confirm_host(si, host)
            bmc = Bmc(settings, host.name, hardware_uuid(host))
            if "values" in params:
                changed = bmc.put_back(json.loads(params["values"]))
            else:
                changed = bmc.enable(*(BiosFeature(name) for name in params["features"].split(",")))
        text = "ordered for the next boot: " + ", ".join(f"{name}={value}" for name, value in changed.items())
        return StepOutcome(changed=bool(changed), text=text if changed else "was ordered already")

    @activity.defn(name="set_mig")
    def set_mig(self, order: StepOrder) -> StepOutcome:
        """See `PackageActivities`."""
        pool, enabled = self._guard.permitted(order, StepKind.SET_MIG), order.step.params["mig"] == "on"
        if self._ssh is None:
            raise NeedsHuman("MIG is switched over SSH, and the configuration has no 'ssh' section; add one, and retry")
        with beating(f"setting MIG of {order.step.target}"), pool.session() as si:
            host = confirm_host(si, order.host)
            address = self._ssh.address_of(host.name)
            with services.ssh_opened(si, host, order.ssh_ran_before):
                changed = [
                    sbdf
                    for sbdf in order.step.target.split(",")
                    if host_ssh.set_mig(self._ssh, address, sbdf, enabled, self._ssh.port)
                ]
        state = "on" if enabled else "off"
        text = f"MIG switched {state}: {', '.join(changed)}" if changed else f"MIG was {state} already"
        return StepOutcome(changed=bool(changed), text=text)


def _outcome(change: packages.PackageChange | None, already: str) -> StepOutcome:
    if change is None:
        return StepOutcome(changed=False, text=already)
    return StepOutcome(changed=True, text=change.text, task=change.task)
