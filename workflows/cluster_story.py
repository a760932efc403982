"""What the Temporal UI shows of a cluster's preparation, as Markdown: a pure function from the report."""

from contracts.approvals import ApprovalState
from contracts.cluster import HostProgress, HostState, PrepareGpuClusterReport
from workflows.story import cut, escape

__all__ = ["tell_cluster"]

_LONGEST_TEXT = 100
"""96 hosts are the most that vSphere puts into a cluster: their lines fit below the limit of the whole."""
_MARK = {
    HostState.SKIPPED: "–",
    HostState.WAITING: "·",
    HostState.RUNNING: "▶",
    HostState.JOINED: "▶",
    HostState.DONE: "✔",
    HostState.FAILED: "✘",
    HostState.NOT_STARTED: "⤼",
}


def tell_cluster(report: PrepareGpuClusterReport) -> str:
    """The run's current details: where it stands, what it waits for, and each host with its state."""
    title = f"**{escape(report.cluster_name)}** → profile `{report.profile}`: **{report.outcome or report.stage}**"
    lines = [title, "", escape(report.detail), ""]
    for approval in report.approvals:
        if approval.state is ApprovalState.PENDING:
            lines.append(
                f"Approval of plan `{approval.plan_hash}` is asked until {approval.deadline:%Y-%m-%d %H:%M} UTC. "
                f"`gpuwright approvals approve {approval.workflow_id}`"
            )
        else:
            who = f" by {escape(approval.approver)}" if approval.approver else ""
            lines.append(f"Plan `{approval.plan_hash}` {approval.state}{who}")
        lines.append("")
    if report.hosts:
        lines += ["| host | state | outcome | what |", "|---|---|---|---|", *map(_row, report.hosts)]
    return cut("\n".join(lines))


def _row(progress: HostProgress) -> str:
    state = f"{_MARK[progress.state]} {progress.state}" + (" (canary)" if progress.canary else "")
    text = progress.text if len(progress.text) <= _LONGEST_TEXT else progress.text[: _LONGEST_TEXT - 1] + "…"
    outcome = progress.outcome or (progress.fit if progress.state is HostState.SKIPPED else "")
    return f"| {escape(progress.host.name)} | {state} | {outcome} | {escape(text)} |"
