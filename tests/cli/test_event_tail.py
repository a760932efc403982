"""`gpuwright events tail` against a simulated vCenter: within the tests, and once as a process that is interrupted."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from cli.main import run
from tests.listeners.posting import PostingSimulator
from tests.support.service import write_configuration

HostAdded, HostConnected = vim.event.HostAddedEvent, vim.event.HostConnectedEvent


@dataclass
class Site:
    """One vCenter, configured twice, so that there are two streams."""

    config: str
    server: PostingSimulator

    def post_raw(self, kind: str, fields: str) -> int:
        """The key of an event whose fields come over the wire so."""
        [key] = self.server.act("post_raw_events", wsdl_type=kind, fields=fields, count=1)
        return int(key)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("tail")
    with PostingSimulator(clusters=1, hosts=2, gpus=1, vms=0, time_scale=120) as server:
        vcenter = {
            "url": f"https://{server.host}:{server.port}",
            "user": server.user,
            "password_file": "vcenter-password",
            "ca_file": str(server.ca_file),
        }
        (folder / "vcenter-password").write_text(server.password)
        temporal = {"address": "127.0.0.1:1", "task_queue": "nobody"}
        vcenters = [vcenter | {"name": name} for name in ("east", "west")]
        yield Site(str(write_configuration(folder, temporal=temporal, vcenters=vcenters)), server)


def tailed(site: Site, capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> list[dict[str, Any]]:
    """What is told of what is there."""
    assert run(["events", "tail", "--config", site.config, "--no-follow", "--json", *arguments]) == status
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_what_is_there_is_told_by_time_and_by_what_was_asked_for(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = site.server.hosts()[:2]
    site.server.post(HostAdded, first, second)
    site.server.post(HostConnected, second)
    found = tailed(site, capsys, "--since", "1h", "--type", "host*ED*")
    assert {event["vcenter"] for event in found} == {"east", "west"}
    assert [event["created"] for event in found] == sorted(event["created"] for event in found)
    east = tailed(site, capsys, "--since", "1h", "--vcenter", "east", "--host", second.name.upper())
    ours = [event for event in east if event["type"] in ("HostAddedEvent", "HostConnectedEvent")][-2:]
    assert [event["type"] for event in ours] == ["HostAddedEvent", "HostConnectedEvent"]
    assert {event["host"]["name"] for event in east} == {second.name}
    assert ours[0]["host"]["moid"] == second._moId
    assert ours[0]["key"] < ours[1]["key"]
    assert tailed(site, capsys, "--since", "1h", "--cluster", "no-such*") == []
    assert tailed(site, capsys, "--since", "1h", "--vm", "*") == []


def test_a_line_tells_time_key_type_host_user_and_message(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    host = site.server.hosts()[0]
    fields = (
        "<key>{key}</key><chainId>{key}</chainId><createdTime>{created}</createdTime><userName>LAB\\eve</userName>"
        f'<host><name>{host.name}</name><host type="HostSystem">{host._moId}</host></host>'
        "<fullFormattedMessage>Two\nlines &#155;31m[red]</fullFormattedMessage>"
    )
    key = site.post_raw("HostAddedEvent", fields)
    assert run(["events", "tail", "--config", site.config, "--no-follow", "--vcenter", "east"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if f" {key} " in line]
    time_, rest = line.split(" ", 1)
    assert time_.endswith("Z")
    assert rest == f"{key} HostAddedEvent {host.name} LAB\\eve Two lines  31m[red]"


def test_a_broken_event_is_shown_as_such_whatever_is_asked_for(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    key = site.post_raw("HostAddedEvent", "<key>{key}</key><createdTime>yesterday</createdTime><userName/>")
    found = tailed(site, capsys, "--vcenter", "east", "--host", "no-such-host")
    [broken] = [event for event in found if event["key"] == key]
    assert "createdTime 'yesterday' is not a time" in broken["problem"]
    assert "yesterday" in broken["raw"]
    assert run(["events", "tail", "--config", site.config, "--no-follow", "--vcenter", "east"]) == 0
    assert "[broken: its createdTime 'yesterday' is not a time]" in capsys.readouterr().out


def test_one_vcenter_that_is_away_keeps_back_no_other_and_is_an_error(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = site.server.hosts()[0]
    site.server.post(HostAdded, host)
    there = {
        "name": "there",
        "url": f"https://{site.server.host}:{site.server.port}",
        "user": site.server.user,
        "ca_file": str(site.server.ca_file),
    }
    away = there | {"name": "away", "url": "https://127.0.0.1:1"}
    config = write_configuration(tmp_path, temporal={}, vcenters=[away, there])
    (tmp_path / "password").write_text(site.server.password)
    assert run(["events", "tail", "--config", str(config), "--no-follow", "--json"]) == 1
    said = capsys.readouterr()
    assert {json.loads(line)["vcenter"] for line in said.out.splitlines()} == {"there"}
    assert "away: " in said.err


@pytest.mark.parametrize(("span", "words"), [("10", "write it like"), ("9" * 20 + "d", "longer than")])
def test_a_wrong_span_is_named(site: Site, span: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["events", "tail", "--config", site.config, "--since", span]) == 1
    assert words in capsys.readouterr().err


class Lines:
    """Lines of a process as they come."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._rest = b""

    def until(self, key: str, value: object, timeout_s: float = 20) -> dict[str, Any]:
        """The first document in which this is so."""
        stream = self._process.stdout
        assert stream is not None
        ends_at = time.monotonic() + timeout_s
        while time.monotonic() < ends_at:
            while b"\n" in self._rest:
                line, self._rest = self._rest.split(b"\n", 1)
                document: dict[str, Any] = json.loads(line)
                if document[key] == value:
                    return document
            if select.select([stream], [], [], 1)[0]:
                self._rest += os.read(stream.fileno(), 65536)
        self._process.kill()
        _, errors = self._process.communicate()
        raise AssertionError(f"no line with {key} {value!r} within {timeout_s} s; {errors.decode()}")


def test_new_events_are_told_after_a_lost_session_too_and_an_interrupt_ends_it_cleanly(site: Site) -> None:
    host = site.server.hosts()[0]
    fields = _fields(host)
    before = site.post_raw("HostAddedEvent", fields)
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "events", "tail", "--config", site.config, "--vcenter", "west", "--json"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Where the tests run in a shell's background they ignore interrupts, and their children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        lines = Lines(process)
        lines.until("key", before)
        live = site.post_raw("HostConnectedEvent", fields)
        assert lines.until("key", live)["type"] == "HostConnectedEvent"
        site.server.hang_up()
        assert site.server.kill_sessions() >= 1
        after = site.post_raw("HostAddedEvent", fields)
        # The very next: what came before the session was lost is not told again.
        assert lines.until("type", "HostAddedEvent")["key"] == after
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    said = errors.decode()
    assert process.returncode == 0, said
    assert "west: reading on after event" in said
    assert said.rstrip().endswith("ended")
    assert "Traceback" not in said


def _fields(host: Any) -> str:
    return (
        "<key>{key}</key><chainId>{key}</chainId><createdTime>{created}</createdTime><userName/>"
        f'<host><name>{host.name}</name><host type="HostSystem">{host._moId}</host></host>'
    )
