"""A component put into a cluster's image or taken out, and one host remediated: each part looks before it acts."""

from collections.abc import Iterable
from dataclasses import dataclass

from temporalio import activity

from contracts.errors import BadRequest, NeedsHuman
from contracts.host import HostRef
from contracts.packages import DepotContent, InstalledVib
from vsphere.vlcm import Vlcm, VlcmTask

__all__ = ["ImageChange"]

_TRIES = 3


@dataclass(frozen=True)
class ImageChange:
    """A change of one cluster's image for one of its hosts. May be begun again at any point: nothing happens twice."""

    cluster: str
    """Moid."""
    host: HostRef
    message: str
    """Says in the image's history why it was changed."""
    timeout_s: float
    """For each part."""

    def put_in(self, manager: Vlcm, name: str, url: str, depot: DepotContent) -> str:
        """Put the component with VIB `name` into the image, its depot imported if need be; says so in words.

        Raises `BadRequest` for a depot without that component, `NeedsHuman` with vLCM's words.
        """
        vib = depot.find(name)
        component = next((each for each, version in depot.components.items() if vib and version == vib.version), None)
        if component is None:
            raise BadRequest(
                f"{url} holds no component with {name}; it has {', '.join(depot.components) or 'none'}: a cluster's "
                "image takes components only"
            )
        version = depot.components[component]
        if version not in manager.component_versions(component) and (
            task := manager.import_depot(url, f"gpuwright: {name}")
        ):
            end = self._await(manager, task)
            # Somebody else may have imported the same content meanwhile, an earlier try of ours among them.
            if end.failed and version not in manager.component_versions(component):
                raise NeedsHuman(f"vCenter could not import the depot {url}: {end.error}")
        manager.set_component(
            self.cluster, component, version, self.message, activity.heartbeat, timeout_s=self.timeout_s
        )
        return f"{component} {version} is in the image and on the host"

    def take_out(self, manager: Vlcm, name: str, installed: Iterable[InstalledVib]) -> str:
        """Take the component of VIB `name`, as installed, out of the image; says so in words.

        It is known by its version, which is the VIB's. One that is not in the image leaves with the remediation.
        """
        versions = {vib.version for vib in installed if vib.name.casefold() == name.casefold()}
        for component, version in manager.image(self.cluster).components.items():
            if version in versions and component.upper().startswith("NVD"):
                manager.set_component(
                    self.cluster, component, None, self.message, activity.heartbeat, timeout_s=self.timeout_s
                )
        return f"{name} is neither in the image nor on the host"

    def remediate(self, manager: Vlcm) -> bool:
        """Remediate the host until it is compliant; False when it was. Raises `NeedsHuman` with vLCM's words.

        A remediation that runs already is followed first; it may be one of another host.
        """
        error = ""
        # Ours, if an earlier try died over it: its hosts are away, so that a check now would tell nothing.
        if (running := manager.running_apply(self.cluster)) is not None:
            error = self._follow(manager, running)
        for tried in range(_TRIES):
            checked = self._await(manager, manager.scan(self.cluster))
            if checked.failed:
                raise NeedsHuman(f"the compliance of {self.host.name} could not be checked: {checked.error}")
            task = manager.apply(self.cluster, (self.host.moid,))
            if task is None:
                return tried > 0
            error = self._follow(manager, task)
        raise NeedsHuman(f"{self.host.name} is not compliant after {_TRIES} remediations: {error or 'no words'}")

    def _follow(self, manager: Vlcm, task: str) -> str:
        """Wait for a remediation's end; what it says went wrong elsewhere. Raises `NeedsHuman` if this host failed."""
        end = self._await(manager, task)
        if end.failed and self.host.moid in (end.result or {}).get("failed_hosts", ()):
            raise NeedsHuman(f"{self.host.name} could not be remediated: {_words_about(self.host.moid, end)}")
        return end.error

    def _await(self, manager: Vlcm, task: str) -> VlcmTask:
        return manager.await_task(task, activity.heartbeat, self.timeout_s)


def _words_about(moid: str, end: VlcmTask) -> str:
    """What the result of a remediation says about one host."""
    status = (end.result.get("host_status") or {}).get(moid) or {}
    errors = (status.get("notifications") or {}).get("errors") or ()
    said = [(note.get("message") or {}).get("default_message") or "" for note in errors]
    return "; ".join(filter(None, said)) or end.error or "no words"
