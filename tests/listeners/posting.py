"""A vcsim or a simulator in which things happen: hosts by pyVmomi, events by `EventManager.PostEvent`."""

from __future__ import annotations

import ssl
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim

from tests.support.simulator import SimulatorProcess
from tests.support.vcsim import VcsimProcess
from vsphere.settings import VCenterSettings

__all__ = ["Posting", "PostingSimulator", "PostingVcsim"]


class Posting(ABC):
    """A vCenter process with a second, unmodified pyVmomi connection that makes its events."""

    host: str
    port: int
    user: str
    password: str
    _si: Any = None

    @property
    @abstractmethod
    def trust(self) -> dict[str, Path]:
        """The setting of the gateway that verifies its certificate, and the file."""

    def settings(self, name: str, **more: Any) -> VCenterSettings:
        """How the gateway reaches it."""
        [certificate] = self.trust.values()
        password_file = certificate.with_name("password")
        if not password_file.exists():
            password_file.write_text(self.password)
        values = {
            "url": f"https://{self.host}:{self.port}",
            "user": self.user,
            "password_file": password_file,
            **self.trust,
        }
        return VCenterSettings(name=name, **values | more)

    @property
    def si(self) -> Any:
        """The connection."""
        if self._si is None:
            # Only to make events: what is tested verifies the certificate.
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self._si = SmartConnect(
                host=self.host, port=self.port, user=self.user, pwd=self.password, sslContext=context
            )
        return self._si

    def hang_up(self) -> None:
        """Log out; used again, it connects again."""
        if self._si is not None:
            Disconnect(self._si)
            self._si = None

    def hosts(self) -> list[Any]:
        """All hosts, by name."""
        content = self.si.content
        view = content.viewManager.CreateContainerView(content.rootFolder, [vim.HostSystem], True)
        try:
            return sorted(view.view, key=lambda host: str(host.name))
        finally:
            view.Destroy()

    def post(self, kind: Any, *hosts: Any, **fields: Any) -> None:
        """An event of this type for each of the hosts."""
        names = {host._moId: host.name for host in set(hosts)}
        for host in hosts:
            self.post_about(kind, host, names[host._moId], **fields)

    def post_about(self, kind: Any, host: Any, name: str, **fields: Any) -> None:
        """An event about a host that need not be there any more."""
        argument = vim.event.HostEventArgument(host=host, name=name)
        # vcsim gives it its own key and time; the fields are required on the wire.
        posted = kind(key=0, chainId=0, createdTime=datetime.now(UTC), userName="", host=argument, **fields)
        self.si.content.eventManager.PostEvent(posted)


class PostingVcsim(Posting, VcsimProcess):
    """A vcsim."""

    @property
    def trust(self) -> dict[str, Path]:
        """Its own certificate."""
        return {"server_cert_file": self.cert}

    def stop(self) -> None:
        """Stop it, and the connection with it."""
        self.hang_up()
        super().stop()


class PostingSimulator(Posting, SimulatorProcess):
    """The project's simulator."""

    @property
    def trust(self) -> dict[str, Path]:
        """Its CA."""
        return {"ca_file": self.ca_file}

    def stop(self) -> int:
        """Stop it, and the connection with it."""
        self.hang_up()
        return super().stop()
