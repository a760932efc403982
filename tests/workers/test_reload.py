"""What a changed settings file changes in a running service, what needs a restart, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import structlog
from temporalio.client import Client
from temporalio.common import MetricMeter
from temporalio.runtime import MetricBuffer, Runtime, TelemetryConfig

from contracts.names import TaskQueues
from tests.support.service import write_configuration
from vsphere.sessions import SessionPool
from workers.assembly import Parts
from workers.configuration import load_configuration
from workers.keys import new_key
from workers.reload import Reload, needs_restart
from workers.settings import DriftSettings
from workers.vcenters import VCenters

EAST, WEST = ({"name": name, "url": f"https://{name}.example.com"} for name in ("east", "west"))


def write(folder: Path, *vcenters: dict[str, Any], **sections: Any) -> Path:
    return write_configuration(folder, temporal={"address": "127.0.0.1:7233"}, vcenters=list(vcenters), **sections)


class Reloading:
    """A `Reload` whose vCenters are never listened to, and what it says."""

    def __init__(self, client: Client, path: Path, meter: MetricMeter) -> None:
        self.pools: dict[str, SessionPool] = {}
        self.vcenters = VCenters(client, TaskQueues("reload"), Parts(), self.pools, DriftSettings())
        self.running = load_configuration(path)
        self._reload = Reload(path, self.running, self.vcenters, meter)

    async def begin(self) -> None:
        await self.vcenters.want(self.running.settings.vcenters)
        await self.look()

    async def look(self, *, asked: bool = False) -> list[tuple[str, Any]]:
        """Look at the files; the events that were logged, each with what it names."""
        with structlog.testing.capture_logs() as logged:
            await self._reload.look(asked=asked)
        return [(line["event"], {**line}) for line in logged]


@pytest.fixture(scope="module")
def buffer() -> MetricBuffer:
    return MetricBuffer(1000)


@pytest.fixture(scope="module")
def meter(buffer: MetricBuffer) -> MetricMeter:
    return Runtime(telemetry=TelemetryConfig(metrics=buffer)).metric_meter


def refused(buffer: MetricBuffer) -> int:
    """The gauge as it is now."""
    updates = [each for each in buffer.retrieve_updates() if each.metric.name == "gpuwright_configuration_refused"]
    return int(updates[-1].value)


async def test_nothing_is_said_about_a_file_that_stays_as_it_is(
    temporal_client: Client, tmp_path: Path, meter: MetricMeter
) -> None:
    path = write(tmp_path, EAST)
    reloading = Reloading(temporal_client, path, meter)
    await reloading.begin()
    assert await reloading.look() == []
    # Asked, it says what it found.
    [(event, found)] = await reloading.look(asked=True)
    assert (event, found["added"], found["removed"], found["changed"]) == ("configuration read", [], [], [])
    path.write_text(path.read_text() + "# a comment\n")
    assert await reloading.look() == []


async def test_vcenters_are_taken_over_and_the_rest_is_named(
    temporal_client: Client, tmp_path: Path, meter: MetricMeter
) -> None:
    reloading = Reloading(temporal_client, write(tmp_path, EAST), meter)
    await reloading.begin()
    moved = EAST | {"url": "https://other.example.com"}
    write(tmp_path, moved, WEST, gate={"hosts_down": 2}, windows=[{"days": ["sat"], "from": "20:00", "to": "22:00"}])
    (event, found), (warning, needs) = await reloading.look()
    assert (event, found["added"], found["removed"], found["changed"]) == ("configuration read", ["west"], [], ["east"])
    assert warning == "changed settings need a restart"
    assert needs["keys"] == ["windows", "gate.hosts_down"]
    # Taken back, there is nothing to say of them any more.
    write(tmp_path, WEST)
    [(event, found)] = await reloading.look()
    assert (found["added"], found["removed"], found["changed"]) == ([], ["east"], [])


async def test_a_mistake_changes_nothing_until_it_is_mended_wherever_it_was(
    temporal_client: Client, tmp_path: Path, meter: MetricMeter, buffer: MetricBuffer
) -> None:
    reloading = Reloading(temporal_client, write(tmp_path, EAST), meter)
    await reloading.begin()
    assert refused(buffer) == 0
    secret = tmp_path / "not-there-yet"
    path = write(tmp_path, EAST, WEST | {"password_file": str(secret)})
    [(event, found)] = await reloading.look()
    assert event == "configuration refused, the one before stays in force"
    assert "vCenter west: the password file" in found["error"]
    assert refused(buffer) == 1
    # It is said once, as long as nobody asks.
    assert await reloading.look() == []
    assert [event for event, _ in await reloading.look(asked=True)] == [event]
    # The mistake was not in the file itself.
    before = path.read_bytes()
    secret.write_text("secret\n")
    said = dict(await reloading.look())
    assert path.read_bytes() == before
    assert said["configuration read"]["added"] == ["west"]
    assert "configuration is right again" in said
    assert refused(buffer) == 0


async def test_an_unusable_certificate_is_refused_as_a_whole(
    temporal_client: Client, tmp_path: Path, meter: MetricMeter
) -> None:
    reloading = Reloading(temporal_client, write(tmp_path, EAST), meter)
    await reloading.begin()
    (tmp_path / "ca.pem").write_text("no certificate")
    write(tmp_path, EAST | {"url": "https://other.example.com"}, WEST | {"ca_file": "ca.pem"})
    [(event, found)] = await reloading.look()
    assert event == "configuration refused, the one before stays in force"
    assert f"ca_file {tmp_path / 'ca.pem'} cannot be used" in found["error"]
    (tmp_path / "ca.pem").unlink()
    write(tmp_path, EAST, WEST)
    # The east was not changed by what was refused.
    said = dict(await reloading.look())
    assert (said["configuration read"]["added"], said["configuration read"]["changed"]) == (["west"], [])


def test_webhooks_that_changed_need_a_restart(tmp_path: Path) -> None:
    hook: dict[str, Any] = {"name": "functions", "url": "https://events.example.com/hook", "events": {"on": ["*"]}}
    running = load_configuration(write(tmp_path, EAST, webhooks=[hook]))
    assert needs_restart(running, load_configuration(write(tmp_path, EAST, webhooks=[hook]))) == []
    for changed in ([hook | {"events": {"on": ["Vm*"]}}], [hook, hook | {"name": "another"}], []):
        assert needs_restart(running, load_configuration(write(tmp_path, EAST, webhooks=changed))) == ["webhooks"]


def test_rules_and_keys_that_changed_under_their_names_need_a_restart(tmp_path: Path) -> None:
    path = write(tmp_path, EAST)
    running = load_configuration(path)
    assert needs_restart(running, load_configuration(path)) == []
    write(tmp_path, EAST, where={"cluster": "gpu-*"})
    (tmp_path / "alice").unlink()
    (tmp_path / "alice.pub").unlink()
    new_key(tmp_path / "alice", tmp_path / "alice.pub")
    assert needs_restart(running, load_configuration(path)) == [
        "rules_file (its content)",
        "approvals.trusted_key_files (their content)",
    ]
