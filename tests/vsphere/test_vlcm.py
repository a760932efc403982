"""Images: draft, validate, commit, apply; nothing twice, nobody else's draft, every refusal in vLCM's words."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import BadRequest, Busy, NeedsHuman, NotSupported, Unreachable
from tests.vsphere.vlcm_server import CLUSTER, HOST, USER, VlcmServer
from vsphere.settings import VCenterSettings
from vsphere.vlcm import Vlcm, lifecycle_manager

COMPONENT, VERSION = "NVD-VGPU-800", "550.54.16"
_SOFTWARE = f"/api/esx/settings/clusters/{CLUSTER}/software"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[VlcmServer]:
    running = VlcmServer(tmp_path)
    yield running
    running.stop()


@pytest.fixture
def settings(server: VlcmServer) -> VCenterSettings:
    return VCenterSettings(
        name="lab", url=server.url, user=USER, password_file=server.password_file, ca_file=server.ca_file
    )


@pytest.fixture
def vlcm(settings: VCenterSettings) -> Iterator[Vlcm]:
    with lifecycle_manager(settings) as opened:
        yield opened


def put(vlcm: Vlcm, version: str | None = VERSION, **more: Any) -> bool:
    return vlcm.set_component(CLUSTER, COMPONENT, version, "vGPU Manager", lambda _: None, poll_s=0.01, **more)


def test_a_component_enters_the_image_once_and_leaves_it(server: VlcmServer, vlcm: Vlcm) -> None:
    assert put(vlcm)
    assert vlcm.image(CLUSTER).components == {"VMware-VM-Tools": "12.3", COMPONENT: VERSION}
    before = len(server.requests)
    assert not put(vlcm)
    assert server.requests[before:] == [f"GET {_SOFTWARE}", f"GET {_SOFTWARE}/drafts"]
    assert put(vlcm, None)
    assert server.components == {"VMware-VM-Tools": "12.3"}
    assert not put(vlcm, None)
    assert vlcm.image(CLUSTER).base_image == "8.0.2-0.0.22380479"


def test_our_own_leftover_draft_is_replaced_and_others_are_kept(server: VlcmServer, vlcm: Vlcm) -> None:
    server.owners = {"draft-a": "VSPHERE.LOCAL\\Administrator", "draft-b": "VSPHERE.LOCAL\\alice"}
    server.drafts = {"draft-a": {"junk": "1"}, "draft-b": {}}
    assert put(vlcm)
    assert list(server.owners) == ["draft-b"]
    assert "junk" not in server.components


def test_a_draft_left_behind_goes_also_when_the_image_is_right_meanwhile(server: VlcmServer, vlcm: Vlcm) -> None:
    server.components[COMPONENT] = VERSION
    server.owners = {"draft-a": "VSPHERE.LOCAL\\Administrator", "draft-b": "VSPHERE.LOCAL\\alice"}
    server.drafts = {"draft-a": {}, "draft-b": {}}
    assert not put(vlcm)
    assert list(server.owners) == ["draft-b"]


@pytest.mark.parametrize("step", ["PATCH", "POST"])
def test_a_draft_thrown_away_by_another_change_of_ours_is_made_again(server: VlcmServer, vlcm: Vlcm, step: str) -> None:
    server.thrown_away_before = step
    with pytest.raises(Busy, match="was thrown away while it was made"):
        put(vlcm)
    assert server.owners == {}
    assert put(vlcm)
    assert server.components[COMPONENT] == VERSION


def test_an_image_that_is_not_valid_is_not_committed(server: VlcmServer, vlcm: Vlcm) -> None:
    server.invalid = "Component conflicts with NVD-AIE-800."
    with pytest.raises(NeedsHuman, match=r"is not valid: Component conflicts with NVD-AIE-800\."):
        put(vlcm)
    assert (server.components, server.owners) == ({"VMware-VM-Tools": "12.3"}, {})
    server.invalid, server.commit_error = "", "Someone else committed first."
    with pytest.raises(NeedsHuman, match=r"action=commit failed: ERROR: Someone else committed first\."):
        put(vlcm)


def test_a_lost_commit_answer_is_unknown_and_the_next_try_finds_it_done(server: VlcmServer, vlcm: Vlcm) -> None:
    draft = f"draft-{len(server.requests) + 3}"
    server.lose = f"POST {_SOFTWARE}/drafts/{draft}?action=commit&vmw-task=true"
    with pytest.raises(Unreachable, match="unknown whether it was carried out"):
        put(vlcm)
    assert server.lose is None
    assert not put(vlcm)


def test_a_task_beats_until_its_deadline(server: VlcmServer, vlcm: Vlcm) -> None:
    server.looks_until_done = 10**6
    beats: list[dict[str, Any]] = []
    task = vlcm.apply(CLUSTER, (HOST,))
    assert task is not None
    with pytest.raises(Busy, match=r"is still RUNNING after 0\.2 s"):
        vlcm.await_task(task, beats.append, 0.2, poll_s=0.05)
    assert len(beats) >= 3
    assert beats[0] == {"task": task, "state": "RUNNING", "progress": 40}


def test_remediation_is_started_once_and_not_at_all_when_compliant(server: VlcmServer, vlcm: Vlcm) -> None:
    assert vlcm.compliance(CLUSTER).hosts[HOST] == "NON_COMPLIANT"
    assert vlcm.apply(CLUSTER, ("host-13",)) is None
    task = vlcm.apply(CLUSTER, (HOST,))
    assert task is not None
    # Sent again while it runs, as after a lost answer.
    assert vlcm.apply(CLUSTER, (HOST,)) == task
    end = vlcm.await_task(task, lambda _: None, 10, poll_s=0.01)
    assert (end.status, end.failed) == ("SUCCEEDED", False)
    assert vlcm.apply(CLUSTER) is None
    assert (vlcm.compliance(CLUSTER).status, vlcm.compliance(CLUSTER).impact) == ("COMPLIANT", "REBOOT_REQUIRED")
    assert sum("action=apply" in request for request in server.requests) == 1


def test_a_depot_is_imported_once_and_its_components_are_known(server: VlcmServer, vlcm: Vlcm) -> None:
    assert vlcm.component_versions(COMPONENT) == ()
    assert vlcm.import_depot("https://depot.example.com/nvd.zip", "vGPU") is not None
    assert vlcm.import_depot("https://depot.example.com/nvd.zip", "vGPU") is None
    assert vlcm.component_versions(COMPONENT) == (VERSION,)
    assert vlcm.component_versions("other") == ()


def test_an_ended_session_is_opened_anew_and_closed_at_the_end(server: VlcmServer, settings: VCenterSettings) -> None:
    with lifecycle_manager(settings) as vlcm:
        server.sessions.clear()
        assert vlcm.image(CLUSTER).components
        assert len(server.sessions) == 1
    assert server.sessions == set()


def test_a_wrong_password_names_its_source(server: VlcmServer, settings: VCenterSettings) -> None:
    server.password_file.write_text("wrong")
    with (
        pytest.raises(BadRequest, match=r"refused user administrator.*password from file"),
        lifecycle_manager(settings),
    ):
        pass


def test_what_is_not_there_is_told(server: VlcmServer, vlcm: Vlcm) -> None:
    with pytest.raises(NotSupported, match=r"software: HTTP status 404: NOT_FOUND: There is nothing at"):
        vlcm.image("domain-c9")
    with pytest.raises(NotSupported, match="The task was forgotten"):
        vlcm.task("gone")


def test_a_task_whose_result_is_an_error_has_failed(server: VlcmServer, vlcm: Vlcm) -> None:
    errors = [{"message": {"localized": "Host did not enter maintenance mode."}}]
    task = server.start({"status": "ERROR", "notifications": {"errors": errors}})
    end = vlcm.await_task(task, lambda _: None, 5, poll_s=0.01)
    assert (end.failed, end.error) == (True, "Host did not enter maintenance mode.")
