"""Drift from the command line: seen, proposed, approved and gone."""

import json
from typing import Any

from pyVmomi import vim

from tests.cli.conftest import Installation


def test_a_change_behind_our_back_is_shown_and_proposed(installation: Installation) -> None:
    host = installation.add_host()
    following = installation.start("prepare", host, "--profile", "training")
    approval = installation.approval(host)
    installation.json("approvals", "approve", host, "--hash", approval["plan_hash"], user="bob")
    following.communicate(timeout=90)
    assert following.returncode == 0
    _remove_label(installation, host)
    # Temporal lists the closed preparation a moment later.
    drift = installation.until("drift", lambda: _drift(installation, host), timeout_s=60)
    assert (drift["standing"], drift["proposal"]) == ("drifted", "started")
    shown = installation.gpuwright("fleet", "drift")
    assert shown.returncode == 2, shown.stderr
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith(host)]
    assert "set-hardware-label" in line
    assert "asked for approval" in line
    assert not shown.stderr
    proposed = installation.approval(host)
    assert proposed["requester"] == "schedule:reconcile-fleet"
    # An open run would be in the way of tests that look for none.
    installation.json("approvals", "deny", host, "--hash", proposed["plan_hash"])


def test_what_is_not_as_expected_is_shown_with_its_fix_and_a_host_that_is_down_by_the_exit_status(
    installation: Installation,
) -> None:
    host = installation.add_host()
    calm = installation.gpuwright("fleet", "drift", "--now")
    (line,) = [line for line in calm.stdout.splitlines() if host in line]
    assert line.startswith("HostNeverPrepared")
    assert "snapshots kept" in calm.stdout
    installation.simulator.act("fail_host", host=host)

    def down() -> dict[str, Any] | None:
        done = installation.gpuwright("fleet", "drift", "--now", "--json")
        (report,) = json.loads(done.stdout)
        named = [each for each in report["fleet"]["findings"] if each["host"]["name"] == host]
        if [each["kind"] for each in named] != ["gpuwright.HostDown"]:
            return None
        assert done.returncode == 2, done.stderr
        return dict(named[0])

    finding = installation.until("host that is down", down, timeout_s=60)
    assert "notResponding" in finding["text"]
    assert "maintenance mode" in finding["fix"]
    assert (finding["rule"], finding["action"]) == ("", "none")
    installation.simulator.act("restore_host", host=host)


def test_a_mistyped_vcenter_is_named_with_what_there_is(installation: Installation) -> None:
    wrong = installation.gpuwright("fleet", "drift", "--vcenter", "nowhere")
    assert wrong.returncode == 1
    assert "there is no vCenter 'nowhere' in the configuration; it has: vc-" in wrong.stderr


def _drift(installation: Installation, host: str) -> Any:
    done = installation.gpuwright("fleet", "drift", "--now", "--json")
    (report,) = json.loads(done.stdout)
    wrong = report["drifted"] or "gpuwright.HostDown" in report["fleet"]["counts"]
    assert done.returncode == (2 if wrong else 0), done.stderr
    assert "memory" not in report
    return next((each for each in report["hosts"] if each["host"]["name"] == host), None)


def _remove_label(installation: Installation, name: str) -> None:
    si = installation.simulator.connect()
    try:
        view = si.content.viewManager.CreateContainerView(si.content.rootFolder, [vim.HostSystem], True)
        host = next(each for each in view.view if each.name == name)
        gpu = host.config.graphicsInfo[0].pciId
        host.configManager.pciPassthruSystem.UpdatePassthruConfig(
            [vim.host.PciPassthruConfig(id=gpu, passthruEnabled=True, hardwareLabel="")]
        )
    finally:
        installation.simulator.disconnect(si)
