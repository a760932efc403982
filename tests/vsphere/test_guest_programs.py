"""Programs in guests: started once, followed to their end, their output read, nothing left behind."""

import threading
from typing import Any

import pytest
from pyVmomi import vim

from contracts.errors import BadRequest, NeedsHuman, NotSupported, Unreachable
from tests.simulator.vm_site import PLAIN
from tests.vsphere.guests import Guests
from vsphere.guest_access import open_guest
from vsphere.guest_files import FOLDER, download_tail, list_names
from vsphere.guest_programs import Ended, await_marked, list_programs, run, run_in_guest
from vsphere.sessions import SessionPool, content


def nothing(_: dict[str, Any]) -> None:
    """A heartbeat that nobody hears."""


def test_a_program_tells_its_status_and_its_output(guests: Guests) -> None:
    vm, ref = guests.add("programs", host=PLAIN, gpu="none")
    beats: list[dict[str, Any]] = []
    with guests.pool.session() as si:
        ended = run_in_guest(si, ref, guests.root, "/bin/sh", "-c 'uname -m; cat /none; exit 3'", 60, beats.append)
    assert ended == (3, "x86_64\ncat: /none: No such file or directory\n")
    assert beats[0]["vm"] == ref.moid
    assert guests.left(vm) == []


@pytest.mark.parametrize("drop", ["before", "after"])
def test_a_lost_answer_to_a_start_starts_nothing_twice(guests: Guests, drop: str) -> None:
    vm, ref = guests.add("lost", host=PLAIN, gpu="none")
    guests.simulator.add_fault(method="StartProgramInGuest", drop=drop, times=1)
    with guests.pool.session() as si:
        if drop == "after":
            assert run_in_guest(si, ref, guests.root, "/bin/sh", "-c 'echo once'", 60, nothing) == (0, "once\n")
        else:
            with pytest.raises(Unreachable, match="look before trying again"):
                run_in_guest(si, ref, guests.root, "/bin/sh", "-c 'echo once'", 60, nothing)
    assert len(guests.started(vm, "echo once")) == (1 if drop == "after" else 0)
    assert guests.left(vm) == []


def test_a_program_out_of_time_is_terminated_and_told(guests: Guests) -> None:
    vm, ref = guests.add("slow", host=PLAIN, gpu="none")
    line = "-c 'echo begun; sleep 90000'"
    with guests.pool.session() as si, pytest.raises(NeedsHuman, match=r"had not ended after 0.2 s and was terminated"):
        run_in_guest(si, ref, guests.root, "/bin/sh", line, 0.2, nothing)
    with guests.pool.session() as si:
        (found,) = [each for each in list_programs(open_guest(si, ref, guests.root)) if "90000" in each.command]
    assert (found.ended, found.exit_code) == (True, 143)
    assert guests.left(vm) == []


def test_a_patient_run_out_of_time_leaves_program_and_output_to_the_next_attempt(guests: Guests) -> None:
    _, ref = guests.add("patient", host=PLAIN, gpu="none")
    with guests.pool.session() as si:
        guest = open_guest(si, ref, guests.root)
        line = "-c 'sleep 9000000; echo mark-1'"
        assert run(guest, "/bin/sh", line, 0, nothing, "mark-1", patient=True).exit_code is None
        assert await_marked(guest, "mark-1", 0, nothing) == Ended(None, "")
        (found,) = [each for each in list_programs(guest) if "mark-1" in each.command]

        def end(_: dict[str, Any]) -> None:
            if not list_programs(guest, [found.pid])[0].ended:
                guest.processes.TerminateProcessInGuest(guest.machine, guest.auth(), found.pid)

        assert await_marked(guest, "mark-1", 60, end) == Ended(143, "")
        assert await_marked(guest, "mark-1", 60, nothing) is None, "nothing runs any more"
        assert len([name for name in list_names(guest, FOLDER) if name.startswith("mark-1-")]) == 1


