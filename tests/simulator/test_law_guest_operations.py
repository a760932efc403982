"""Guest operations: who gets in, programs, files."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from pyVmomi import vim

from tests.simulator.vm_site import PLAIN, ROOT, VmSite

Spec = vim.vm.guest.ProcessManager.ProgramSpec
Attributes = vim.vm.guest.FileManager.FileAttributes


@pytest.fixture(scope="module")
def guest(vm_site: VmSite) -> Any:
    return vm_site.add("guest-ops", host=PLAIN, gpu="none")


def test_only_the_right_password_lets_in(vm_site: VmSite, guest: Any) -> None:
    vm_site.ops.authManager.ValidateCredentialsInGuest(guest, ROOT)
    wrong = vim.vm.guest.NamePasswordAuthentication(username="root", password="wrong", interactiveSession=False)
    with pytest.raises(vim.fault.InvalidGuestLogin):
        vm_site.ops.authManager.ValidateCredentialsInGuest(guest, wrong)
    with pytest.raises(vim.fault.InvalidGuestLogin):
        vm_site.ops.processManager.ListProcessesInGuest(guest, wrong, None)
    vm_site.act("set_guest_login", vm="guest-ops", user="ada", password="love")
    ada = vim.vm.guest.NamePasswordAuthentication(username="ada", password="love", interactiveSession=False)
    vm_site.ops.authManager.ValidateCredentialsInGuest(guest, ada)
    assert "HOME=/home/ada" in vm_site.ops.processManager.ReadEnvironmentVariableInGuest(guest, ada, None)


def test_nobody_gets_in_while_tools_do_not_run(vm_site: VmSite) -> None:
    vm = vm_site.add("silent", host=PLAIN, gpu="none", on=False)
    with pytest.raises(vim.fault.InvalidPowerState):
        vm_site.ops.authManager.ValidateCredentialsInGuest(vm, ROOT)
    vm_site.act("no_tools", vm="silent")
    assert vm_site.ended(vm.PowerOnVM_Task()).state == "success"
    with pytest.raises(vim.fault.GuestOperationsUnavailable):
        vm_site.ops.authManager.ValidateCredentialsInGuest(vm, ROOT)
    assert (vm.guest.toolsStatus, vm.guest.ipAddress, vm.guest.hostName) == ("toolsNotInstalled", None, None)
    vm_site.remove(vm)


def test_a_program_runs_and_tells_how_it_ended(vm_site: VmSite, guest: Any) -> None:
    assert vm_site.run(guest, "uname -m && exit 3") == (3, "x86_64\n")
    assert vm_site.run(guest, "no-such-program") == (127, "sh: no-such-program: command not found\n")
    manager = vm_site.ops.processManager
    pid = manager.StartProgramInGuest(guest, ROOT, Spec(programPath="/bin/sh", arguments="-c 'sleep 90000'"))
    running = vm_site.process(guest, pid)
    assert (running.owner, running.exitCode, running.endTime) == ("root", None, None)
    manager.TerminateProcessInGuest(guest, ROOT, pid)
    assert vm_site.process(guest, pid).exitCode == 143
    with pytest.raises(vim.fault.GuestProcessNotFound):
        manager.TerminateProcessInGuest(guest, ROOT, pid)
    with pytest.raises(vim.fault.FileNotFound):
        manager.StartProgramInGuest(guest, ROOT, Spec(programPath="/opt/none", arguments=""))


@pytest.mark.parametrize(
    ("line", "status", "output"),
    [
        ("false || echo \"a  b\" | grep -c b", 0, "1\n"),
        ("false && echo no; echo $?", 0, "1\n"),
        ("WHO=me; echo ${WHO}; test -e /etc/os-release", 0, "me\n"),
        ("cat /no/such/file", 1, "cat: /no/such/file: No such file or directory\n"),
        ("set -e; false; echo unreached", 1, ""),
        ("echo one > /tmp/lines; echo two >> /tmp/lines; cat < /tmp/lines; rm /tmp/lines; ls /tmp/lines", 2,
         "one\ntwo\nls: cannot access \"/tmp/lines\": No such file or directory\n".replace('"', "'")),
        ("ls /missing 2> /dev/null; systemctl is-active vmtoolsd; command -v nvidia-smi", 1, "active\n"),
        ("echo $(date)", 2, "sh: syntax error near unexpected token `$('\n"),
        ("mokutil --sb-state; hostname", 0, "SecureBoot disabled\nguest-ops\n"),
    ],
)  # fmt: skip
def test_the_shell_does_what_a_shell_does(vm_site: VmSite, guest: Any, line: str, status: int, output: str) -> None:
    assert vm_site.run(guest, line) == (status, output)


def test_files_go_in_and_out_by_their_own_urls(vm_site: VmSite, guest: Any) -> None:
    files, content = vm_site.ops.fileManager, b"\x00\x01" * 5000
    files.MakeDirectoryInGuest(guest, ROOT, "/opt/a/b", True)
    with pytest.raises(vim.fault.FileNotFound):
        files.InitiateFileTransferToGuest(guest, ROOT, "/opt/none/x", Attributes(), 1, True)
    assert vm_site.put(guest, "/opt/a/b/data", content) == 200
    (found,) = [each for each in files.ListFilesInGuest(guest, ROOT, "/opt/a/b").files if each.path == "data"]
    assert (found.size, found.type) == (len(content), "file")
    told = files.InitiateFileTransferFromGuest(guest, ROOT, "/opt/a/b/data")
    assert told.size == len(content)
    assert vm_site.get(told.url)[2] == content
    assert vm_site.get(told.url)[0] == 403, "a URL is good for one transfer"
    assert vm_site.run(guest, "sha256sum /opt/a/b/data")[1].split()[0] == hashlib.sha256(content).hexdigest()
    with pytest.raises(vim.fault.FileAlreadyExists):
        files.InitiateFileTransferToGuest(guest, ROOT, "/opt/a/b/data", Attributes(), 1, False)
    url = files.InitiateFileTransferToGuest(guest, ROOT, "/opt/a/b/data", Attributes(), 7, True)
    assert vm_site.get(url, b"short")[0] == 403
    with pytest.raises(vim.fault.DirectoryNotEmpty):
        files.DeleteDirectoryInGuest(guest, ROOT, "/opt/a", False)
    files.DeleteFileInGuest(guest, ROOT, "/opt/a/b/data")
    with pytest.raises(vim.fault.FileNotFound):
        files.DeleteFileInGuest(guest, ROOT, "/opt/a/b/data")


def test_temporary_files_have_names_of_their_own(vm_site: VmSite, guest: Any) -> None:
    files = vm_site.ops.fileManager
    paths = {files.CreateTemporaryFileInGuest(guest, ROOT, "gpu-", ".run", "/root") for _ in range(3)}
    assert len(paths) == 3
    assert all(path.startswith("/root/gpu-") and path.endswith(".run") for path in paths)


def test_processes_die_with_the_guest_and_files_do_not(vm_site: VmSite, guest: Any) -> None:
    assert vm_site.put(guest, "/root/kept", b"kept") == 200
    spec = Spec(programPath="/bin/sh", arguments="-c 'sleep 90000'")
    pid = vm_site.ops.processManager.StartProgramInGuest(guest, ROOT, spec)
    assert vm_site.ended(guest.ResetVM_Task()).state == "success"
    vm_site.until(lambda: guest.guest.guestOperationsReady)
    assert vm_site.ops.processManager.ListProcessesInGuest(guest, ROOT, [pid]) == []
    assert vm_site.run(guest, "cat /root/kept") == (0, "kept")
