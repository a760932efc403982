"""One host of a cluster is remediated: a remediation that goes on is followed before anything else is asked of vLCM."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from temporalio.testing import ActivityEnvironment

from activities.images import ImageChange
from contracts.errors import NeedsHuman
from contracts.host import HostRef
from tests.vsphere.vlcm_server import CLUSTER, HOST, USER, VlcmServer
from vsphere.settings import VCenterSettings
from vsphere.vlcm import Vlcm, lifecycle_manager

CHANGE = ImageChange(
    cluster=CLUSTER, host=HostRef(vcenter="lab", key="k", moid=HOST, name="esx-12"), message="m", timeout_s=20
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[VlcmServer]:
    running = VlcmServer(tmp_path)
    yield running
    running.stop()


@pytest.fixture
def vlcm(server: VlcmServer) -> Iterator[Vlcm]:
    settings = VCenterSettings(
        name="lab", url=server.url, user=USER, password_file=server.password_file, ca_file=server.ca_file
    )
    with lifecycle_manager(settings) as opened:
        yield opened


def remediate(vlcm: Vlcm) -> bool:
    return bool(ActivityEnvironment().run(CHANGE.remediate, vlcm))


def applied(server: VlcmServer) -> int:
    return sum("action=apply" in request for request in server.requests)


def test_a_remediation_that_an_earlier_try_began_is_followed_to_its_end_and_not_begun_again(
    server: VlcmServer, vlcm: Vlcm
) -> None:
    task = vlcm.apply(CLUSTER, (HOST,))
    before = len(server.requests)
    remediate(vlcm)
    asked = [request for request in server.requests[before:] if request.startswith("POST")]
    assert len(asked) == 1, "one check of the compliance"
    assert "action=scan" in asked[0]
    assert server.ended_before["scan"] == [task]
    assert applied(server) == 1


def test_the_failure_of_a_remediation_that_an_earlier_try_began_is_told_and_not_tried_over(
    server: VlcmServer, vlcm: Vlcm
) -> None:
    note = {"message": {"default_message": "The host did not come back."}}
    failed = {"failed_hosts": [HOST], "host_status": {HOST: {"notifications": {"errors": [note]}}}}
    server.start(failed | {"status": "ERROR"}, operation="apply")
    with pytest.raises(NeedsHuman, match=r"esx-12 could not be remediated: The host did not come back\."):
        remediate(vlcm)
    assert applied(server) == 0
