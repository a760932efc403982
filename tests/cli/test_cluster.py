"""A whole cluster from the command line: asked once, followed, paused and shown."""

from tests.cli.conftest import Installation


def test_a_cluster_is_prepared_with_one_approval_and_followed_to_its_end(installation: Installation) -> None:
    hosts = sorted([installation.add_host(cluster="gpu-03"), installation.add_host(cluster="gpu-03")])
    started = installation.json("prepare-cluster", "gpu-03", "--profile", "training", "--no-wait", "--reason", "new")
    run = started["workflow_id"]
    following = installation.start("prepare-cluster", "gpu-03", "--profile", "training")
    approval = installation.approval("gpu-03")
    assert approval["workflow_id"] == run
    shown = installation.gpuwright("approvals", "show", "gpu-03").stdout
    assert all(host in shown for host in hosts)
    assert installation.gpuwright("runs", "pause", run).returncode == 0
    installation.json("approvals", "approve", "gpu-03", "--hash", approval["plan_hash"], user="bob")
    assert "Paused by cli:alice" in str(
        installation.until("pause", lambda: _told(installation, run, "Paused by cli:alice"))
    )
    listed = installation.json("runs", "list")
    assert (run, "gpu-03") in {(row["workflow_id"], row["cluster"]) for row in listed}
    assert installation.gpuwright("runs", "resume", run).returncode == 0
    out, told = following.communicate(timeout=90)
    assert following.returncode == 0, told
    assert all(host in out for host in hosts)
    assert "prepared" in out
    assert "Joined the run that cli:alice started" in told
    assert any(f"{host}: running" in told for host in hosts)
    report = installation.json("runs", "show", run)
    assert report["outcome"] == "prepared"
    outcomes = {each["host"]["name"]: each["outcome"] for each in report["hosts"]}
    assert [outcomes[host] for host in hosts] == ["prepared", "prepared"]
    again = installation.json("prepare-cluster", "gpu-03", "--profile", "training")
    assert again["outcome"] == "already-right"


def _told(installation: Installation, run: str, words: str) -> str:
    shown = installation.gpuwright("runs", "show", run).stdout
    return shown if words in shown else ""


def test_a_mistyped_cluster_is_named_with_what_there_is(installation: Installation) -> None:
    wrong = installation.gpuwright("prepare-cluster", "gpu-99", "--profile", "training")
    assert wrong.returncode == 1
    assert "gpu-99" in wrong.stderr
    assert "gpu-01" in wrong.stderr


def test_only_the_preparation_of_a_cluster_can_be_paused(installation: Installation) -> None:
    wrong = installation.gpuwright("runs", "pause", "prepare-gpu-host/vc/h")
    assert wrong.returncode == 1
    assert "only preparations of clusters" in wrong.stderr
