"""The BIOS chain with sushy-tools' emulator as the BMC: a Redfish that is not ours, with manners of its own.

It shows a change of BIOS settings at once, before any boot, sends no ETag and offers no apply time. The simulated host
does not know it: the tests play the hardware, which boots with what the emulator was told.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from temporalio.client import Client

from contracts.host import HostRef
from contracts.names import TaskQueues
from contracts.prepare import Outcome, PrepareGpuHostReport, Stage
from tests.support.lab import Lab, open_lab
from tests.support.simulator import SimulatorProcess
from tests.support.sushy import SushyProcess

OFF = {"ProcVirtualization": "Disabled", "SriovGlobalEnable": "Enabled", "MmioAbove4Gb": "Disabled"}
ON = OFF | {"ProcVirtualization": "Enabled", "MmioAbove4Gb": "Enabled"}


@pytest.fixture(scope="module")
def bmcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SushyProcess]:
    """One address with several systems; each test has one of its own."""
    with SushyProcess(tmp_path_factory.mktemp("sushy"), [OFF, OFF, OFF, {"VTDSupport": "Off"}, None]) as emulator:
        yield emulator


@asynccontextmanager
async def lab_with(
    bmc: SushyProcess, simulator: SimulatorProcess, client: Client, queues: TaskQueues, folder: Path, **changes: Any
) -> AsyncIterator[Lab]:
    async with open_lab(simulator, client, queues, folder, bmcs=(bmc.settings(**changes),)) as lab:
        yield lab


async def until(holds: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not await asyncio.to_thread(holds):
        assert asyncio.get_running_loop().time() < deadline, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.05)


async def boot_with_what_was_ordered(lab: Lab, bmc: SushyProcess, host: HostRef, key: str) -> None:
    """Play the hardware of a host that hangs in its reboot: it comes up with the emulator's BIOS settings."""
    await until(lambda: lab.reboots(host) == 1, "the run reboots the host")
    await until(lambda: lab.witness(host)["connection"] == "notResponding", "the host goes down")
    lab.simulator.act("set_bios", host=host.name, attributes=bmc.attributes(key))
    lab.simulator.act("restore_host", host=host.name)


def says(*words: str) -> Callable[[PrepareGpuHostReport], bool]:
    """The run waits, and its words hold all of these."""
    return lambda report: report.stage is Stage.BLOCKED and all(word in report.detail for word in words)


def kinds(report: PrepareGpuHostReport) -> list[str]:
    return [record.step.kind for record in report.steps]


