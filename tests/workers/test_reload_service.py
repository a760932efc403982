"""vCenters that come, go and change while the service runs, by its settings file; the service is a process."""

from __future__ import annotations

import asyncio
import shutil
import socket
import urllib.request
from pathlib import Path
from typing import Any

from pyVmomi import vim
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from contracts import ids
from tests.listeners.conftest import until
from tests.listeners.posting import PostingVcsim
from tests.listeners.proxy import proxy_to
from tests.workers.conftest import PATIENCE_S, Service, alive, dead, new_name
from workers.settings import TemporalSettings


async def has_schedule(client: Client, vcenter: str) -> bool:
    try:
        await client.get_schedule_handle(ids.reconcile_fleet(vcenter)).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True


def sessions(vcsim: PostingVcsim) -> int:
    return len(vcsim.si.content.sessionManager.sessionList)


async def test_vcenters_come_and_go_without_a_restart(service: Service, vcsim: PostingVcsim) -> None:
    stays, comes = new_name(), new_name()
    before = sessions(vcsim)
    async with service.running(service.write(dead(stays))):
        first_run = (await service.watch(stays).describe()).run_id

        service.write(dead(stays), alive(vcsim, comes))
        service.hang_up()
        read = await service.logged("configuration read", added=[comes])
        assert (read["removed"], read["changed"]) == ([], [])
        await service.logged("vCenter listened to", vcenter=comes)
        await service.followed(comes)
        assert await has_schedule(service.client, comes)

        service.write(dead(stays))
        service.hang_up()
        await service.logged("vCenter removed", vcenter=comes)
        ended = await asyncio.wait_for(service.watch(comes).result(), PATIENCE_S)
        assert ended.cursor is not None
        assert not await has_schedule(service.client, comes)

        async def left() -> int:
            return await asyncio.to_thread(sessions, vcsim)

        await until(left, lambda number: number == before, PATIENCE_S)
        described = await service.watch(stays).describe()
        assert (described.run_id, described.status) == (first_run, WorkflowExecutionStatus.RUNNING)


async def test_a_changed_vcenter_keeps_its_watch_and_cursor(service: Service, vcsim: PostingVcsim) -> None:
    name, host = new_name(), vcsim.hosts()[0]
    async with service.running(service.write(dead(name))):
        first_run = (await service.watch(name).describe()).run_id
        # Its address is corrected.
        service.write(alive(vcsim, name))
        service.hang_up()
        await service.logged("configuration read", changed=[name])
        followed = await service.followed(name)
        # Events from the moment in which nobody reads are read afterwards.
        service.write(alive(vcsim, name, max_sessions=2))
        service.hang_up()
        await asyncio.to_thread(vcsim.post, vim.event.HostAddedEvent, host)
        await until(lambda: service.prepares(name, host), bool, PATIENCE_S)
        status = await until(lambda: service.status(name), lambda s: s.round > followed.round, PATIENCE_S)
        assert status.gaps == ()
        assert (await service.watch(name).describe()).run_id == first_run


async def test_a_certificate_that_is_replaced_under_its_name_is_trusted(
    service: Service, vcsim: PostingVcsim, tmp_path: Path
) -> None:
    name, pinned = new_name(), tmp_path / "pinned.pem"
    with PostingVcsim() as other:
        pinned.write_text(other.cert.read_text())
    settings = alive(vcsim, name) | {"server_cert_file": str(pinned)}
    async with service.running(service.write(settings)):
        await until(lambda: service.status(name), lambda s: "certificate" in s.trouble, PATIENCE_S)
        pinned.write_text(vcsim.cert.read_text())
        # Noticed without being told, and the watch does not wait until its pause after the error is over.
        await service.logged("configuration read", changed=[name])
        await service.followed(name)


