"""An audit as an operator sees it: listed, shown, as JSON and as a document."""

import json
import uuid
from typing import Any

from tests.cli.conftest import Installation
from vsphere.inventory import find_host, read_host
from vsphere.passthrough import set_passthrough

CLUSTER = "gpu-05"


def test_a_failed_host_is_audited_and_its_vms_are_told_with_their_reasons(installation: Installation) -> None:
    label = uuid.uuid4().hex[:8]
    failing, spare = (_host(installation, label) for _ in range(2))
    back, pinned = (f"{name}-{label}" for name in ("back", "pinned"))
    installation.simulator.act("add_vm", host=failing, name=back, gpu="dynamic", label=label)
    device = _gpus(installation, failing)[1]
    installation.simulator.act("add_vm", host=failing, name=pinned, gpu="static", device=device)
    look = installation.gpuwright("fleet", "drift", "--now")
    assert look.returncode in (0, 2), look.stderr
    installation.simulator.act("fail_host", host=failing)

    report = installation.until("verdicts", lambda: _asked(installation, failing), timeout_s=90)
    verdicts = {each["name"]: each for each in report["verdicts"]}
    assert verdicts[back]["recovery"] == "recovered"
    assert verdicts[back]["now_on"] == spare
    assert verdicts[back]["took_s"] >= 0
    assert (verdicts[pinned]["recovery"], verdicts[pinned]["reason"]) == ("not-restarted", "static-pinned")
    assert all(each["evidence"] for each in report["verdicts"])
    assert report["snapshot_at"]

    shown = installation.gpuwright("audit", "show", CLUSTER)
    assert shown.returncode == 0, shown.stderr
    for word in (back, pinned, "static-pinned", "Timeline", "Capacity after", "Remedies that are left"):
        assert word in shown.stdout
    document = installation.gpuwright("audit", "show", CLUSTER, "--markdown")
    assert document.stdout.startswith(f"# Recovery audit of {CLUSTER}")
    (row,) = [row for row in installation.json("audit", "list", "--open") if row["name"] == CLUSTER]
    assert row["counts"] == {"not-restarted": 1, "recovered": 1}
    listed = installation.gpuwright("audit", "list")
    assert "1 not-restarted, 1 recovered" in listed.stdout

    approval = installation.approval(CLUSTER)
    installation.json("approvals", "deny", approval["workflow_id"], "--hash", approval["plan_hash"], user="bob")
    ended = installation.until("the end", lambda: _ended(installation), timeout_s=60)
    assert ended.returncode == 2, ended.stderr
    assert "denied" in ended.stdout
    installation.simulator.act("restore_host", host=failing)
    # Other tests look at the whole fleet, and a host that is down is told there.
    installation.until("the host", lambda: _connected(installation, failing))


def test_what_was_not_audited_is_said(installation: Installation) -> None:
    wrong = installation.gpuwright("audit", "show", "gpu-99")
    assert wrong.returncode == 1
    assert "there is no audit of 'gpu-99'" in wrong.stderr
    both = installation.gpuwright("audit", "show", "gpu-99", "--json", "--markdown")
    assert both.returncode == 1
    assert "--json" in both.stderr


def _host(installation: Installation, label: str) -> str:
    """A host whose two GPUs are in passthrough with the label."""
    name = installation.add_host(cluster=CLUSTER, gpus=["10de:20f1"] * 2, rebind_without_reboot=True)
    si = installation.simulator.connect()
    try:
        ref = find_host(si, "lab", name)
        for graphics in read_host(si, ref).graphics:
            assert set_passthrough(si, ref, graphics.sbdf, True, label, apply_now=True)
    finally:
        installation.simulator.disconnect(si)
    return name


def _gpus(installation: Installation, host: str) -> list[str]:
    si = installation.simulator.connect()
    try:
        return sorted(graphics.sbdf for graphics in read_host(si, find_host(si, "lab", host)).graphics)
    finally:
        installation.simulator.disconnect(si)


def _connected(installation: Installation, host: str) -> bool:
    si = installation.simulator.connect()
    try:
        return read_host(si, find_host(si, "lab", host)).connection_state == "connected"
    finally:
        installation.simulator.disconnect(si)


def _asked(installation: Installation, host: str) -> Any:
    """The report once the audit asks about its remedies."""
    done = installation.gpuwright("audit", "show", host, "--json")
    report = json.loads(done.stdout) if done.returncode == 0 else {}
    return report if report.get("stage") == "awaiting-approval" else None


def _ended(installation: Installation) -> Any:
    done = installation.gpuwright("audit", "show", CLUSTER)
    return done if "not-all-recovered" in done.stdout else None
