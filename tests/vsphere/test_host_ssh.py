"""nvidia-smi over SSH: a real SSH server, a pinned host key, and the answers that ESXi hosts give."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from pydantic import ValidationError

from contracts.errors import BadRequest, NeedsHuman, NotSupported, Unreachable
from vsphere.host_ssh import GpuMig, parse_mig, read_mig, set_mig
from vsphere.settings import SshSettings

A100, A40 = "0000:81:00.0", "0000:e2:00.0"
PASSWORD = "esx-secret"


class Esxi(asyncssh.SSHServer):
    """An ESXi host's SSH as far as nvidia-smi goes: an A100 with MIG and an A40 without."""

    def __init__(self) -> None:
        self.mig = {"current": "Disabled", "pending": "Disabled"}
        self.busy = self.deaf = False
        self.installed = self.at_once = True
        self.commands: list[str] = []

    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return (username, password) == ("root", PASSWORD)

    def run(self, process: "asyncssh.SSHServerProcess[str]") -> None:
        command = process.command or ""
        self.commands.append(command)
        if not self.installed:
            process.stderr.write(f"sh: {command.split()[0]}: not found\n")
            return process.exit(127)
        if "--query-gpu" in command:
            process.stdout.write(
                f"00000000:81:00.0, {self.mig['current']}, {self.mig['pending']}\n00000000:E2:00.0, [N/A], [N/A]\n"
            )
            return process.exit(0)
        if command.startswith(f"nvidia-smi -i {A100} -mig "):
            if not self.deaf:
                self.mig["pending"] = "Enabled" if command.endswith("1") else "Disabled"
                if self.at_once and not self.busy:
                    self.mig["current"] = self.mig["pending"]
            process.stdout.write("All done.\n")
            return process.exit(0)
        if command == f"nvidia-smi -i {A100} --gpu-reset":
            if not self.busy:
                self.mig["current"] = self.mig["pending"]
                return process.exit(0)
            process.stdout.write("In use by another client\n")
            return process.exit(19)
        process.stderr.write("Failed to initialize NVML\n")
        return process.exit(9)


class Server:
    """The server in a thread of its own, because the client blocks."""

    def __init__(self, folder: Path) -> None:
        self.esxi = Esxi()
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.acceptor: Any = self.call(self.listen())
        self.port: int = self.acceptor.get_port()
        self.known_hosts = folder / "known_hosts"
        self.trust(self.key)

    async def listen(self) -> Any:
        return await asyncssh.listen(
            "127.0.0.1", 0, server_factory=lambda: self.esxi, server_host_keys=[self.key], process_factory=self.handle
        )

    def handle(self, process: "asyncssh.SSHServerProcess[str]") -> None:
        self.esxi.run(process)

    def trust(self, key: asyncssh.SSHKey) -> None:
        public = key.export_public_key().decode().strip()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public}\n")

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def stop(self) -> None:
        async def close() -> None:
            self.acceptor.close()
            await self.acceptor.wait_closed()

        self.call(close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "password").write_text(PASSWORD)
    running = Server(tmp_path)
    yield running
    running.stop()


@pytest.fixture
def settings(server: Server, tmp_path: Path) -> SshSettings:
    return SshSettings(password_file=tmp_path / "password", known_hosts_file=server.known_hosts)


def test_mig_is_switched_once_and_read_back(server: Server, settings: SshSettings) -> None:
    assert read_mig(settings, "127.0.0.1", server.port) == (GpuMig(A100, False, False), GpuMig(A40, None, None))
    assert set_mig(settings, "127.0.0.1", A100, True, server.port)
    assert not set_mig(settings, "127.0.0.1", A100, True, server.port)
    assert read_mig(settings, "127.0.0.1", server.port)[0] == GpuMig(A100, True, True)
    assert set_mig(settings, "127.0.0.1", A100, False, server.port)
    assert [command for command in server.esxi.commands if " -mig " in command] == [
        f"nvidia-smi -i {A100} -mig 1",
        f"nvidia-smi -i {A100} -mig 0",
    ]


