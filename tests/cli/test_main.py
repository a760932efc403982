import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cli.main import run
from contracts.errors import NeedsHuman
from contracts.names import TaskQueues
from tests.support.service import write_configuration
from workers.temporal_server import DevServer

ROOT = Path(__file__).parents[2]
VCENTER = {"name": "east", "url": "https://vcenter.example.com"}


def gpuwright(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "cli", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "120", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def configuration(temporal_server: DevServer, queues: TaskQueues, tmp_path: Path) -> Path:
    temporal = {"address": temporal_server.address, "task_queue": queues.base}
    return write_configuration(tmp_path / "etc", temporal=temporal, vcenters=[VCENTER])


@pytest.mark.timeout(400)
def test_statuses_are_right_a_hundred_times(configuration: Path, tmp_path: Path) -> None:
    config = str(configuration)
    commands = [
        (["runs", "list", "--config", config], 0),
        (["runs", "show", "prepare-gpu-host/east/nobody", "--config", config], 1),
    ] * 50
    # Most of what a command takes is its imports, which have no part in how it ends.
    whole, forked = commands[:10], commands[10:]
    with ThreadPoolExecutor(2) as pool:
        ended = [
            (done.returncode, done.stdout, done.stderr) for done in pool.map(lambda each: gpuwright(*each[0]), whole)
        ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.forked_commands", str(tmp_path)],
        cwd=ROOT,
        input=json.dumps([arguments for arguments, _ in forked]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    for number, status in enumerate(json.loads(done.stdout)):
        said = [(tmp_path / f"{number}{suffix}").read_text() for suffix in (".out", ".err")]
        ended.append((status, said[0], said[1]))
    wrong = [end for end, (_, status) in zip(ended, commands, strict=True) if end[0] != status]
    assert wrong == []
    assert {said for _, said, _ in ended[::2]} == {"No runs.\n"}
    assert all("nobody" in told for _, _, told in ended[1::2])


def test_wrong_usage_has_a_status_of_its_own() -> None:
    for arguments in (["nonsense"], ["serve"], ["check-config", "--config", "x", "--colour"], []):
        ended = gpuwright(*arguments, GPUWRIGHT_CONFIG="")
        assert ended.returncode == 64, arguments
        assert "Usage" in ended.stdout + ended.stderr


def test_version_and_help_end_well() -> None:
    assert gpuwright("--version").stdout.startswith("gpuwright 0.")
    ended = gpuwright("--help")
    assert ended.returncode == 0
    for command in ("prepare", "plan", "approvals", "runs", "serve", "simulator", "keys", "check-config", "demo"):
        assert command in ended.stdout


def test_known_error_is_one_message_without_a_traceback(tmp_path: Path) -> None:
    ended = gpuwright("check-config", "--config", tmp_path / "nowhere.yaml")
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: ")
    assert "nowhere.yaml: cannot be read: No such file or directory" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_unforeseen_error_shows_its_traceback_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr("cli.serve.check_config", broken)
    assert run(["check-config"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "ZeroDivisionError was not foreseen" in said


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (NeedsHuman("turn [it] on"), 1, "error: turn [it] on\n"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(7), 7, ""),
    ],
)
def test_every_way_out_has_its_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    status: int,
    said: str,
) -> None:
    def ends() -> None:
        raise raised

    monkeypatch.setattr("cli.serve.check_config", ends)
    assert run(["check-config"]) == status
    assert capsys.readouterr().err == said


def test_reader_that_goes_away_is_no_crash(configuration: Path) -> None:
    command = [sys.executable, "-m", "cli", "check-config", "--json", "--config", str(configuration)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 1
    assert b"Traceback" not in said


def test_check_config_says_what_is_there(configuration: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = gpuwright("check-config", "--config", configuration)
    assert ended.returncode == 0
    assert ended.stdout.endswith("is right: vCenters east; 1 rules, 1 profiles\n")
    assert run(["check-config", "--json", "--config", str(configuration)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is True
    assert document["settings"]["vcenters"][0]["name"] == "east"
    assert document["rules"]["profiles"]["training"]["gpus"][0]["match"] == "10de:20f1"
    assert "secret" not in json.dumps(document)


def test_check_config_names_everything_that_is_wrong_in_all_files(
    configuration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = configuration.parent
    (directory / "password").unlink()
    (directory / "alice.pub").write_text("junk")
    (directory / "rules.yaml").write_text("rules: [{name: x}]")
    assert run(["check-config", "--config", str(configuration)]) == 1
    told = capsys.readouterr().err
    for part in ("rules.yaml:1: rules[0].start: is missing", "alice.pub holds no public key", "password file"):
        assert part in told


def test_check_config_holds_vms_of_rules_against_the_configuration(
    configuration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vm = "vms: {x: {name: x, vcenter: eats, cluster: c, source: {template: t}, gpus: [{model: A100}]}}"
    (configuration.parent / "rules.yaml").write_text(vm)
    assert run(["check-config", "--config", str(configuration)]) == 1
    told = capsys.readouterr().err
    assert "rules.yaml:1: vms.x.vcenter: there is no vCenter 'eats'" in told
    assert "did you mean 'east'?" in told


def test_new_keys_are_told_and_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = gpuwright("keys", "new", tmp_path / "alice", "--json")
    assert made.returncode == 0
    assert json.loads(made.stdout)["public_file"] == str(tmp_path / "alice.pub")
    assert run(["keys", "new", str(tmp_path / "alice")]) == 1
    assert "exists and is not overwritten" in capsys.readouterr().err


def test_simulator_is_a_command() -> None:
    assert "--time-scale" in gpuwright("simulator", "--help").stdout
