"""`gpuwright watch status`, `events quarantine` and `events redrive`, with a watch and its workers in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import structlog
from pyVmomi import vim
from temporalio.client import Client

from cli import watch
from cli.main import run
from contracts import names
from contracts.names import TaskQueues
from listeners import following
from tests.listeners.conftest import Watched, rules, until, watch_of
from tests.listeners.posting import PostingVcsim
from tests.support.service import write_configuration
from workers.temporal_server import DevServer

HostAdded = vim.event.HostAddedEvent


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The workers share standard output with the commands here, as they never do otherwise."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


@pytest_asyncio.fixture
async def watched(
    temporal_client: Client, temporal_server: DevServer, queues: TaskQueues, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Watched]:
    monkeypatch.setattr(following, "_WAIT_S", 1)
    with PostingVcsim() as vcsim:
        async with watch_of(temporal_client, temporal_server.address, vcsim, queues) as watched:
            yield watched


class Commands:
    """The commands of an operator of the watched vCenter, and of others that only the configuration has."""

    def __init__(self, watched: Watched, folder: Path, capsys: pytest.CaptureFixture[str], *others: str) -> None:
        self._watched, self._folder, self._capsys = watched, folder, capsys
        self.configure(watched.vcenter, *others)

    def configure(self, *names: str, **sections: Any) -> None:
        """From now on these vCenters are configured, all of them at the watched address, and these sections."""
        watched = self._watched
        settings = json.loads(watched.server.settings(watched.vcenter).model_dump_json(exclude_none=True))
        vcenters = [settings | {"name": name} for name in names]
        temporal = {"address": watched.address, "task_queue": watched.queues.base}
        self._config = str(write_configuration(self._folder, temporal=temporal, vcenters=vcenters, **sections))

    async def __call__(self, *arguments: str, status: int = 0) -> str:
        """What a command prints."""
        ended = await asyncio.to_thread(run, [*arguments, "--config", self._config])
        said = self._capsys.readouterr()
        assert ended == status, said.out + said.err
        self.errors = said.err
        return said.out

    async def json(self, *arguments: str, status: int = 0) -> Any:
        """The document that a command prints."""
        return json.loads(await self(*arguments, "--json", status=status))


async def test_a_watch_is_told_with_cursor_lag_reader_and_what_vcenter_has_beyond(
    watched: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Commands(watched, tmp_path, capsys)
    host = watched.hosts[0]
    async with watched.workers(rules()):
        await watched.start()
        await watched.begun()
        await watched.post(HostAdded, host)
        [key] = await until(lambda: watched.keys(host), bool)
        await until(watched.status, lambda status: status.counters.started == 1)

        async def caught_up() -> Any:
            [one] = await command.json("watch", "status", "--live")
            return one

        # The command itself logs in and out, which are events, too.
        one = await until(caught_up, lambda one: one["cursor"]["key"] >= key and one["reader"] is not None)
        assert (one["vcenter"], one["state"], one["trouble"]) == (watched.vcenter, "following", "")
        assert one["reader"]["running"] is True
        assert one["newest"]["key"] >= one["cursor"]["key"]
        assert one["behind_events"] == one["newest"]["key"] - one["cursor"]["key"]
        assert one["status"]["counters"]["started"] == 1
        text = await command("watch", "status", "--live", "--vcenter", watched.vcenter)
        assert f"{watched.vcenter}: following" in text
        for words in ("cursor\t", "behind vCenter\t", "lag\t", "handed over\t1 runs started", "reader\tround "):
            assert words in text
        assert (await command.json("watch", "status"))[0]["newest"] is None


async def test_throttled_rules_are_told_with_what_waits_and_why(
    watched: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Commands(watched, tmp_path, capsys)
    document = rules()
    document["rules"][0] |= {"max_concurrent": 1, "group_by": "vcenter"}
    async with watched.workers(document):
        await watched.start()
        await watched.begun()
        await watched.post(HostAdded, *watched.hosts[:3])

        async def throttles() -> Any:
            [one] = await command.json("watch", "status")
            return one["status"]["throttles"]

        [told] = await until(throttles, lambda throttles: bool(throttles) and throttles[0]["waiting"] == 2, 60)
        assert (told["rule"], told["counters"]["started"], told["next_at"]) == ("prepare", 1, None)
        text = await command("watch", "status")
        assert "throttled rule\twaiting\tstarted\tjoined\tsuppressed\tnext start" in text
        row = f"prepare (at most 1 open a vcenter)\t2\t1\t0\t0 (0 events)\t{watched.vcenter}: 1 of 1 runs are open"
        assert row in text


async def test_missing_silent_and_troubled_watches_are_told_by_the_exit_status(
    watched: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = Commands(watched, tmp_path, capsys, "nobody-watches")
    async with watched.workers(rules(), only="workflows"):
        async with watched.workers(rules(), only="listen"):
            await watched.start()
            await watched.begun()
            one, missing = await command.json("watch", "status", status=2)
            assert (one["state"], missing["state"]) == ("following", "missing")
            assert "gpuwright serve" in missing["trouble"]
            assert "nobody-watches: missing" in await command("watch", "status", status=2)
            assert "watch: following" in (await command("watch", "status", "--vcenter", watched.vcenter)).replace(
                watched.vcenter, "watch"
            )
            await command("watch", "status", "--vcenter", "vc-wrong", status=1)
            assert watched.vcenter in command.errors

        async def unread() -> Any:
            return (await command.json("watch", "status", status=2))[0]

        # Nobody reads, although the workflow answers.
        one = await until(unread, lambda one: one["state"] == "in trouble", 60)
        assert "no worker reads its events" in one["trouble"]
    monkeypatch.setattr(watch, "PATIENCE", timedelta(seconds=1))
    one, _ = await command.json("watch", "status", status=2)
    assert one["state"] == "silent"
    assert one["status"] is None
    assert "is `gpuwright serve` running?" in one["trouble"]
    await command("events", "quarantine", "--vcenter", watched.vcenter, status=1)
    assert f"the watch of {watched.vcenter} does not answer" in command.errors


async def test_a_stopped_watch_is_missing(watched: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = Commands(watched, tmp_path, capsys)
    async with watched.workers(rules()):
        await watched.start()
        await watched.begun()
        await watched.watch.signal(names.STOP)
        await watched.watch.result()
        assert (await command.json("watch", "status", status=2))[0]["state"] == "missing"


async def test_a_removed_vcenter_is_told_with_how_far_it_was_followed(
    watched: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    removed = ("--vcenter", watched.vcenter)
    command = Commands(watched, tmp_path, capsys)
    without = Commands(watched, tmp_path / "without", capsys)
    without.configure("vc-another")
    async with watched.workers(rules()):
        await watched.start()
        await watched.begun()
        # No service has read the configuration without it yet.
        [one] = await without.json("watch", "status", *removed, status=2)
        assert (one["state"], one["configured"]) == ("in trouble", False)
        assert f"--workflow-id watch/{watched.vcenter} --name stop" in one["trouble"]
        await watched.watch.signal(names.STOP)
        ended = await watched.watch.result()
        [one] = await without.json("watch", "status", *removed)
        assert (one["state"], one["configured"], one["trouble"]) == ("removed", False, "")
        assert one["cursor"]["key"] == ended.cursor.key
        told = await without("watch", "status", *removed)
        assert f"{watched.vcenter}: removed from the configuration; its watch ended" in told
        # Where it is configured, it is missed.
        assert (await command.json("watch", "status", *removed, status=2))[0]["state"] == "missing"


async def test_quarantined_events_are_listed_and_handed_over_after_all(
    watched: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Commands(watched, tmp_path, capsys)
    host = watched.hosts[0]
    # A profile's VM cannot be named after this host, until the rules are mended.
    async with watched.workers(rules(), only="workflows"), watched.redriver(rules()):
        async with watched.workers(rules(), only="listen"):
            await watched.start()
            await watched.begun()
            assert await command("events", "quarantine") == "No event is quarantined.\n"
            assert await command("events", "redrive", watched.vcenter, "--all") == "No event is quarantined.\n"
            await watched.post_about(HostAdded, vim.HostSystem("host-9999"), "esx-gone")
            await watched.post_about(HostAdded, vim.HostSystem("host-9998"), "esx-gone-too")
            await until(watched.status, lambda status: len(status.quarantined) == 2)
        first, second = await command.json("events", "quarantine")
        assert (first["vcenter"], first["type_name"]) == (watched.vcenter, "HostAddedEvent")
        assert "esx-gone (host-9999) is not in the inventory" in first["reason"]
        listed = await command("events", "quarantine", "--raw")
        assert f"{watched.vcenter}\t{first['key']}\tHostAddedEvent\t" in listed
        assert f"\n{second['key']}: " in listed

        await command("events", "redrive", watched.vcenter, "4711", status=1)
        assert f"no quarantined event 4711; it has: {first['key']}, {second['key']}" in " ".join(command.errors.split())
        await command("events", "redrive", watched.vcenter, status=1)
        assert "--all" in command.errors
        await command("events", "redrive", "vc-nobody", "--all", status=1)
        assert "nobody watches vCenter 'vc-nobody'" in command.errors
        told = await command("events", "redrive", watched.vcenter, str(first["key"]), status=2)
        assert f"{first['key']}\tHostAddedEvent\tkept\tesx-gone (host-9999) is not in the inventory" in told
    # Rules that want nothing of such events any more settle them.
    other = {"rules": [rules()["rules"][0] | {"on": ["HostRemovedEvent"]}], "profiles": rules()["profiles"]}
    async with watched.workers(rules(), only="workflows"), watched.redriver(other):
        result = await command.json("events", "redrive", watched.vcenter, "--all")
        assert [(each["key"], each["text"]) for each in result["events"]] == [
            (first["key"], "no rule is for it"),
            (second["key"], "no rule is for it"),
        ]
        assert await command.json("events", "quarantine") == []
    assert not await watched.exists(host)