async def test_the_emulators_bios_is_read_changed_with_approval_and_booted(
    bmcs: SushyProcess, fast_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    key, neighbour = bmcs.uuids[0], bmcs.uuids[1]
    async with lab_with(bmcs, fast_vcenter, temporal_client, queues, tmp_path) as lab:
        host = lab.add_host(uuid=key, bios_iommu=False, rebind_without_reboot=True)
        lab.simulator.act("hang_reboot", host=host.name)
        handle = await lab.start(host)
        approval = await lab.asked(handle)
        assert [step.kind for step in approval.plan.steps][:3] == ["enter-maintenance", "set-bios", "reboot"]
        assert "iommu, above-4g" in approval.plan.steps[1].reason
        report = await lab.until(handle, lambda report: True)
        assert "the BMC says that it is off in the BIOS" in report.iommu
        assert (bmcs.attributes(key), bmcs.orders(key)) == (OFF, 0), "nothing is ordered before somebody approves"
        await lab.decide(handle, approval)
        await boot_with_what_was_ordered(lab, bmcs, host, key)
        done = await handle.result()
        assert done.outcome is Outcome.PREPARED
        assert kinds(done)[:4] == ["enter-maintenance", "set-bios", "reboot", "enable-passthrough"]
        assert kinds(done)[-1] == "exit-maintenance"
        assert len(done.approvals) == 1, "one approval covers the order and the boot that brings it"
        assert (bmcs.attributes(key), bmcs.orders(key)) == (ON, 1)
        assert (bmcs.attributes(neighbour), bmcs.orders(neighbour)) == (OFF, 0), "another system behind the address"
        assert lab.witness(host)["active"]
        assert not lab.witness(host)["maintenance"]


async def test_hardware_that_does_not_follow_its_bmc_is_told_and_not_rebooted_again(
    bmcs: SushyProcess, fast_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    async with lab_with(bmcs, fast_vcenter, temporal_client, queues, tmp_path) as lab:
        host = lab.add_host(uuid=bmcs.uuids[1], bios_iommu=False)
        handle = await lab.start(host)
        await lab.decide(handle, await lab.asked(handle))
        report = await lab.until(handle, says("IOMMU is off", "the BMC says that it is on in the BIOS"))
        assert kinds(report) == ["enter-maintenance", "set-bios", "reboot"]
        assert "power the host off and on" in report.detail
        lab.simulator.act("set_iommu", host=host.name, on=True, bios=True)
        report = await lab.until(handle, lambda report: len(report.steps) > 3)
        assert kinds(report)[3] == "enable-passthrough"
        await handle.cancel()


async def test_a_wrong_password_and_a_wrong_certificate_are_waited_for_by_name(
    bmcs: SushyProcess, fast_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    password, authorities = tmp_path / "bmc-password", tmp_path / "bmc-ca.pem"
    password.write_text("wrong")
    trustme.CA().cert_pem.write_to_path(str(authorities))
    trust = {"password_file": password, "ca_file": authorities}
    async with lab_with(bmcs, fast_vcenter, temporal_client, queues, tmp_path, **trust) as lab:
        host = lab.add_host(uuid=bmcs.uuids[2], bios_iommu=False)
        handle = await lab.start(host)
        await lab.until(handle, says("the BMC could not be asked", f"BMC of {host.name}", "certificate is not trusted"))
        authorities.write_bytes(bmcs.ca_file.read_bytes())
        await lab.until(handle, says("the BMC could not be asked", f"user {bmcs.user}", str(password), "is refused"))
        password.write_bytes(bmcs.password_file.read_bytes())
        approval = await lab.asked(handle)
        assert "set-bios" in [step.kind for step in approval.plan.steps]
        assert bmcs.orders(bmcs.uuids[2]) == 0
        await handle.cancel()


async def test_a_bmc_that_goes_away_after_the_approval_is_waited_for(
    fast_vcenter: SimulatorProcess, temporal_client: Client, queues: TaskQueues, tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    with SushyProcess(tmp_path / "own", [OFF]) as bmc:
        async with lab_with(bmc, fast_vcenter, temporal_client, queues, tmp_path) as lab:
            host = lab.add_host(uuid=bmc.uuids[0], bios_iommu=False, rebind_without_reboot=True)
            lab.simulator.act("hang_reboot", host=host.name)
            handle = await lab.start(host)
            approval = await lab.asked(handle)
            bmc.stop()
            await lab.decide(handle, approval)
            away = await lab.until(handle, says("the BMC could not be asked", f"BMC of {host.name}"))
            assert "set-bios" not in kinds(away)
            bmc.start()
            await boot_with_what_was_ordered(lab, bmc, host, bmc.uuids[0])
            done = await handle.result()
            assert done.outcome is Outcome.PREPARED
            assert len(done.approvals) == 1
            assert bmc.orders(bmc.uuids[0]) == 1


@pytest.mark.parametrize(
    ("system", "words"),
    [(3, "the BMC names no BIOS switch for it"), (4, "shows no BIOS through Redfish")],
    ids=["unknown-attributes", "no-bios"],
)
async def test_a_bios_that_the_bmc_does_not_explain_is_left_to_a_person(
    bmcs: SushyProcess,
    fast_vcenter: SimulatorProcess,
    temporal_client: Client,
    queues: TaskQueues,
    tmp_path: Path,
    system: int,
    words: str,
) -> None:
    async with lab_with(bmcs, fast_vcenter, temporal_client, queues, tmp_path) as lab:
        host = lab.add_host(uuid=bmcs.uuids[system], bios_iommu=False)
        handle = await lab.start(host)
        report = await lab.until(handle, says("IOMMU is off", words, "switch on Intel VT-d"))
        assert report.plan
        assert "set-bios" not in [step.kind for step in report.plan.steps]
        lab.simulator.act("set_iommu", host=host.name, on=True, bios=True)
        approval = await lab.asked(handle)
        assert "set-bios" not in [step.kind for step in approval.plan.steps]
        assert bmcs.orders(bmcs.uuids[system]) == 0
        await handle.cancel()
