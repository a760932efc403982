"""What operators do from the command line, against a running service and a simulated vCenter."""

import json
from pathlib import Path

import yaml

from tests.cli.conftest import Installation
from tests.support.service import write_configuration


def test_plan_shows_the_steps_changes_nothing_and_says_so_by_its_status(installation: Installation) -> None:
    host = installation.add_host()
    for _ in range(2):
        shown = installation.gpuwright("plan", "host", host, "--profile", "training")
        assert shown.returncode == 2, shown.stderr
        for word in ("enter-maintenance", "enable-passthrough", "reboot", "exit-maintenance", "disruptive"):
            assert word in shown.stdout
    told = installation.gpuwright("plan", "host", host, "--profile", "training", "--json")
    assert told.returncode == 2
    plan = json.loads(told.stdout)
    assert plan["plan"]["steps"][0]["kind"] == "enter-maintenance"
    assert plan["gpus"][0]["right"] is False


def test_a_blocked_plan_is_an_error_with_its_fix(installation: Installation) -> None:
    host = installation.add_host(iommu=False)
    shown = installation.gpuwright("plan", "host", host, "--profile", "training")
    assert shown.returncode == 1
    assert "Host does not support passthrough configuration" in shown.stdout.replace("\n", " ")
    assert "VT-d" in shown.stdout


def test_a_mistyped_host_or_profile_is_named_with_what_there_is(installation: Installation) -> None:
    host = installation.add_host()
    wrong = installation.gpuwright("plan", "host", host[:-1], "--profile", "training")
    assert wrong.returncode == 1
    assert host in wrong.stderr
    wrong = installation.gpuwright("prepare", host, "--profile", "trainnig")
    assert wrong.returncode == 1
    assert "training" in wrong.stderr
    wrong = installation.gpuwright("prepare", host, "--profile", "training", "--vcenter", "elsewhere")
    assert wrong.returncode == 1
    assert "elsewhere" in wrong.stderr


def test_an_added_host_is_heard_approved_and_prepared(installation: Installation) -> None:
    host = installation.add_host(cluster="gpu-01")
    approval = installation.approval(host)
    assert approval["requester"] == "rule:prepare-new-gpu-hosts"
    assert host in installation.gpuwright("approvals", "show", host).stdout
    done = installation.json("approvals", "approve", host, "--hash", approval["plan_hash"], "--comment", "go on")
    assert (done["state"], done["approver"], done["comment"]) == ("approved", "cli:alice", "go on")
    ended = installation.until(
        "end of the run",
        lambda: (told := installation.json("runs", "show", approval["workflow_id"]))["finished_at"] and told,
        90,
    )
    assert (ended["outcome"], ended["requester"]) == ("prepared", "rule:prepare-new-gpu-hosts")
    assert installation.gpuwright("plan", "host", host, "--profile", "training").returncode == 0
    shown = installation.gpuwright("runs", "show", approval["workflow_id"])
    assert "prepared" in shown.stdout
    assert approval["workflow_id"] in installation.gpuwright("runs", "list", "--all").stdout
    again = installation.gpuwright("prepare", host, "--profile", "training")
    assert again.returncode == 0
    assert "already-right" in again.stdout


def test_who_asked_may_not_approve(installation: Installation) -> None:
    host = installation.add_host()
    with installation.start("prepare", host, "--profile", "training", "--reason", "new rack", user="bob") as following:
        assert following.stderr is not None
        assert any("awaiting-approval" in line for line in following.stderr)
        approval = installation.approval(host)
        assert (approval["requester"], approval["reason"]) == ("cli:bob", "new rack")
        own = installation.gpuwright("approvals", "approve", host, "--hash", approval["plan_hash"], user="bob")
        assert own.returncode == 1
        assert "another person" in own.stderr
        stale = installation.gpuwright("approvals", "approve", host, "--hash", "0" * 32)
        assert stale.returncode == 1
        assert "the plan changed" in stale.stderr
        unsaid = installation.gpuwright("approvals", "approve", host)
        assert unsaid.returncode == 1
        assert "--hash" in unsaid.stderr
        denied = installation.gpuwright("approvals", "deny", host, "--hash", approval["plan_hash"])
        assert denied.returncode == 0, denied.stderr
        following.communicate(timeout=30)
        assert following.returncode == 1
    repeated = installation.gpuwright("approvals", "deny", approval["workflow_id"], "--hash", approval["plan_hash"])
    assert repeated.returncode == 1
    assert "ended" in repeated.stderr


