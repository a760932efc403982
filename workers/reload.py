"""The settings file of a running service, read again on SIGHUP and when its content changed.

Its vCenters are taken over at once; what else changed is named, because it needs a restart. A file with a mistake
changes nothing, and is told by the log and a metric until it is mended.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from temporalio.common import MetricMeter

from contracts.errors import GpuwrightError
from workers.configuration import Configuration, load_configuration
from workers.vcenters import VCenters

__all__ = ["LOOK_S", "Reload", "needs_restart"]

_log = structlog.get_logger(__name__)

LOOK_S = 10.0
"""Between looks at the files. Their content is compared: Kubernetes replaces a symbolic link, editors the file."""


class Reload:
    """Keeps the vCenters of a service as its settings file says."""

    def __init__(self, path: Path, running: Configuration, vcenters: VCenters, meter: MetricMeter) -> None:
        """`running` is what the service was started with: it stays in force but for the vCenters."""
        self._path, self._running, self._vcenters = path, running, vcenters
        self._read = running
        """What was read last without a mistake."""
        self._seen: dict[Path, bytes] = {}
        self._refused = ""
        self._asked = asyncio.Event()
        self._gauge = meter.create_gauge(
            "gpuwright_configuration_refused", "1 while the settings file has a mistake and an older one is in force."
        )
        self._gauge.set(0)

    def ask(self) -> None:
        """Read the file again now, whether it changed or not."""
        self._asked.set()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), LOOK_S)
            asked = self._asked.is_set()
            self._asked.clear()
            await self.look(asked=asked)

    async def look(self, *, asked: bool = False) -> None:
        """Take over what changed. A refused configuration is read again each time: its mistake may be elsewhere."""
        seen = await asyncio.to_thread(_contents, _files(self._path, self._read))
        if not (asked or self._refused or seen != self._seen):
            return
        try:
            read = await asyncio.to_thread(load_configuration, self._path)
            differences = await self._vcenters.want(read.settings.vcenters)
        except GpuwrightError as error:
            self._refuse(str(error), asked=asked)
            return
        # Of the files that this one names. What changes from here on differs from it.
        self._seen = seen if _files(self._path, read) == list(seen) else {}
        self._read = read
        self._accept()
        if asked or any(differences):
            _log.info("configuration read", file=str(self._path), **differences._asdict())
        if keys := needs_restart(self._running, read):
            _log.warning("changed settings need a restart", file=str(self._path), keys=keys)

    def _refuse(self, error: str, *, asked: bool) -> None:
        self._gauge.set(1)
        if asked or error != self._refused:
            _log.error("configuration refused, the one before stays in force", file=str(self._path), error=error)
        self._refused = error

    def _accept(self) -> None:
        self._gauge.set(0)
        if self._refused:
            _log.info("configuration is right again", file=str(self._path))
        self._refused = ""


def needs_restart(running: Configuration, read: Configuration) -> list[str]:
    """The keys, other than `vcenters`, whose values differ from those that the service was started with."""
    before, after = (each.settings.model_dump(exclude={"vcenters"}) for each in (running, read))
    keys = list(_differing(before, after))
    if "rules_file" not in keys and running.rules != read.rules:
        keys.append("rules_file (its content)")
    if "approvals.trusted_key_files" not in keys and running.keyring.key_ids != read.keyring.key_ids:
        keys.append("approvals.trusted_key_files (their content)")
    return keys


def _differing(before: Mapping[str, Any], after: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key in {**before, **after}:
        one, other, name = before.get(key), after.get(key), f"{above}{key}"
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differing(one, other, f"{name}.")
        elif one != other:
            yield name


def _files(path: Path, read: Configuration) -> list[Path]:
    """Files whose content matters: settings, rules, keys, and what proves that a vCenter is the right one."""
    settings = read.settings
    certificates = [file for each in settings.vcenters for file in (each.ca_file, each.server_cert_file) if file]
    return list(dict.fromkeys([path, settings.rules_file, *settings.approvals.trusted_key_files, *certificates]))


def _contents(files: Iterable[Path]) -> dict[Path, bytes]:
    """A digest of each; empty for one that cannot be read, which loading the configuration says better."""
    found = {}
    for file in files:
        try:
            found[file] = hashlib.sha256(file.read_bytes()).digest()
        except OSError:
            found[file] = b""
    return found
