"""A worker may die at any activity boundary: the end is the same, with exactly one reboot."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pyVmomi import vim
from temporalio.client import Client

from contracts.names import TaskQueues
from contracts.prepare import Outcome
from tests.support.lab import KEY, Lab, vcenter_settings
from tests.support.simulator import SimulatorProcess
from vsphere.sessions import SessionPool
from workers.temporal_server import DevServer

# Every activity of a whole passthrough preparation, in order; the test checks that the list is still true.
ACTIVITIES = [
    "look_and_plan_host",
    "look_and_plan_host",
    "request_lease",
    "look_and_plan_host",
    "enter_maintenance",
    "await_task",
    "look_and_plan_host",
    "enable_passthrough",
    "look_and_plan_host",
    "reboot",
    "await_task",
    "await_host_back",
    "look_and_plan_host",
    "exit_maintenance",
    "await_task",
    "look_and_plan_host",
]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def vcenter() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(clusters=1, hosts=1, gpus=1, vms=0, time_scale=120) as simulator:
        yield simulator


@pytest.mark.timeout(300)
async def test_killed_at_each_activity_boundary_the_run_ends_the_same_with_one_reboot(
    vcenter: SimulatorProcess, temporal_server: DevServer, temporal_client: Client, tmp_path: Path
) -> None:
    settings = vcenter_settings(vcenter, tmp_path, name="kills")
    deaths = [
        {"queue": f"death-{at}-{when}", "at": at, "when": when}
        for at in range(len(ACTIVITIES))
        for when in ("before", "after")
    ]
    order = {
        "address": temporal_server.address,
        "vcenter": settings.model_dump(mode="json", exclude_none=True),
        "public_key": KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        "deaths": deaths,
    }
    with SessionPool(settings) as pool, dying_workers(order) as process:
        ends = await asyncio.gather(
            *(one_run(Lab(vcenter, temporal_client, TaskQueues(str(death["queue"])), pool)) for death in deaths)
        )
        died = set(await asyncio.to_thread(stop, process))
    assert died == {death["queue"] for death in deaths}, "each worker died where it was told to"
    for death, problems in zip(deaths, ends, strict=True):
        assert not problems, f"killed {death['when']} {ACTIVITIES[int(death['at'])]} ({death['at']}): {problems}"


async def one_run(lab: Lab) -> list[str]:
    """Prepare one host while its worker dies once; what is not as it should be."""
    host = await asyncio.to_thread(lab.add_host)
    handle = await lab.start(host)
    approval = await lab.asked(handle, timeout_s=120)
    await lab.decide(handle, approval)
    report = await asyncio.wait_for(handle.result(), 240)
    seen = await asyncio.to_thread(lab.witness, host)
    reboots = await asyncio.to_thread(lab.reboots, host)
    entered = await asyncio.to_thread(lab.vcenter_events, host, vim.event.EnteredMaintenanceModeEvent)
    ran = [
        event.activity_task_scheduled_event_attributes.activity_type.name
        async for event in handle.fetch_history_events()
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    facts = {
        "prepared": report.outcome is Outcome.PREPARED,
        "passthrough active": bool(seen["active"]),
        "label": seen["label"] == "Training",
        "out of maintenance": not seen["maintenance"],
        f"one reboot, not {reboots}": reboots == 1,
        f"maintenance entered once, not {len(entered)} times": len(entered) == 1,
        f"the activities are {ran}": set(ran) == set(ACTIVITIES) and len(ran) >= len(ACTIVITIES) - 3,
    }
    return [fact for fact, holds in facts.items() if not holds]


class dying_workers:
    """The process of `tests.support.dying_workers`, stopped by closing its standard input."""

    def __init__(self, order: dict[str, object]) -> None:
        self.order = order

    def __enter__(self) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.dying_workers"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin
        self.process.stdin.write(json.dumps(self.order) + "\n")
        self.process.stdin.flush()
        return self.process

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            stop(self.process)


def stop(process: subprocess.Popen[str]) -> list[str]:
    """End the workers; the queues whose first worker died."""
    assert process.stdin
    assert process.stdout
    process.stdin.close()
    died = process.stdout.read().split()
    process.stdout.close()
    process.wait(30)
    return died