def test_a_guest_that_restarts_under_a_program_is_unreachable(guests: Guests) -> None:
    vm, ref = guests.add("restarted", host=PLAIN, gpu="none")
    begun = threading.Event()

    def restart() -> None:
        begun.wait(60)
        vm.ResetVM_Task()

    other = threading.Thread(target=restart)
    other.start()
    with guests.pool.session() as si, pytest.raises(Unreachable, match=r"restarted meanwhile|VMware Tools|not on"):
        run_in_guest(si, ref, guests.root, "/bin/sh", "-c 'sleep 90000'", 60, lambda _: begun.set())
    other.join()


def test_what_a_heartbeat_raises_ends_the_wait_and_leaves_no_file(guests: Guests) -> None:
    vm, ref = guests.add("cancelled", host=PLAIN, gpu="none")

    def cancelled(_: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with guests.pool.session() as si, pytest.raises(KeyboardInterrupt):
        run_in_guest(si, ref, guests.root, "/bin/sh", "-c 'sleep 20'", 60, cancelled)
    assert [name for name in guests.left(vm) if name.endswith(".out")] == []


def test_a_guest_without_tools_or_power_is_unreachable(guests: Guests) -> None:
    vm, ref = guests.add("quiet", host=PLAIN, gpu="none", on=False)
    with guests.pool.session() as si:
        with pytest.raises(Unreachable, match="poweredOff"):
            open_guest(si, ref, guests.root)
        guests.simulator.act("no_tools", vm="quiet")
        assert guests.site.ended(vm.PowerOnVM_Task()).state == "success"
        with pytest.raises(Unreachable, match="takes no guest operations yet: VMware Tools are"):
            open_guest(si, ref, guests.root)


def test_a_reference_to_another_vm_or_none_is_refused(guests: Guests) -> None:
    _, ref = guests.add("known", host=PLAIN, gpu="none")
    with guests.pool.session() as si:
        with pytest.raises(BadRequest, match=r"is now VM .*, not known"):
            open_guest(si, ref.model_copy(update={"instance_uuid": "other"}), guests.root)
        with pytest.raises(BadRequest, match="no longer exists"):
            open_guest(si, ref.model_copy(update={"moid": "vm-999999"}), guests.root)


def test_windows_guests_are_refused_in_words(guests: Guests) -> None:
    vm, ref = guests.add("windows", host=PLAIN, gpu="none", on=False)
    guests.site.ended(vm.ReconfigVM_Task(vim.vm.ConfigSpec(guestId="windows2022srvNext_64Guest")))
    guests.site.ended(vm.PowerOnVM_Task())
    guests.site.until(lambda: vm.guest.guestFamily)
    with guests.pool.session() as si, pytest.raises(NotSupported, match=r"windowsGuest.*Linux guests only"):
        open_guest(si, ref, guests.root)


def test_long_folders_are_listed_whole_and_long_files_by_their_end(guests: Guests) -> None:
    vm, ref = guests.add("long", host=PLAIN, gpu="none")
    assert guests.site.put(vm, "/root/long", b"x" * 100_000 + b"the end") == 200
    with guests.pool.session() as si:
        guest = open_guest(si, ref, guests.root)
        assert download_tail(guest, "/root/long", keep=10) == "xxxthe end"
        assert len(download_tail(guest, "/root/long")) == 64 * 1024
        names = list_names(guest, "/usr/bin")
        assert {"sh", "sha256sum"} <= set(names)
        assert len(names) == len(set(names))
        assert list_names(guest, "/no/such") == []


def test_a_wait_survives_a_login_that_ended(guests: Guests) -> None:
    _, ref = guests.add("polled", host=PLAIN, gpu="none")
    with SessionPool(guests.settings()) as pool, pool.session() as si:
        keys = [content(si).sessionManager.currentSession.key]

        def kill(_: dict[str, Any]) -> None:
            while keys:
                guests.simulator.control("POST", "/simulator/sessions/kill", {"key": keys.pop()})

        assert run_in_guest(si, ref, guests.root, "/bin/sh", "-c 'sleep 60; echo done'", 60, kill) == (0, "done\n")
