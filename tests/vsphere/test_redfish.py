"""BIOS attributes of the vendors, and Redfish against sushy-tools' emulator, which is not ours."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
import trustme
from pydantic import ValidationError

from contracts.errors import BadRequest, NeedsHuman, NotSupported, Unreachable
from tests.support.sushy import SushyProcess
from vsphere.redfish import BiosFeature, Bmc, features_of, wanted_attributes
from vsphere.settings import BmcSettings, bmc_for

IOMMU, SRIOV, ABOVE_4G = BiosFeature.IOMMU, BiosFeature.SRIOV, BiosFeature.ABOVE_4G
HOST_UUID = "27946b59-9e44-4fa7-8e91-f3527a1ef094"
BIOS = {"ProcVtd": "Disabled", "SriovGlobalEnable": "Enabled"}


@pytest.mark.parametrize(
    ("vendor", "off", "on"),
    [
        (
            "Dell",
            {"ProcVirtualization": "Enabled", "ProcVtd": "Disabled", "SriovGlobalEnable": "Disabled"},
            {"ProcVtd": "Enabled", "SriovGlobalEnable": "Enabled"},
        ),
        ("HPE", {"IntelProcVtd": "Disabled", "Sriov": "Enabled"}, {"IntelProcVtd": "Enabled"}),
        (
            "Lenovo",
            {"DevicesandIOPorts_IntelVTforDirectedIO": "Disable", "DevicesandIOPorts_SRIOV": "Disable"},
            {"DevicesandIOPorts_IntelVTforDirectedIO": "Enable", "DevicesandIOPorts_SRIOV": "Enable"},
        ),
        (
            "Supermicro",
            {"IntelVTforDirectedI_OVT_d": "Disable", "SR_IOVSupport": "Disabled"},
            {"IntelVTforDirectedI_OVT_d": "Enable", "SR_IOVSupport": "Enabled"},
        ),
    ],
)
def test_each_vendors_switches_are_turned_as_it_spells_them(
    vendor: str, off: dict[str, str], on: dict[str, str]
) -> None:
    assert features_of(off)[IOMMU] is False
    assert wanted_attributes(off, [IOMMU, SRIOV]) == on
    assert wanted_attributes(off | on, [IOMMU, SRIOV]) == {}
    assert features_of(off | on) == {IOMMU: True, SRIOV: True}


def test_what_a_bios_does_not_name_is_unknown() -> None:
    assert features_of({"BootMode": "Uefi", "IOMMU": "Auto"}) == {}
    with pytest.raises(NotSupported, match="no attribute known for above-4g"):
        wanted_attributes({"ProcVtd": "Enabled"}, [ABOVE_4G])


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SushyProcess]:
    with SushyProcess(tmp_path_factory.mktemp("sushy"), [BIOS, None, BIOS], loses=2) as started:
        yield started


@pytest.fixture
def uuid(emulator: SushyProcess) -> str:
    """The hardware UUID of a system with a BIOS, which is as it was at the start."""
    emulator.set_attributes(emulator.uuids[0], BIOS)
    return emulator.uuids[0]


@pytest.fixture
def bmc_settings(emulator: SushyProcess) -> BmcSettings:
    return emulator.settings(hosts=["gpu-*.test", HOST_UUID])


@pytest.fixture
def bmc(bmc_settings: BmcSettings, uuid: str) -> Bmc:
    return Bmc(bmc_settings, "gpu-01.test", uuid)


def test_the_bios_tells_what_is_off(bmc: Bmc) -> None:
    bios = bmc.bios()
    assert bios.features == {IOMMU: False, SRIOV: True}
    assert (bios.power_state, bios.pending) == ("On", {})


def test_a_feature_is_ordered_once(bmc: Bmc) -> None:
    assert bmc.enable(IOMMU, SRIOV) == {"ProcVtd": "Enabled"}
    assert bmc.enable(IOMMU, SRIOV) == {}
    assert bmc.bios().features[IOMMU]


def test_an_order_that_is_not_kept_is_told(emulator: SushyProcess, bmc_settings: BmcSettings) -> None:
    bmc = Bmc(bmc_settings, "gpu-01.test", emulator.uuids[2])
    with pytest.raises(NeedsHuman, match=r"accepted .*ProcVtd.* but then shows .*Disabled"):
        bmc.enable(IOMMU)


def test_a_system_without_a_bios_says_so(emulator: SushyProcess, bmc_settings: BmcSettings) -> None:
    with pytest.raises(NotSupported, match=r"gpu-02\.test .* shows no BIOS through Redfish"):
        Bmc(bmc_settings, "gpu-02.test", emulator.uuids[1]).bios()


def test_a_reset_turns_the_power_off_and_a_wrong_type_is_refused(emulator: SushyProcess, bmc: Bmc, uuid: str) -> None:
    with pytest.raises(NotSupported, match="not ColdBoot"):
        bmc.reset("ColdBoot")
    bmc.reset("ForceRestart")
    assert emulator.power_state(uuid) == "Off"


def test_another_system_behind_the_address_is_never_touched(emulator: SushyProcess, bmc_settings: BmcSettings) -> None:
    other = Bmc(bmc_settings, "gpu-02.test", "11111111-2222-3333-4444-555555555555")
    with pytest.raises(BadRequest, match=f"no system there has the UUID 1111.*it has .*{emulator.uuids[0]}"):
        other.enable(IOMMU)


def test_the_uuid_may_be_in_smbios_byte_order(bmc_settings: BmcSettings, uuid: str) -> None:
    swapped = UUID(bytes_le=UUID(uuid).bytes)
    assert Bmc(bmc_settings, "gpu-01.test", str(swapped)).bios().power_state in ("On", "Off")


def test_a_wrong_password_and_an_untrusted_certificate_are_named(
    bmc_settings: BmcSettings, uuid: str, tmp_path: Path
) -> None:
    (tmp_path / "wrong").write_text("wrong")
    refused = bmc_settings.model_copy(update={"password_file": tmp_path / "wrong"})
    with pytest.raises(BadRequest, match=r"user gpuwright with the password from file .*wrong is refused"):
        Bmc(refused, "gpu-01.test", uuid).bios()
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other-ca.pem"))
    untrusted = bmc_settings.model_copy(update={"ca_file": tmp_path / "other-ca.pem"})
    with pytest.raises(BadRequest, match=r"BMC of gpu-01.test .* certificate is not trusted"):
        Bmc(untrusted, "gpu-01.test", uuid).bios()


def test_a_bmc_that_does_not_answer_is_unreachable(bmc_settings: BmcSettings, uuid: str) -> None:
    silent = bmc_settings.model_copy(update={"url": "https://127.0.0.1:1"})
    with pytest.raises(Unreachable, match="nothing was sent"):
        Bmc(silent, "gpu-01.test", uuid).bios()


def test_bmcs_are_found_by_host_name_or_uuid(bmc_settings: BmcSettings) -> None:
    assert bmc_for([bmc_settings], "GPU-07.test", "x") is bmc_settings
    assert bmc_for([bmc_settings], "esx-01.test", HOST_UUID.upper()) is bmc_settings
    assert bmc_for([bmc_settings], "esx-01.test", "x") is None


def test_a_bmcs_address_is_filled_in() -> None:
    settings = BmcSettings(
        hosts=("*",), url="https://{short}-bmc.example.com:8443/redfish/v1", user="u", password_env="P"
    )
    assert settings.address("gpu-01.example.com", "x") == "https://gpu-01-bmc.example.com:8443"
    for wrong in ("http://bmc", "https://{name}.example.com", "https://bmc/other", "bmc.example.com", "https://{"):
        with pytest.raises(ValidationError, match=r"BMC address|has a path"):
            BmcSettings(hosts=("*",), url=wrong, user="u", password_env="P")
    with pytest.raises(ValidationError, match="exactly one of 'password_file'"):
        BmcSettings(hosts=("*",), url="https://bmc", user="u")
