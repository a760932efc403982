"""BIOS attributes of the vendors, and Redfish against sushy-tools' emulator, which is not ours."""

import logging
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import ValidationError
from werkzeug.serving import make_server

from contracts.errors import BadRequest, NeedsHuman, NotSupported, Unreachable
from vsphere.redfish import BiosFeature, Bmc, features_of, wanted_attributes
from vsphere.rest import basic_auth
from vsphere.settings import BmcSettings, bmc_for

with warnings.catch_warnings():
    # WebOb, which sushy-tools stands on, imports the deprecated module cgi.
    warnings.simplefilter("ignore", DeprecationWarning)
    from sushy_tools.emulator import main as emulator
    from sushy_tools.emulator.resources.systems.fakedriver import FakeDriver

IOMMU, SRIOV, ABOVE_4G = BiosFeature.IOMMU, BiosFeature.SRIOV, BiosFeature.ABOVE_4G
UUID = "27946b59-9e44-4fa7-8e91-f3527a1ef094"
USER, PASSWORD = "gpuwright", "bmc-secret"


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


class _Driver(FakeDriver):
    """The emulator's fake system lacks a BIOS; its Redfish routes for one are sushy-tools' own."""

    lost = False

    def get_bios(self, identity: str) -> dict[str, str]:
        return dict(self._get(identity).setdefault("bios", {"ProcVtd": "Disabled", "SriovGlobalEnable": "Enabled"}))

    def set_bios(self, identity: str, attributes: dict[str, str]) -> None:
        if not self.lost:
            system = self._get(identity)
            self._update(system, bios=self.get_bios(identity) | attributes)

    def get_versions(self, identity: str) -> dict[str, str]:
        return {"BiosVersion": "1.0"}


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> _Driver:
    config = {
        "SUSHY_EMULATOR_STATE_DIR": str(tmp_path_factory.mktemp("emulator")),
        "SUSHY_EMULATOR_FAKE_SYSTEMS": [
            {"uuid": UUID, "name": "gpu-01", "power_state": "On", "nics": [], "external_notifier": False}
        ],
    }
    return _Driver.initialize(config, logging.getLogger("emulator"))()


@pytest.fixture(scope="module")
def bmc_settings(driver: _Driver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BmcSettings]:
    folder: Path = tmp_path_factory.mktemp("bmc")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    (folder / "password").write_text(PASSWORD + "\n")
    app = emulator.app
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(app), "systems", property(lambda _: driver))
        patch.setitem(app.config, "SUSHY_EMULATOR_FEATURE_SET", "full")
        with (folder / "server.pem").open() as pem:
            path = pem.name
        server = make_server("127.0.0.1", 0, _guarded(app), threaded=True, ssl_context=(path, path))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield BmcSettings(
            hosts=("gpu-*.test", UUID),
            url=f"https://127.0.0.1:{server.server_port}",
            user=USER,
            password_file=folder / "password",
            ca_file=folder / "ca.pem",
        )
        server.shutdown()
        thread.join()
        server.server_close()


def _guarded(app: Any) -> Any:
    """Basic authentication as BMCs ask for it."""
    wanted = basic_auth(USER, PASSWORD)["Authorization"]

    def serve(environ: dict[str, Any], start: Any) -> Any:
        if environ["PATH_INFO"] != "/redfish/v1/" and environ.get("HTTP_AUTHORIZATION") != wanted:
            start("401 Unauthorized", [("Content-Type", "application/json")])
            return [b'{"error": {"message": "no"}}']
        return app(environ, start)

    return serve


@pytest.fixture
def bmc(bmc_settings: BmcSettings, driver: _Driver) -> Iterator[Bmc]:
    driver._update(UUID, bios={"ProcVtd": "Disabled", "SriovGlobalEnable": "Enabled"})
    yield Bmc(bmc_settings, "gpu-01.test", UUID)
    driver.lost = False


def test_the_bios_tells_what_is_off(bmc: Bmc) -> None:
    bios = bmc.bios()
    assert bios.features == {IOMMU: False, SRIOV: True}
    assert (bios.power_state, bios.pending) == ("On", {})


def test_a_feature_is_ordered_once(bmc: Bmc) -> None:
    assert bmc.enable(IOMMU, SRIOV) == {"ProcVtd": "Enabled"}
    assert bmc.enable(IOMMU, SRIOV) == {}
    assert bmc.bios().features[IOMMU]


def test_an_order_that_is_not_kept_is_told(bmc: Bmc, driver: _Driver) -> None:
    driver.lost = True
    with pytest.raises(NeedsHuman, match=r"accepted .*ProcVtd.* but then shows .*Disabled"):
        bmc.enable(IOMMU)


def test_a_reset_turns_the_power_off_and_a_wrong_type_is_refused(bmc: Bmc, driver: _Driver) -> None:
    with pytest.raises(NotSupported, match="not ColdBoot"):
        bmc.reset("ColdBoot")
    bmc.reset("ForceRestart")
    assert driver._systems[UUID]["power_state"] == "Off"


def test_another_system_behind_the_address_is_never_touched(bmc_settings: BmcSettings) -> None:
    other = Bmc(bmc_settings, "gpu-02.test", "11111111-2222-3333-4444-555555555555")
    with pytest.raises(BadRequest, match=f"no system there has the UUID 1111.*it has {UUID}"):
        other.enable(IOMMU)


def test_the_uuid_may_be_in_smbios_byte_order(bmc_settings: BmcSettings) -> None:
    swapped = "596b9427-449e-a74f-8e91-f3527a1ef094"
    assert Bmc(bmc_settings, "gpu-01.test", swapped).bios().power_state in ("On", "Off")


def test_a_wrong_password_and_an_untrusted_certificate_are_named(bmc_settings: BmcSettings, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("wrong")
    refused = bmc_settings.model_copy(update={"password_file": tmp_path / "wrong"})
    with pytest.raises(BadRequest, match=r"user gpuwright with the password from file .*wrong is refused"):
        Bmc(refused, "gpu-01.test", UUID).bios()
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other-ca.pem"))
    untrusted = bmc_settings.model_copy(update={"ca_file": tmp_path / "other-ca.pem"})
    with pytest.raises(BadRequest, match=r"BMC of gpu-01.test .* certificate is not trusted"):
        Bmc(untrusted, "gpu-01.test", UUID).bios()


def test_a_bmc_that_does_not_answer_is_unreachable(bmc_settings: BmcSettings) -> None:
    silent = bmc_settings.model_copy(update={"url": "https://127.0.0.1:1"})
    with pytest.raises(Unreachable, match="nothing was sent"):
        Bmc(silent, "gpu-01.test", UUID).bios()


def test_bmcs_are_found_by_host_name_or_uuid(bmc_settings: BmcSettings) -> None:
    assert bmc_for([bmc_settings], "GPU-07.test", "x") is bmc_settings
    assert bmc_for([bmc_settings], "esx-01.test", UUID.upper()) is bmc_settings
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
