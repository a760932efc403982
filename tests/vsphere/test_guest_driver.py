"""Installing a driver: looked for first, checked twice, run once, removed afterwards."""

from typing import Any

import pytest
from pyVmomi import vim

from contracts.errors import BadRequest, Conflict, NeedsHuman, Unreachable
from contracts.machine import VmRef
from simulator.installers import INSTALLERS
from tests.simulator.vm_site import PLAIN, ROOT, VGPU
from tests.vsphere.guests import DATA_CENTER, GRID, Guests
from vsphere import guest_driver
from vsphere.guest import inspect_guest
from vsphere.guest_driver import Installed, install_driver
from vsphere.guest_programs import Ended
from vsphere.settings import GuestCredentials


def install(
    guests: Guests, ref: VmRef, name: str = GRID, credentials: GuestCredentials | None = None, **changes: Any
) -> Installed:
    with guests.pool.session() as si:
        beat = changes.pop("heartbeat", lambda _: None)
        timeout = changes.pop("timeout_s", 60)
        more = {"max_bytes": changes.pop("max_bytes")} if "max_bytes" in changes else {}
        package = guests.package(name, **changes)
        return install_driver(si, ref, credentials or guests.root, package, beat, timeout, **more)


def installers(guests: Guests, vm: Any) -> int:
    return len(guests.started(vm, "driver.run"))


def long_installer(guests: Guests, vm: Any) -> int:
    """The PID of a program that never ends and looks like the installer that an earlier attempt started."""
    mark = f"gpuwright-{INSTALLERS[DATA_CENTER].sha256[:16]}"
    spec = vim.vm.guest.ProcessManager.ProgramSpec(
        programPath="/bin/sh", arguments=f"-c 'sleep 9000000; echo /var/tmp/{mark}-1/driver.run'"
    )
    return int(guests.site.ops.processManager.StartProgramInGuest(vm, ROOT, spec))


def test_a_driver_is_installed_once_and_proven(guests: Guests) -> None:
    vm, ref = guests.add("shared", host=VGPU, gpu="vgpu")
    beats: list[dict[str, Any]] = []
    assert install(guests, ref, heartbeat=beats.append).changed
    size = len(INSTALLERS[GRID].content)
    assert {"vm": ref.moid, "fetched": size} in beats
    assert {"vm": ref.moid, "uploaded": size} in beats
    with guests.pool.session() as si:
        seen = inspect_guest(si, ref, guests.root, None, lambda _: None)
    assert [gpu.driver_version for gpu in seen.gpus] == ["550.54.14"]
    again = install(guests, ref)
    assert (again.changed, "shows driver 550.54.14 already" in again.text) == (False, True)
    assert installers(guests, vm) == 1
    assert guests.left(vm) == []


def test_a_user_who_is_not_root_installs_with_sudo(guests: Guests) -> None:
    vm, ref = guests.add("sudoer")
    guests.simulator.act("set_guest_login", vm="sudoer", user="ada", password="love")
    assert install(guests, ref, DATA_CENTER, guests.credentials("ada", "love")).changed
    assert "sudo -n sh /var/tmp/gpuwright-" in guests.started(vm, "driver.run")[0]
    assert guests.left(vm) == []


@pytest.mark.parametrize("moment", ["the answer to the start is lost", "the worker dies"])
def test_an_installer_that_runs_already_is_waited_for(guests: Guests, moment: str) -> None:
    vm, ref = guests.add("adopted")

    def dies(beat: dict[str, Any]) -> None:
        if any("driver.run" in line for line in guests.started(vm, "driver.run")):
            raise KeyboardInterrupt

    if moment == "the worker dies":
        with pytest.raises(KeyboardInterrupt):
            install(guests, ref, DATA_CENTER, heartbeat=dies)
    else:
        guests.simulator.add_fault(method="StartProgramInGuest", drop="after", times=2)
    outcome = install(guests, ref, DATA_CENTER)
    assert outcome.changed or "already" in outcome.text
    assert installers(guests, vm) == 1
    with guests.pool.session() as si:
        assert inspect_guest(si, ref, guests.root, None, lambda _: None).gpus
    assert guests.left(vm) == []


def test_a_running_installer_is_followed_to_its_end_and_judged_by_what_it_did(guests: Guests) -> None:
    vm, ref = guests.add("followed")
    pid = long_installer(guests, vm)
    followed: list[int] = []

    def ends(beat: dict[str, Any]) -> None:
        if pid in beat.get("programs", ()) and len(followed) < 3:
            followed.append(pid)
            if len(followed) == 3:
                assert guests.site.install(vm, DATA_CENTER)[0] == 0
                guests.site.ops.processManager.TerminateProcessInGuest(vm, ROOT, pid)

    outcome = install(guests, ref, DATA_CENTER, heartbeat=ends)
    assert (outcome.changed, "that ran in the guest" in outcome.text) == (True, True)
    assert (len(followed), installers(guests, vm)) == (3, 2), "the one that ran, and the one of this test"


