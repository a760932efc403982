"""NVIDIA's guest driver installers as small files that the simulated guests know by their content.

A `.run` file is a shell script that carries its package and a checksum over it, so that half an upload is found out.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from simulator.guests import GuestDriver

__all__ = ["INSTALLERS", "BadInstaller", "Installer", "read_installer"]

_HEAD = re.compile(rb"#!/bin/sh\n# NVIDIA-Linux-x86_64 kind=(datacenter|grid) version=(\d+(?:\.\d+)+)\n")
_FOOT = re.compile(rb"\n# md5=([0-9a-f]{32})\n\Z")
_SIZE = 4096


class BadInstaller(Exception):
    """The file begins like an installer and is damaged."""


@dataclass(frozen=True, slots=True)
class Installer:
    """One `.run` file; the same bytes on every run."""

    driver: GuestDriver

    @property
    def name(self) -> str:
        """The file name: driver 3 ends in `-grid.run`."""
        return f"NVIDIA-Linux-x86_64-{self.driver.version}{'-grid' if self.driver.kind == 'grid' else ''}.run"

    @property
    def content(self) -> bytes:
        head = f"#!/bin/sh\n# NVIDIA-Linux-x86_64 kind={self.driver.kind} version={self.driver.version}\n"
        payload = hashlib.sha256(head.encode()).hexdigest().encode() * (_SIZE // 64)
        body = head.encode() + payload
        return body + b"\n# md5=" + hashlib.md5(body, usedforsecurity=False).hexdigest().encode() + b"\n"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def read_installer(content: bytes) -> GuestDriver | None:
    """The driver that an installer brings, `None` for any other file; raises `BadInstaller` for a damaged one."""
    head = _HEAD.match(content)
    if head is None:
        return None
    foot = _FOOT.search(content)
    body = content[: foot.start()] if foot else content
    if foot is None or hashlib.md5(body, usedforsecurity=False).hexdigest().encode() != foot[1]:
        raise BadInstaller("Error in MD5 checksums: the archive is damaged.")
    return GuestDriver(head[1].decode(), head[2].decode())


INSTALLERS: dict[str, Installer] = {
    installer.name: installer
    for installer in (
        Installer(GuestDriver(kind, version))
        for kind, version in (
            ("datacenter", "470.103.01"),
            ("datacenter", "535.129.03"),
            ("datacenter", "550.54.14"),
            ("grid", "470.103.01"),
            ("grid", "510.108.03"),
            ("grid", "535.129.03"),
            ("grid", "550.54.14"),
            ("grid", "580.65.06"),
        )
    )
}
"""By file name."""
