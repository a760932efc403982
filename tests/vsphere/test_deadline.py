"""Something slow is waited for so long and no longer, whatever it is slow at."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.errors import BadRequest, Unreachable
from vsphere.deadline import within
from vsphere.redfish import Bmc
from vsphere.settings import BmcSettings


@pytest.fixture
def tarpit() -> Iterator[int]:
    """A server that takes connections and says a byte now and then, so that no socket timeout ever strikes."""
    stop = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(30)

    def drip() -> None:
        connection, _ = listening.accept()
        # The header of a TLS record of 16 KiB, whose rest never comes.
        with connection:
            connection.sendall(b"\x16\x03\x03\x40\x00")
            while not stop.wait(0.05):
                try:
                    connection.sendall(b"\x02")
                except OSError:
                    return

    thread = threading.Thread(target=drip)
    thread.start()
    yield listening.getsockname()[1]
    stop.set()
    thread.join()
    listening.close()


def test_what_answers_in_time_is_given_and_its_errors_are_its_own() -> None:
    assert within(60, "the answer", lambda: 42) == 42

    def refuse() -> None:
        raise BadRequest("no")

    with pytest.raises(BadRequest, match="no"):
        within(60, "the answer", refuse)
    with pytest.raises(ZeroDivisionError):
        within(60, "the answer", lambda: 1 // 0)


def test_a_bmc_that_trickles_is_given_up_after_the_whole_time(tarpit: int, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret")
    settings = BmcSettings(
        hosts=("gpu-*",),
        url=f"https://127.0.0.1:{tarpit}",
        user="u",
        password_file=tmp_path / "password",
        insecure_skip_verify=True,
        connect_timeout_s=5,
    )
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"^the BMC of gpu-01 did not answer within 0\.3 s$"):
        within(0.3, "the BMC of gpu-01", Bmc(settings, "gpu-01", "u").bios)
    assert time.monotonic() - began < 4, "before the socket's own timeout"
