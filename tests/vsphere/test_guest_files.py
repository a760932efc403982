"""Who serves a guest's files, and what that server has to prove."""

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from contracts.errors import GpuwrightError
from tests.simulator.vm_site import PLAIN
from tests.vsphere.guests import Guests
from vsphere.connection import Endpoint
from vsphere.guest_files import transfer_endpoint
from vsphere.guest_programs import run_in_guest
from vsphere.sessions import SessionPool
from vsphere.settings import VCenterSettings


class _Host:
    """A TLS server such as an ESXi host is: it shakes hands, and that is all."""

    def __init__(self, authority: trustme.CA, name: str = "localhost") -> None:
        identity = authority.issue_cert(name)
        self.certificate = ssl.PEM_cert_to_DER_cert(identity.cert_chain_pems[0].bytes().decode())
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        identity.configure_cert(self._context)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self._listening.getsockname()[1]}/guestFile?id=1&token=t"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                accepted, _ = self._listening.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(accepted, server_side=True) as connection:
                    connection.recv(1)
            except OSError:
                accepted.close()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def esxi(authority: trustme.CA) -> Iterator[_Host]:
    host = _Host(authority)
    yield host
    host.close()


@pytest.fixture
def vcenter(tmp_path: Path, authority: trustme.CA) -> VCenterSettings:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return VCenterSettings(
        name="lab", url="https://vcenter.test", user="u", password_env="UNUSED", ca_file=tmp_path / "ca.pem"
    )


def verdict(settings: VCenterSettings, url: str, known: bytes | None) -> str:
    """Empty when the server of the URL is trusted."""
    endpoint, path = transfer_endpoint(Endpoint(settings), url, lambda: known)
    assert path == "/guestFile?id=1&token=t"
    said = ""
    try:
        endpoint.connect().close()
    except GpuwrightError as error:
        said = str(error)
    assert "token" not in said
    return said


@pytest.mark.parametrize("url", ["https://*/guestFile?id=1", "https://*:443/guestFile?id=1", "https://VCENTER.test/f"])
def test_a_star_and_its_own_name_mean_the_vcenter_with_its_own_proof(vcenter: VCenterSettings, url: str) -> None:
    own = Endpoint(vcenter)

    def never() -> bytes | None:
        raise AssertionError("no host serves it")

    assert transfer_endpoint(own, url, never)[0] is own


def test_a_host_shows_exactly_the_certificate_that_vcenter_knows(vcenter: VCenterSettings, esxi: _Host) -> None:
    foreign = vcenter.model_copy(update={"ca_file": None})
    assert verdict(foreign, esxi.url, esxi.certificate) == ""
    other = ssl.PEM_cert_to_DER_cert(trustme.CA().issue_cert("localhost").cert_chain_pems[0].bytes().decode())
    assert "not the one that vCenter knows of it" in verdict(vcenter, esxi.url, other)


def test_a_host_that_vcenter_knows_no_certificate_of_needs_a_known_authority(
    vcenter: VCenterSettings, esxi: _Host, tmp_path: Path
) -> None:
    assert verdict(vcenter, esxi.url, None) == ""
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    foreign = vcenter.model_copy(update={"ca_file": tmp_path / "other.pem"})
    assert "ESXi host localhost" in verdict(foreign, esxi.url, None)
    assert "certificate is not trusted" in verdict(foreign, esxi.url, None)


def test_the_name_counts_where_no_certificate_is_known(vcenter: VCenterSettings, authority: trustme.CA) -> None:
    host = _Host(authority, "esx-01.other")
    try:
        assert "certificate is not trusted" in verdict(vcenter, host.url, None)
        assert verdict(vcenter, host.url, host.certificate) == ""
    finally:
        host.close()


def test_a_pinned_vcenter_says_nothing_about_its_hosts(
    vcenter: VCenterSettings, esxi: _Host, tmp_path: Path, authority: trustme.CA
) -> None:
    (tmp_path / "pinned.pem").write_bytes(authority.issue_cert("vcenter.test").cert_chain_pems[0].bytes())
    pinned = vcenter.model_copy(update={"ca_file": None, "server_cert_file": tmp_path / "pinned.pem"})
    assert verdict(pinned, esxi.url, esxi.certificate) == ""
    assert "certificate is not trusted" in verdict(pinned, esxi.url, None)


def test_verification_that_is_off_is_off_for_hosts_too(vcenter: VCenterSettings, esxi: _Host) -> None:
    loose = vcenter.model_copy(update={"ca_file": None, "insecure_skip_verify": True})
    assert verdict(loose, esxi.url, None) == ""


def test_files_come_from_the_host_with_the_certificate_that_vcenter_tells(guests: Guests, tmp_path: Path) -> None:
    # To a vCenter called localhost, the URLs for 127.0.0.1 are those of another server: of the VM's host.
    _, ref = guests.add("served", host=PLAIN, gpu="none")
    with SessionPool(guests.settings("localhost")) as pool, pool.session() as si:
        assert run_in_guest(si, ref, guests.root, "/bin/sh", "-c 'echo here'", 60, lambda _: None) == (0, "here\n")
    # Without the authority, only what vCenter tells of its host is left to trust.
    pinned = tmp_path / "server.pem"
    pinned.write_text(ssl.get_server_certificate(("127.0.0.1", guests.simulator.port)))
    with SessionPool(guests.settings("localhost", ca_file=None, server_cert_file=pinned)) as pool, pool.session() as si:
        assert run_in_guest(si, ref, guests.root, "/bin/sh", "-c 'echo here'", 60, lambda _: None) == (0, "here\n")
