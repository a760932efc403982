"""vLCM images through vCenter's REST API: the only way to change packages in an image-managed cluster.

Source: vSphere Automation API, `esx/settings`: draft → components → validate → commit → apply, tasks in `cis/tasks`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from contracts.errors import Busy, NeedsHuman, NotSupported
from vsphere.rest_session import RestSession, message_text, quoted, vapi_words
from vsphere.settings import VCenterSettings

__all__ = ["ClusterImage", "Compliance", "Vlcm", "VlcmTask", "lifecycle_manager"]

_SETTINGS = "/api/esx/settings"
_APPLY_SERVICE = "com.vmware.esx.settings.clusters.software"
Heartbeat = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class ClusterImage:
    """A cluster's desired image: component → version, of what was added to base image and add-on."""

    base_image: str
    components: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Compliance:
    """How a cluster compares with its image. Statuses are vLCM's: `COMPLIANT`, `NON_COMPLIANT`, `UNKNOWN`, …"""

    status: str
    hosts: dict[str, str] = field(default_factory=dict)
    """Host moid → status."""
    impact: str = ""
    """`NO_IMPACT`, `MAINTENANCE_MODE_REQUIRED`, `REBOOT_REQUIRED` or empty."""


@dataclass(frozen=True)
class VlcmTask:
    """One look at a task of `cis/tasks`."""

    status: str
    """`PENDING`, `RUNNING`, `BLOCKED`, `SUCCEEDED` or `FAILED`."""
    percent: int | None = None
    error: str = ""
    result: Any = None

    @property
    def ended(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED")

    @property
    def failed(self) -> bool:
        """It failed, or ended as a task with a result that says so."""
        said = self.result.get("status") if isinstance(self.result, dict) else None
        said = said.get("status") if isinstance(said, dict) else said
        return self.status == "FAILED" or said in ("ERROR", "TIMED_OUT")


@contextmanager
def lifecycle_manager(settings: VCenterSettings) -> Iterator["Vlcm"]:
    """A logged-in REST session, logged out at the end; raises `BadRequest` (login, certificate) or `Unreachable`."""
    vlcm = Vlcm(settings)
    vlcm.login()
    try:
        yield vlcm
    finally:
        vlcm.logout()


class Vlcm(RestSession):
    """vLCM of one vCenter. `cluster` and `host` are moids. Every change looks first; nothing is sent twice."""

    def image(self, cluster: str) -> ClusterImage:
        """The committed image; raises `NotSupported` when the cluster has none."""
        body = self._send("GET", f"{_SETTINGS}/clusters/{quoted(cluster)}/software")
        components = (body or {}).get("components") or {}
        return ClusterImage(
            base_image=((body or {}).get("base_image") or {}).get("version", ""),
            components={name: str((info or {}).get("version", "")) for name, info in components.items()},
        )

    def component_versions(self, component: str) -> tuple[str, ...]:
        """The versions of a component in vCenter's offline depots."""
        found: dict[str, None] = {}
        for depot in self._send("GET", f"{_SETTINGS}/depots/offline") or {}:
            content = self._send("GET", f"{_SETTINGS}/depots/offline/{quoted(depot)}/content")
            for bundles in ((content or {}).get("metadata_bundles") or {}).values():
                for bundle in bundles:
                    summary = (bundle.get("independent_components") or {}).get(component) or {}
                    found.update((version["version"], None) for version in summary.get("versions") or ())
        return tuple(found)

    def import_depot(self, url: str, description: str) -> str | None:
        """Let vCenter fetch an offline bundle; returns the task, or None when a depot from there exists."""
        depots = self._send("GET", f"{_SETTINGS}/depots/offline") or {}
        if any(depot.get("location") == url for depot in depots.values()):
            return None
        spec = {"source_type": "PULL", "location": url, "description": description}
        return str(self._send("POST", f"{_SETTINGS}/depots/offline?vmw-task=true", spec))

    def set_component(
        self,
        cluster: str,
        component: str,
        version: str | None,
        message: str,
        heartbeat: Heartbeat,
        timeout_s: float = 900,
        poll_s: float = 2,
    ) -> bool:
        """Put a component into the image (None takes it out): draft, validate, commit. False when it is so already.

        A draft that an earlier try left behind is thrown away first; other users' are left alone. Raises
        `NeedsHuman` with vLCM's words when the draft is not valid, `Busy` after `timeout_s` or when another change
        under the same user threw the draft away; the image is unchanged then.
        """
        drafts = f"{_SETTINGS}/clusters/{quoted(cluster)}/software/drafts"
        right = self.image(cluster).components.get(component) == version
        # Also when nothing is to do: a try that died may have left its draft after another's commit.
        for stale in self._own_drafts(drafts):
            with suppress(NotSupported):  # gone meanwhile
                self._send("DELETE", f"{drafts}/{quoted(stale)}")
        if right:
            return False
        name = str(self._send("POST", drafts))
        draft = f"{drafts}/{quoted(name)}"
        spec: dict[str, Any] = {"components_to_delete": [component]}
        if version is not None:
            spec = {"components_to_set": {component: version}}
        try:
            self._send("PATCH", f"{draft}/software/components", spec)
            checked = self._finish(f"{draft}?action=validate&vmw-task=true", None, heartbeat, timeout_s, poll_s)
            errors = _errors(checked)
            if not errors:
                self._finish(f"{draft}?action=commit&vmw-task=true", {"message": message}, heartbeat, timeout_s, poll_s)
                return True
        except (NotSupported, NeedsHuman) as error:
            if name in self._own_drafts(drafts):
                raise
            raise Busy(
                f"{self._endpoint.where}: draft {name} of cluster {cluster} was thrown away while it was made, by "
                f"another change under user {self._settings.user}; trying again helps ({error})"
            ) from error
        self._send("DELETE", draft)
        raise NeedsHuman(
            f"{self._endpoint.where}: the image of cluster {cluster} with {component} {version} is not valid: "
            f"{errors}; correct the image or choose another version"
        )

    def _own_drafts(self, drafts: str) -> list[str]:
        found = (self._send("GET", drafts) or {}).items()
        return [name for name, about in found if _same_user(str(about.get("owner", "")), self._settings.user)]

    def compliance(self, cluster: str) -> Compliance:
        """The result of the last check; `scan` makes a new one."""
        body = self._send("GET", f"{_SETTINGS}/clusters/{quoted(cluster)}/software/compliance") or {}
        hosts = {moid: str((info or {}).get("status", "UNKNOWN")) for moid, info in (body.get("hosts") or {}).items()}
        return Compliance(str(body.get("status", "UNKNOWN")), hosts, str(body.get("impact") or ""))

    def scan(self, cluster: str) -> str:
        """Start comparing every host with the image; returns the task."""
        return str(self._send("POST", f"{_SETTINGS}/clusters/{quoted(cluster)}/software?action=scan&vmw-task=true"))

    def apply(self, cluster: str, hosts: tuple[str, ...] = ()) -> str | None:
        """Start remediating these hosts, or all; returns the task, a running one's included; None when compliant.

        vLCM enters maintenance mode, installs, reboots and exits maintenance mode by itself, a host after the other.
        """
        if (running := self.running_apply(cluster)) is not None:
            return running
        seen = self.compliance(cluster)
        if all(seen.hosts.get(host) == "COMPLIANT" for host in hosts or seen.hosts) and (hosts or seen.hosts):
            return None
        spec: dict[str, Any] = {"accept_eula": True}
        if hosts:
            spec["hosts"] = list(hosts)
        path = f"{_SETTINGS}/clusters/{quoted(cluster)}/software?action=apply&vmw-task=true"
        return str(self._send("POST", path, spec))

    def task(self, task: str) -> VlcmTask:
        """One look at a task; raises `NotSupported` when vCenter has forgotten it: then look at the compliance."""
        body = self._send("GET", f"/api/cis/tasks/{quoted(task)}")
        total, done = (((body.get("progress") or {}).get(key)) for key in ("total", "completed"))
        return VlcmTask(
            status=str(body.get("status", "RUNNING")),
            percent=round(100 * done / total) if total and done is not None else None,
            error=vapi_words(body.get("error")) or _errors(body.get("result")),
            result=body.get("result"),
        )

    def await_task(self, task: str, heartbeat: Heartbeat, timeout_s: float, poll_s: float = 5) -> VlcmTask:
        """Wait for a task's end, looking every `poll_s` seconds, at first more often.

        `heartbeat` gets `{"task", "state", "progress"}`.

        Raises `Busy` when it still runs after `timeout_s`; it goes on and can be awaited again.
        """
        deadline, pause = time.monotonic() + timeout_s, min(0.2, poll_s)
        while True:
            now = self.task(task)
            heartbeat({"task": task, "state": now.status, "progress": now.percent})
            if now.ended:
                return now
            if time.monotonic() >= deadline:
                raise Busy(f"{self._endpoint.where}: task {task} is still {now.status} after {timeout_s:g} s")
            time.sleep(min(pause, max(0.05, deadline - time.monotonic())))
            pause = min(pause * 2, poll_s)

    def _finish(self, path: str, body: Any, heartbeat: Heartbeat, timeout_s: float, poll_s: float) -> Any:
        task = str(self._send("POST", path, body))
        end = self.await_task(task, heartbeat, timeout_s, poll_s)
        if end.status == "FAILED":
            raise NeedsHuman(f"{self._endpoint.where}: {path.partition('?')[2].split('&')[0]} failed: {end.error}")
        return end.result

    def running_apply(self, cluster: str) -> str | None:
        """The task of a remediation that goes on in the cluster, whoever began it."""
        query = f"services={_APPLY_SERVICE}&status=RUNNING&status=PENDING&status=BLOCKED"
        for task, info in (self._send("GET", f"/api/cis/tasks?{query}") or {}).items():
            # In the inventory the operation is called `apply$task` or `apply`.
            target = (info.get("target") or {}).get("id")
            if target == cluster and str(info.get("operation", "")).startswith("apply"):
                return str(task)
        return None


def _same_user(owner: str, user: str) -> bool:
    """`VSPHERE.LOCAL\\Administrator` and `administrator@vsphere.local` are one user."""

    def parts(name: str) -> tuple[str, str]:
        domain, backslash, short = name.casefold().partition("\\")
        if backslash:
            return short, domain
        short, _, domain = name.casefold().partition("@")
        return short, domain

    return parts(owner) == parts(user)


def _errors(result: Any) -> str:
    """The error notifications in a task's result, which a task that succeeded may have."""
    notifications = (result.get("notifications") if isinstance(result, dict) else None) or {}
    return "; ".join(message_text(entry.get("message")) for entry in notifications.get("errors") or ())
