"""The lab that the demo runs in: a simulated vCenter, the service, and the commands that a user would type."""

import json
import os
import secrets
import ssl
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pyVmomi import vim
from rich.console import Console

from contracts.errors import NeedsHuman, Unreachable
from vsphere.sessions import SessionPool, content
from vsphere.settings import VCenterSettings

__all__ = [
    "GUEST",
    "TEMPLATE",
    "Lab",
    "add_host",
    "chapter",
    "decide",
    "say",
    "service",
    "simulator",
    "tell_facts",
    "until",
    "waiting",
]

TEMPLATE, GUEST = "ubuntu-24.04", "ubuntu"
"""A template with an installed Linux, and the name by which the configuration knows its login."""
_USER = "gpuwright@vsphere.local"
_GUEST_LOGIN = ("root", "simulator")
"""Every guest of the simulated vCenter knows it."""
_A100 = "10de:20f1"
_TIME_SCALE = 30
_PATIENCE_S = 180.0

T = TypeVar("T")

_console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Lab:
    """Where everything is: a folder with configuration, keys and logs, and the simulated vCenter's URL."""

    folder: Path
    url: str

    @property
    def vcenter(self) -> VCenterSettings:
        """How to log in to the simulated vCenter."""
        password, ca_file = self.folder / "password", self.folder / "ca.pem"
        return VCenterSettings(name="demo", url=self.url, user=_USER, password_file=password, ca_file=ca_file)

    def site(self, path: str) -> str:
        """An address on the simulated vendor's site, which the simulator serves too."""
        return self.url.removesuffix("/sdk") + path

    def fetch(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON answer of the simulator's own API, `/simulator/…`."""
        login = b64encode(f"{_USER}:{(self.folder / 'password').read_text()}".encode()).decode()
        request = urllib.request.Request(  # noqa: S310 - an https address of ours
            self.site(path),
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {login}", "Content-Type": "application/json"},
        )
        trusted = ssl.create_default_context(cafile=self.folder / "ca.pem")
        with urllib.request.urlopen(request, context=trusted) as answer:  # noqa: S310
            return json.load(answer)

    def gpuwright(self, *arguments: str, expect: int = 0, check: bool = True, quiet: bool = False) -> int:
        """Run a command as a user would, and show it; raises `NeedsHuman` for another exit status than expected."""
        if not quiet:
            say(f"[bold cyan]$ gpuwright {' '.join(arguments)}[/]")
        done = self.run(*arguments, capture_output=quiet)
        if check and done.returncode != expect:
            raise NeedsHuman(
                f"`gpuwright {' '.join(arguments)}` ended with status {done.returncode} {done.stderr or ''}"
            )
        return done.returncode

    def run(self, *arguments: str, capture_output: bool) -> subprocess.CompletedProcess[str]:
        """Run a command with the lab's configuration."""
        return subprocess.run(
            [_program(), *arguments],
            env=_environment(self.folder),
            capture_output=capture_output,
            text=True,
            check=False,
        )


@contextmanager
def simulator(folder: Path) -> Iterator[Lab]:
    """A simulated vCenter with a template in it."""
    password = secrets.token_urlsafe(12)
    (folder / "password").touch(mode=0o600)
    (folder / "password").write_text(password)
    command = ["simulator", "--listen", "127.0.0.1:0", "--clusters", "1", "--hosts", "3", "--gpus", "3", "--vms", "6"]
    command += ["--time-scale", str(_TIME_SCALE), "--user", _USER, "--ca-file", str(folder / "ca.pem")]
    with _process(folder, "simulator", *command, password=password) as process:
        url = process.stdout.readline().strip() if process.stdout else ""
        if not url:
            raise Unreachable(f"the simulator did not start:\n{_log(folder, 'simulator')}")
        say(f"A simulated vCenter at {url}: 1 cluster, 3 hosts with 3 GPUs each; time runs {_TIME_SCALE} times faster")
        lab = Lab(folder, url)
        lab.fetch("/simulator/actions/add_template", {"name": TEMPLATE, "host": "esx-01-01.gpu.test"})
        yield lab


@contextmanager
def service(lab: Lab, address: str) -> Iterator[None]:
    """The service, with a rule that prepares new hosts of the cluster."""
    folder = lab.folder
    lab.gpuwright("keys", "new", str(folder / "me"), quiet=True)
    (folder / "guest-password").touch(mode=0o600)
    (folder / "guest-password").write_text(_GUEST_LOGIN[1])
    config = {
        "temporal": {"address": address, "task_queue": f"gpuwright-demo-{secrets.token_hex(4)}"},
        "vcenters": [lab.vcenter.model_dump(mode="json", exclude_defaults=True)],
        "rules_file": "rules.yaml",
        "approvals": {"trusted_key_files": ["me.pub"]},
        "guest_credentials": {GUEST: {"user": _GUEST_LOGIN[0], "password_file": "guest-password"}},
        # The simulated world is faster than life, so the audit need not wait as long.
        "audit": {"quiet_s": 5, "linger_s": 5, "look_s": 2, "host_wait_s": 0},
    }
    gpus = [
        {"match": _A100, "count": 2, "mode": "passthrough", "label": "Training"},
        {"match": _A100, "mode": "vgpu"},
    ]
    rules = {
        "rules": [
            {
                "name": "prepare-new-gpu-hosts",
                "on": ["HostAddedEvent", "HostConnectedEvent"],
                "where": {"cluster": "gpu-*"},
                "start": "PrepareGpuHost",
                "with": {"profile": "mixed"},
            },
            {
                "name": "audit-after-host-failure",
                "on": ["DasHostFailedEvent", "com.vmware.vc.HA.DasHostFailedEvent", "HostConnectionLostEvent"],
                "start": "HaRecoveryAudit",
            },
        ],
        "profiles": {"mixed": {"gpus": gpus, "vgpu_manager": _manager(lab)}},
    }
    (folder / "gpuwright.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules, sort_keys=False))
    with _process(folder, "serve", "serve") as process:
        # Events older than the watch's first look are not its business, so it has to listen before a host is added.
        until("the service", lambda: "following" in _log(folder, "serve") or process.poll() is not None)
        if process.poll() is not None:
            raise Unreachable(f"the service did not start:\n{_log(folder, 'serve')}")
        say(f"gpuwright serve runs the listener and the workers; its configuration is {folder / 'gpuwright.yaml'}")
        yield


def _manager(lab: Lab) -> dict[str, Any]:
    """The vGPU Manager: its offline bundle on the simulated vendor's site, with its checksum."""
    depots = lab.fetch("/simulator/depots")["depots"]
    found = next(depot for name, depot in depots.items() if name.startswith("NVD-AIE-800_550"))
    return {
        "name": found["vib"]["name"],
        "version": ">=550",
        "depot": lab.site(found["url"]),
        "sha256": found["sha256"],
    }


@contextmanager
def _process(folder: Path, name: str, *arguments: str, password: str = "") -> Iterator[subprocess.Popen[str]]:
    """One of gpuwright's long-running commands, ended by its process ID."""
    environment = _environment(folder) | ({"GPUWRIGHT_SIMULATOR_PASSWORD": password} if password else {})
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [_program(), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {"GPUWRIGHT_CONFIG": str(folder / "gpuwright.yaml"), "GPUWRIGHT_KEY": str(folder / "me")}


def _program() -> str:
    return str(Path(sys.executable).with_name("gpuwright"))


def _log(folder: Path, name: str) -> str:
    return (folder / f"{name}.log").read_text(errors="replace")[-4000:]


def add_host(lab: Lab, name: str) -> dict[str, Any]:
    """Add a host as the vSphere client does, and remember how it was."""
    with SessionPool(lab.vcenter) as pool, pool.session() as si:
        (cluster,) = content(si).rootFolder.childEntity[0].hostFolder.childEntity
        spec = vim.host.ConnectSpec(hostName=name, userName="root", password="x", force=True)  # noqa: S106
        task = cluster.AddHost_Task(spec, True, None, None)
        system = until("the host to be added", lambda: task.info.result)
        gpus = [info.pciId for info in system.config.graphicsInfo]
        return {"moid": system._moId, "gpus": gpus, "boot_time": system.runtime.bootTime}


def waiting(lab: Lab, subject: str) -> dict[str, Any] | None:
    """The open approval about a subject, once there is one."""
    done = lab.run("approvals", "list", "--json", capture_output=True)
    found = [each for each in json.loads(done.stdout or "[]") if subject in each["subject"]]
    return found[0] if found else None


def decide(lab: Lab, approval: dict[str, Any], otherwise: str) -> None:
    """Let the person at the terminal decide, or approve where there is none; raises `NeedsHuman` with `otherwise`."""
    command = ["approvals", "approve", approval["workflow_id"]]
    if not sys.stdin.isatty():
        command += ["--hash", approval["plan_hash"], "--comment", "demo"]
    if lab.gpuwright(*command, check=False) != 0:
        raise NeedsHuman(otherwise)


def until(what: str, look: Callable[[], T | None]) -> T:
    """Look until there is something, within the demo's patience."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.5)
    raise NeedsHuman(f"waited {_PATIENCE_S:.0f} s for {what} in vain")


def tell_facts(facts: dict[str, bool]) -> None:
    """Tell what was read back; raises `NeedsHuman` unless everything holds."""
    for fact, holds in facts.items():
        say(f"{'[green]✔[/]' if holds else '[red]✘[/]'} {fact}")
    if not all(facts.values()):
        raise NeedsHuman("not everything was proven; see the lines marked ✘")


def chapter(title: str) -> None:
    """Begin a chapter of the story."""
    say(f"\n[bold]── {title}[/]")


def say(text: str) -> None:
    """Tell something, in Rich's markup."""
    _console.print(text)
