"""`gpuwright simulator` as a user runs it."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from pyVmomi import vim, vmodl

from tests.support.binaries import gpuwright
from tests.support.simulator import ControlError, SimulatorProcess

PC = vmodl.query.PropertyCollector
SECRET = "a-secret-for-tests"
ROOT = Path(__file__).parents[2]


def run(*options: str, password: str = SECRET) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"GPUWRIGHT_SIMULATOR_PASSWORD": password, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        [str(gpuwright()), "simulator", *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--listen", "here"], "ADDRESS:PORT"),
        (["--listen", "127.0.0.1:99999"], "ADDRESS:PORT"),
        (["--time-scale", "0"], "not positive"),
        (["--api-version", "eight"], "eight"),
        (["--api-version", "1.0"], "use one of"),
        (["--hosts", "-1"], "--hosts"),
        (["--listen", "127.0.0.1:0", "--hosts", "0", "--vms", "3"], "host"),
    ],
)
def test_a_wrong_option_is_named(options: list[str], words: str) -> None:
    done = run(*options)
    assert done.returncode == 64
    assert words in done.stderr
    assert done.stdout == ""


def test_an_empty_password_is_refused_with_how_to_give_one() -> None:
    done = run("--listen", "127.0.0.1:0", "--password", "")
    assert done.returncode == 64
    assert "GPUWRIGHT_SIMULATOR_PASSWORD" in done.stderr


def test_a_port_in_use_is_said(simulator: SimulatorProcess) -> None:
    done = run("--listen", f"127.0.0.1:{simulator.port}")
    assert done.returncode == 1
    assert "cannot serve on" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_prints_one_line_and_ends_cleanly_while_a_client_waits(number: signal.Signals) -> None:
    simulator = SimulatorProcess(hosts=1, gpus=1, vms=1)
    with simulator:
        client = simulator.connect()
        collector = client.content.propertyCollector
        host = PC.ObjectSpec(obj=client.content.rootFolder)
        names = PC.PropertySpec(type=vim.Folder, pathSet=["name"])
        collector.CreateFilter(PC.FilterSpec(objectSet=[host], propSet=[names]), True)
        version = collector.WaitForUpdatesEx("", None).version
        ended: list[BaseException] = []

        def wait() -> None:
            try:
                collector.WaitForUpdatesEx(version, PC.WaitOptions(maxWaitSeconds=60))
            except (OSError, http.client.HTTPException, vmodl.MethodFault) as error:
                ended.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.3)
        assert simulator.server is not None
        assert simulator.server.stop(number, timeout_s=10) == 0
        assert simulator.server.output() == simulator.url + "\n"
        waiting.join(timeout=10)
        assert len(ended) == 1
        client._stub.DropConnections()
        assert "Traceback" not in simulator.log()


def test_the_control_api_acts_on_the_whole_world(simulator: SimulatorProcess) -> None:
    moid = simulator.act("add_host", cluster="gpu-02", name="esx-02-99.gpu.test")
    client = simulator.connect()
    found = client.content.searchIndex.FindByDnsName(dnsName="esx-02-99.gpu.test", vmSearch=False)
    assert found._moId == moid
    with pytest.raises(ControlError, match="422"):
        simulator.act("add_host", cluster="gpu-99", name="x")
    simulator.disconnect(client)


def test_it_carries_2500_hosts_and_40000_vms() -> None:
    with SimulatorProcess(clusters=50, hosts=50, gpus=4, vms=40_000) as simulator:
        client = simulator.connect()
        content = client.content
        view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
        paths = "".join(f"<pathSet>{path}</pathSet>" for path in ("name", "runtime.powerState", "runtime.host"))
        request = (
            '<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/" '
            'xmlns:i="http://www.w3.org/2001/XMLSchema-instance"><e:Body><RetrievePropertiesEx xmlns="urn:vim25">'
            '<_this type="PropertyCollector">propertyCollector</_this><specSet>'
            f"<propSet><type>VirtualMachine</type>{paths}</propSet>"
            f'<objectSet><obj type="ContainerView">{view._moId}</obj><skip>true</skip>'
            '<selectSet i:type="TraversalSpec"><type>ContainerView</type><path>view</path><skip>false</skip>'
            "</selectSet></objectSet></specSet><options/></RetrievePropertiesEx></e:Body></e:Envelope>"
        )
        connection = http.client.HTTPSConnection(simulator.host, simulator.port, context=simulator.ssl_context())
        began = time.monotonic()
        connection.request("POST", "/sdk", request, {"SOAPAction": "urn:vim25/8.0.2.0", "Cookie": client._stub.cookie})
        answer = connection.getresponse().read()
        took_s = time.monotonic() - began
        connection.close()
        assert answer.count(b"<objects>") == 40_000
        assert took_s < 20, took_s  # about 1.5 s on an idle machine
        simulator.disconnect(client)
