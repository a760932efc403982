"""What is inside a VM: its guest's files, processes, login and NVIDIA driver, and how it is to misbehave."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import dataclass, field
from datetime import datetime

__all__ = [
    "GUEST_PASSWORD",
    "GUEST_USER",
    "Customization",
    "Guest",
    "GuestDriver",
    "GuestFile",
    "GuestProcess",
    "Question",
    "Quirks",
]

GUEST_USER = "root"
GUEST_PASSWORD = "simulator"  # noqa: S105 - documented, and nothing real is behind it
"""Who can log in to a guest, unless its customisation or a test says otherwise."""


@dataclass(slots=True, frozen=True)
class GuestDriver:
    """An installed NVIDIA driver: `datacenter` (driver 1) or `grid` (driver 3), and its version."""

    kind: str
    version: str

    @property
    def branch(self) -> int:
        """`550` of `550.54.14`."""
        return int(self.version.partition(".")[0])


@dataclass(slots=True)
class GuestFile:
    """A file; without content it is a directory."""

    content: bytes | None
    changed: datetime
    mode: int = 0o644

    @property
    def is_directory(self) -> bool:
        return self.content is None


@dataclass(slots=True)
class GuestProcess:
    """A program in the guest; `exit_code` and `ended` are set once it has ended."""

    pid: int
    name: str
    owner: str
    command: str
    started: datetime
    ended: datetime | None = None
    exit_code: int | None = None
    work: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Guest:
    """A Linux guest. What is on its disk outlives a boot and goes along with a clone; processes do neither."""

    host_name: str = ""
    """Empty: the VM's name."""
    address: str = ""
    """A fixed IPv4 address; empty: what DHCP gives."""
    logins: dict[str, str] = field(default_factory=lambda: {GUEST_USER: GUEST_PASSWORD})
    files: dict[str, GuestFile] = field(default_factory=dict)
    processes: dict[int, GuestProcess] = field(default_factory=dict)
    driver: GuestDriver | None = None
    operator_driver: GuestDriver | None = None
    """The driver that the GPU Operator's container has loaded: the guest is a Kubernetes node."""
    stopped_services: set[str] = field(default_factory=set)
    instance_id: str = ""
    """The cloud-init instance that was set up last."""
    next_pid: int = 1200

    def cloned(self) -> Guest:
        """The guest on a copy of the disk."""
        processes, self.processes = self.processes, {}
        try:
            return copy.deepcopy(self)
        finally:
            self.processes = processes


@dataclass(slots=True)
class Question:
    """What a VM waits to be told. `cancels` are the answers that end what it was doing."""

    key: str
    text: str
    choices: tuple[str, ...] = ("Cancel", "Continue")
    cancels: tuple[str, ...] = ("Cancel",)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    answer: str = ""


@dataclass(slots=True)
class Customization:
    """What a guest is to become at its next boot; `error` makes it fail."""

    host_name: str = ""
    address: str = ""
    metadata: str = ""
    userdata: str = ""
    status: str = "TOOLSDEPLOYPKG_PENDING"
    error: str = ""


@dataclass(slots=True)
class Quirks:
    """Test knobs: how a VM misbehaves. Clones inherit them, as they inherit the disk that causes them."""

    no_tools: bool = False
    question: tuple[str, tuple[str, ...]] | None = None
    """Text and choices of what it asks when it is powered on."""
    customization_error: str = ""
    robbed: bool = False
    """Between its placement and its power-on another VM takes the devices that it was to get."""