def test_an_installer_whose_end_nobody_saw_is_judged_by_what_it_did(
    guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm, ref = guests.add("unseen")

    def works_unseen(*_: Any) -> Ended:
        assert guests.site.install(vm, DATA_CENTER)[0] == 0
        return Ended(-1, "")

    monkeypatch.setattr(guest_driver, "await_marked", works_unseen)
    assert install(guests, ref, DATA_CENTER).changed
    guests.site.run(vm, "nvidia-uninstall")
    monkeypatch.setattr(guest_driver, "await_marked", lambda *_: Ended(-1, ""))
    with pytest.raises(NeedsHuman, match="ended with status -1"):
        install(guests, ref, DATA_CENTER)


def test_an_installer_out_of_time_is_left_to_itself(guests: Guests) -> None:
    vm, ref = guests.add("slow")
    pid = long_installer(guests, vm)
    with pytest.raises(NeedsHuman, match=r"still runs after 0 s .*trying again waits for it"):
        install(guests, ref, DATA_CENTER, timeout_s=0)
    assert guests.site.process(vm, pid).endTime is None
    assert installers(guests, vm) == 1


def test_a_node_of_the_gpu_operator_is_refused_before_anything_is_sent(guests: Guests) -> None:
    vm, ref = guests.add("node")
    guests.simulator.act("kubernetes_node", vm="node", version="535.129.03")
    with pytest.raises(Conflict, match="GPU Operator installs the driver itself"):
        install(guests, ref, url="https://127.0.0.1:1/never-fetched")
    assert installers(guests, vm) == 0
    assert guests.left(vm) == []


def test_a_failing_installer_is_told_with_its_last_words(guests: Guests) -> None:
    vm, ref = guests.add("bare", host=PLAIN, gpu="none")
    with pytest.raises(
        NeedsHuman, match=r"(?s)ended with status 1; see /var/log/nvidia-installer.log.*no NVIDIA GPU found"
    ):
        install(guests, ref, DATA_CENTER)
    assert guests.left(vm) == []
    with pytest.raises(NeedsHuman, match="no NVIDIA GPU found"):
        install(guests, ref, DATA_CENTER)
    assert installers(guests, vm) == 2, "asked again, a failed installer runs again"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sha256": "0" * 64}, "has the SHA-256 .*it was not used"),
        ({"max_bytes": 100}, "has more than 100 bytes"),
        ({"url": "https://user:secret@127.0.0.1/driver.run"}, "must not hold a password"),
    ],
)
def test_a_package_that_is_not_the_one_meant_never_reaches_the_guest(
    guests: Guests, changes: dict[str, Any], told: str
) -> None:
    vm, ref = guests.add("unharmed")
    with pytest.raises(BadRequest, match=told):
        install(guests, ref, **changes)
    assert installers(guests, vm) == 0
    assert guests.left(vm) == []


def test_a_package_is_fetched_over_verified_tls_only(guests: Guests) -> None:
    _, ref = guests.add("careful")
    with guests.pool.session() as si:
        endpoint = si._stub.endpoint
        trusted = endpoint.settings
        endpoint.settings = trusted.model_copy(update={"ca_file": None})
        try:
            with pytest.raises(BadRequest, match="certificate is not trusted"):
                install_driver(si, ref, guests.root, guests.package(GRID), lambda _: None, 60)
        finally:
            endpoint.settings = trusted


def test_what_arrives_damaged_is_not_run(guests: Guests, monkeypatch: pytest.MonkeyPatch) -> None:
    vm, ref = guests.add("damaged")

    def spoiled(guest: Any, path: str, file: Any, size: int, beat: Any) -> None:
        content = file.read()
        assert guests.site.put(vm, path, content[:-5] + b"#####") == 200

    monkeypatch.setattr(guest_driver, "upload", spoiled)
    with pytest.raises(Unreachable, match="did not arrive whole and was not run"):
        install(guests, ref, DATA_CENTER)
    assert guests.site.run(vm, "nvidia-smi")[0] == 127
    assert guests.left(vm) == []


def test_an_upload_that_breaks_off_leaves_nothing(guests: Guests) -> None:
    vm, ref = guests.add("broken")

    def cancelled(beat: dict[str, Any]) -> None:
        if "uploaded" in beat:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install(guests, ref, DATA_CENTER, heartbeat=cancelled)
    assert installers(guests, vm) == 0
    assert guests.left(vm) == []


def test_a_refused_login_is_a_bad_request(guests: Guests) -> None:
    _, ref = guests.add("locked")
    with pytest.raises(BadRequest, match="refused user root"):
        install(guests, ref, credentials=guests.credentials("root", "wrong"))
