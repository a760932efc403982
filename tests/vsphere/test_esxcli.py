"""esxcli through vCenter, on both worlds and on answers as vCenter words them."""

import pytest
from pyVmomi import vim

from contracts.errors import BadRequest, Busy, NeedsHuman, NotSupported, Unreachable
from contracts.host import HostRef
from tests.support.simulator import SimulatorProcess
from vsphere.esxcli import _fault, parse_response, run
from vsphere.inventory import find_host


def test_packages_are_listed(si: vim.ServiceInstance, host: HostRef) -> None:
    rows = run(si, host, ["software", "vib", "list"])
    assert rows
    assert all(row["Name"] and row["Version"] for row in rows)


def test_a_command_that_is_not_there_is_not_supported(si: vim.ServiceInstance, host: HostRef) -> None:
    with pytest.raises(NotSupported, match="esxcli no such command on host"):
        run(si, host, ["no", "such", "command"])


def test_graphics_devices_and_settings_are_read(gpu_si: vim.ServiceInstance) -> None:
    host = find_host(gpu_si, "simulated", "esx-01-02.gpu.test")
    assert [row["Address"] for row in run(gpu_si, host, ["graphics", "device", "list"])] == [
        "0000:81:00.0",
        "0000:e2:00.0",
    ]
    (settings,) = run(gpu_si, host, ["graphics", "host", "get"])
    assert settings["DefaultGraphicsType"] == "Shared"


def test_arguments_arrive_and_a_refusal_keeps_its_words(gpu_si: vim.ServiceInstance) -> None:
    host = find_host(gpu_si, "simulated", "esx-01-02.gpu.test")
    with pytest.raises(NeedsHuman, match="No VIB matching VIB search specification 'a<b&c'"):
        run(gpu_si, host, ["software", "vib", "get"], {"vibname": "a<b&c"})


def test_a_read_whose_answer_is_lost_is_asked_again_and_a_change_is_not(
    simulator: SimulatorProcess, gpu_si: vim.ServiceInstance
) -> None:
    host = find_host(gpu_si, "simulated", "esx-01-02.gpu.test")
    try:
        simulator.add_fault(method="ExecuteSoap", drop="after", times=1)
        assert run(gpu_si, host, ["software", "vib", "list"])
        simulator.add_fault(method="ExecuteSoap", drop="after", times=1)
        with pytest.raises(Unreachable, match="unknown whether it was carried out"):
            run(gpu_si, host, ["software", "vib", "remove"], {"vibname": "absent"})
    finally:
        simulator.clear_faults()


_XSI = 'xmlns="urn:vim25" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'


@pytest.mark.parametrize(
    ("response", "rows"),
    [
        (None, []),
        ("", []),
        (f'<obj {_XSI} xsi:type="xsd:boolean">true</obj>', [{"value": "true"}]),
        (f"<obj {_XSI}><Name>noIOMMU</Name><Runtime>FALSE</Runtime></obj>", [{"Name": "noIOMMU", "Runtime": "FALSE"}]),
        (
            f"<obj {_XSI}><DataObject><Name>a</Name><Tags><string>x</string><string>y</string></Tags></DataObject>"
            "<DataObject><Name>b</Name><Tag>1</Tag><Tag>2</Tag></DataObject></obj>",
            [{"Name": "a", "Tags": "x, y"}, {"Name": "b", "Tag": "1, 2"}],
        ),
        (f"<obj {_XSI}><string>one</string><string>two</string></obj>", [{"value": "one"}, {"value": "two"}]),
    ],
)
def test_answers_become_rows(response: str | None, rows: list[dict[str, str]]) -> None:
    assert parse_response("esxcli", response) == rows


def test_an_answer_that_is_no_xml_is_told() -> None:
    with pytest.raises(Unreachable, match="esxcli x: the answer cannot be read"):
        parse_response("esxcli x", "<obj>")


def test_faults_keep_message_and_detail() -> None:
    fault = _fault("esxcli x", "EsxCLI.CLIFault.summary", "<f><errMsg>Device is busy</errMsg></f>")
    assert isinstance(fault, NeedsHuman)
    assert str(fault) == "esxcli x: EsxCLI.CLIFault.summary Device is busy"
    assert isinstance(_fault("esxcli x", "vmodl.fault.InvalidArgument", ""), BadRequest)
    # Another installer is at work, perhaps the one that a lost call has begun: trying again helps.
    locked = "<f><errMsg>[LockingError] Another process is updating the host image.</errMsg></f>"
    assert isinstance(_fault("esxcli x", "EsxCLI.CLIFault.summary", locked), Busy)