def test_a_gpu_in_use_keeps_the_change_pending(server: Server, settings: SshSettings) -> None:
    server.esxi.busy = True
    for _ in range(2):
        with pytest.raises(NeedsHuman, match="waits for a reset of the card, which is refused: reboot the host"):
            set_mig(settings, "127.0.0.1", A100, True, server.port)
    assert read_mig(settings, "127.0.0.1", server.port)[0] == GpuMig(A100, False, True)
    assert sum(" -mig " in command for command in server.esxi.commands) == 1, "what is pending is not ordered again"


def test_a_gpu_that_takes_the_mode_over_with_a_reset_is_reset(server: Server, settings: SshSettings) -> None:
    server.esxi.at_once = False
    assert set_mig(settings, "127.0.0.1", A100, True, server.port)
    assert read_mig(settings, "127.0.0.1", server.port)[0] == GpuMig(A100, True, True)
    assert not set_mig(settings, "127.0.0.1", A100, True, server.port)
    assert server.esxi.commands.count(f"nvidia-smi -i {A100} --gpu-reset") == 1


def test_hosts_are_reached_where_the_settings_say(settings: SshSettings) -> None:
    assert settings.address_of("esx-01.example.com") == "esx-01.example.com"
    managed = settings.model_copy(update={"address": "{short}.mgmt.example.com"})
    assert managed.address_of("esx-01.example.com") == "esx-01.mgmt.example.com"
    with pytest.raises(ValidationError, match=r"only \{host\} and \{short\} stand in"):
        SshSettings.model_validate(settings.model_dump() | {"address": "{name}"})


def test_success_that_does_not_read_back_needs_a_human(server: Server, settings: SshSettings) -> None:
    server.esxi.deaf = True
    with pytest.raises(NeedsHuman, match="reported success, but shows"):
        set_mig(settings, "127.0.0.1", A100, True, server.port)


def test_gpus_that_cannot_do_it_are_named(server: Server, settings: SshSettings) -> None:
    with pytest.raises(NotSupported, match=f"{A40} on 127.0.0.1: this GPU has no MIG"):
        set_mig(settings, "127.0.0.1", A40, True, server.port)
    with pytest.raises(BadRequest, match=f"nvidia-smi shows {A100}, {A40}; one in passthrough is hidden"):
        set_mig(settings, "127.0.0.1", "0000:05:00.0", True, server.port)


def test_a_host_without_vgpu_manager_is_not_supported(server: Server, settings: SshSettings) -> None:
    server.esxi.installed = False
    with pytest.raises(NotSupported, match="vGPU Manager is not installed"):
        read_mig(settings, "127.0.0.1", server.port)


def test_another_host_key_is_refused_before_the_password_is_sent(server: Server, settings: SshSettings) -> None:
    server.trust(asyncssh.generate_private_key("ssh-ed25519"))
    with pytest.raises(BadRequest, match=r"the host's key is not the one in .*known_hosts"):
        read_mig(settings, "127.0.0.1", server.port)
    server.known_hosts.write_text("")
    with pytest.raises(BadRequest, match="the host's key is not the one"):
        read_mig(settings, "127.0.0.1", server.port)
    assert server.esxi.commands == []


def test_a_refused_login_names_where_the_password_comes_from(
    server: Server, settings: SshSettings, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("wrong")
    with pytest.raises(BadRequest, match=r"login with the password from file .*password is refused.*exception user"):
        read_mig(settings, "127.0.0.1", server.port)


def test_a_closed_port_is_unreachable(server: Server, settings: SshSettings) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable, match="no usable answer"):
            read_mig(settings, "127.0.0.1", unused.getsockname()[1])


@pytest.mark.parametrize("answer", ["No devices were found", "00000000:81:00.0, maybe, Enabled", "1, Enabled, Enabled"])
def test_an_answer_that_is_none_is_not_guessed_at(answer: str) -> None:
    with pytest.raises(NeedsHuman, match="which is not a GPU with its MIG modes"):
        parse_mig(answer)


def test_no_gpu_is_an_empty_answer() -> None:
    assert parse_mig("\n") == ()


def test_ssh_needs_exactly_one_login_and_known_hosts(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="exactly one of"):
        SshSettings(known_hosts_file=tmp_path / "known_hosts")
    with pytest.raises(ValidationError, match="known_hosts_file"):
        SshSettings(password_env="ESX_PASSWORD")  # type: ignore[call-arg]