def test_a_key_that_the_service_does_not_trust_decides_nothing(installation: Installation, tmp_path: Path) -> None:
    host = installation.add_host()
    started = installation.json("prepare", host, "--profile", "training", "--no-wait", user="bob")
    approval = installation.approval(host)
    assert installation.gpuwright("keys", "new", str(tmp_path / "mine")).returncode == 0
    forged = installation.gpuwright(
        "approvals", "approve", host, "--hash", approval["plan_hash"], "--key", str(tmp_path / "mine")
    )
    assert forged.returncode == 1
    assert "not trusted" in forged.stderr
    cancelled = installation.gpuwright("runs", "cancel", started["workflow_id"])
    assert cancelled.returncode == 0
    followed = installation.gpuwright("runs", "cancel", "prepare-gpu-host/nowhere/nothing")
    assert followed.returncode == 1
    assert "no such run" in followed.stderr


def test_a_second_profile_for_a_host_in_work_is_refused(installation: Installation) -> None:
    rules = installation.configuration.with_name("rules.yaml")
    document = yaml.safe_load(rules.read_text())
    document["profiles"]["other"] = {"gpus": [{"match": "10de:20f1", "mode": "passthrough"}]}
    rules.write_text(yaml.safe_dump(document))
    host = installation.add_host()
    started = installation.json("prepare", host, "--profile", "training", "--no-wait")
    refused = installation.gpuwright("prepare", host, "--profile", "other")
    assert refused.returncode == 1
    assert "is being prepared for profile training" in refused.stderr
    assert installation.gpuwright("runs", "cancel", started["workflow_id"]).returncode == 0


def test_a_blocked_run_looks_again_when_told(installation: Installation) -> None:
    host = installation.add_host(iommu=False)
    started = installation.json("prepare", host, "--profile", "training", "--no-wait")
    run = started["workflow_id"]
    installation.until("blocked run", lambda: installation.json("runs", "show", run)["stage"] == "blocked")
    nothing_failed = installation.gpuwright("runs", "resolve", run, "retry")
    assert nothing_failed.returncode == 1
    assert "no failed step" in nothing_failed.stderr
    installation.simulator.act("set_iommu", host=host, on=True)
    assert installation.gpuwright("runs", "recheck", run).returncode == 0
    assert installation.approval(host)["workflow_id"] == run
    assert installation.gpuwright("runs", "cancel", run).returncode == 0


def test_vcenter_troubles_are_told_in_one_message(installation: Installation, tmp_path: Path) -> None:
    simulator = installation.simulator
    right = {
        "name": "vc",
        "url": f"https://{simulator.host}:{simulator.port}",
        "user": simulator.user,
        "password_file": str(installation.configuration.with_name("vcenter-password")),
        "ca_file": str(simulator.ca_file),
    }
    (tmp_path / "wrong-password").write_text("nope")
    cases = {
        "refused user": right | {"password_file": "wrong-password"},
        "certificate": {name: value for name, value in right.items() if name != "ca_file"},
        "Connection refused": right | {"url": "https://127.0.0.1:1"},
    }
    for number, (words, vcenter) in enumerate(cases.items()):
        path = write_configuration(tmp_path / str(number), temporal={}, vcenters=[vcenter])
        (path.parent / "wrong-password").write_text("nope")
        told = installation.gpuwright("plan", "host", "esx-01", "--profile", "training", "--config", str(path))
        assert told.returncode == 1
        assert words in told.stderr
        assert "Traceback" not in told.stderr
        assert "nope" not in told.stderr