async def test_a_wrong_file_is_refused_and_the_mended_one_taken_without_being_told(
    service: Service, tmp_path: Path
) -> None:
    """The file is reached by symbolic links, as Kubernetes mounts ConfigMaps."""
    stays, comes = new_name(), new_name()
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        metrics = f"127.0.0.1:{held.getsockname()[1]}"
    sections: dict[str, Any] = {"metrics": {"listen": metrics}}
    mounted = tmp_path / "mounted"
    mounted.mkdir()

    def swap(version: int, *vcenters: dict[str, Any], **more: Any) -> None:
        composed = service.write(*vcenters, **sections, **more).parent
        folder = mounted / f"..{version}"
        shutil.copytree(composed, folder, ignore=lambda _, names: {"mounted"} & set(names))
        (mounted / "..data_tmp").symlink_to(folder.name)
        (mounted / "..data_tmp").replace(mounted / "..data")
        if version > 1:
            shutil.rmtree(mounted / f"..{version - 1}")

    async def refused() -> list[str]:
        def read() -> str:
            with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as answer:
                return str(answer.read().decode())

        lines = (await asyncio.to_thread(read)).splitlines()
        return [line.rpartition(" ")[2] for line in lines if line.startswith("gpuwright_configuration_refused")]

    swap(1, dead(stays))
    for name in ("gpuwright.yaml", "rules.yaml", "alice.pub", "password"):
        (mounted / name).symlink_to(f"..data/{name}")
    async with service.running(mounted / "gpuwright.yaml"):
        assert await refused() == ["0"]
        swap(2, dead(stays), dead(comes) | {"colour": "blue"})
        told = await service.logged("configuration refused, the one before stays in force")
        assert "vcenters[1].colour: is not a known key" in told["error"]
        assert f"{mounted / 'gpuwright.yaml'}:" in told["error"]
        assert await refused() == ["1"]
        swap(3, dead(stays), dead(comes), gate={"hosts_down": 2})
        read = await service.logged("configuration read", added=[comes])
        assert read["changed"] == []
        await service.logged("vCenter listened to", vcenter=comes)
        await service.logged("configuration is right again")
        needs = await service.logged("changed settings need a restart")
        assert needs["keys"] == ["gate.hosts_down"]
        assert await refused() == ["0"]


async def test_what_temporal_does_not_take_now_is_done_when_it_is_back(
    temporal_client: Client, temporal_settings: TemporalSettings, tmp_path: Path
) -> None:
    stays, goes, comes = new_name(), new_name(), new_name()
    async with proxy_to(int(temporal_settings.address.rpartition(":")[2])) as proxy:
        temporal = {"address": f"127.0.0.1:{proxy.port}", "task_queue": temporal_settings.task_queue}
        service = Service(temporal_client, temporal, tmp_path)
        async with service.running(service.write(dead(stays), dead(goes))):
            await proxy.down()
            service.write(dead(stays), dead(comes))
            service.hang_up()
            assert "next_attempt_in_s" in await service.logged("vCenter not listened to yet", vcenter=comes)
            await service.logged("vCenter not removed yet", vcenter=goes)
            await proxy.up()
            await service.logged("vCenter listened to", vcenter=comes)
            await service.logged("vCenter removed", vcenter=goes)
            watch = await service.watch(comes).describe()
            assert watch.status is WorkflowExecutionStatus.RUNNING
            await asyncio.wait_for(service.watch(goes).result(), PATIENCE_S)
    for name in (stays, comes):
        await service.watch(name).terminate()


async def test_services_may_learn_of_a_change_one_after_the_other(
    service: Service, vcsim: PostingVcsim, tmp_path: Path
) -> None:
    stays, comes = new_name(), new_name()
    late = Service(service.client, service.temporal, tmp_path / "late")
    without, both = [dead(stays)], [dead(stays), alive(vcsim, comes)]
    async with service.running(service.write(*without)), late.running(late.write(*without)):
        service.write(*both)
        service.hang_up()
        await service.logged("vCenter listened to", vcenter=comes)
        await service.followed(comes)
        assert await service.reader_of(comes) == service.process.pid
        first_run = (await service.watch(comes).describe()).run_id
        late.write(*both)
        late.hang_up()
        await late.logged("vCenter listened to", vcenter=comes)
        described = await service.watch(comes).describe()
        assert (described.run_id, described.status) == (first_run, WorkflowExecutionStatus.RUNNING)

        service.write(*without)
        service.hang_up()
        await service.logged("vCenter removed", vcenter=comes)
        await asyncio.wait_for(service.watch(comes).result(), PATIENCE_S)
        late.write(*without)
        late.hang_up()
        await late.logged("vCenter removed", vcenter=comes)
        assert (await service.watch(comes).describe()).status is WorkflowExecutionStatus.COMPLETED
        assert not await has_schedule(service.client, comes)

        for each in (service, late):
            each.write(*both)
            each.hang_up()
        await until(lambda: service.reader_of(comes), bool, PATIENCE_S)
        assert (await service.watch(comes).describe()).run_id != first_run
        for each in (service, late):
            lines = await asyncio.to_thread(each.process.logged)
            assert not [line for line in lines if line["event"].endswith("yet")]
