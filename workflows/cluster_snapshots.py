"""`ClusterSnapshots`: one a cluster, or a host that is in none. It remembers who ran on which GPUs.

When a host has failed, it cannot be asked who was on it; what is kept here was read before. It ends by itself when no
snapshot has come for a month; its result is the last word then.
"""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from contracts import names, search_attributes
    from contracts.snapshots import KEPT, ClusterSnapshot, ClusterSnapshotsInput, ClusterSnapshotsStatus

from workflows.story import plain

__all__ = ["ClusterSnapshots"]


@workflow.defn(name=names.CLUSTER_SNAPSHOTS)
class ClusterSnapshots:
    """Keeps the newest snapshots of one subject."""

    @workflow.init
    def __init__(self, order: ClusterSnapshotsInput) -> None:
        self._order = order
        self._kept: tuple[ClusterSnapshot, ...] = order.snapshots
        self._news = True

    @workflow.signal(name=names.SNAPSHOT_TAKEN)
    def snapshot_taken(self, snapshot: ClusterSnapshot) -> None:
        """Another one, in any order. One that came before changes nothing, and is no news.

        Two of equal content are kept both: the later one may have been taken after a failure that it does not show.
        """
        times = {each.taken_at for each in self._kept}
        if snapshot.taken_at not in times:
            self._kept = tuple(sorted((*self._kept, snapshot), key=lambda each: each.taken_at)[-KEPT:])
            self._news = True

    @workflow.query(name=names.QUERY_SNAPSHOTS)
    def snapshots(self) -> ClusterSnapshotsStatus:
        """What is kept."""
        return ClusterSnapshotsStatus(snapshots=self._kept)

    @workflow.run
    async def run(self, order: ClusterSnapshotsInput) -> ClusterSnapshotsStatus:
        """Keep snapshots until none come any more."""
        workflow.upsert_search_attributes(
            [search_attributes.GPU_VCENTER.value_set(search_attributes.cut(order.vcenter))]
        )
        name = ""
        while await self._more():
            self._news = False
            if self._name != name:
                name = self._name
                workflow.upsert_search_attributes(
                    [search_attributes.GPU_CLUSTER.value_set(search_attributes.cut(name))]
                )
            workflow.set_current_details(self._tell())
            info = workflow.info()
            if info.is_continue_as_new_suggested() or info.get_current_history_length() > order.longest_history:
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(order.model_copy(update={"name": name, "snapshots": self._kept}))
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.snapshots()

    async def _more(self) -> bool:
        """Wait for a snapshot; False when none came for too long."""
        try:
            await workflow.wait_condition(
                lambda: self._news,
                timeout=timedelta(days=self._order.idle_days),
                timeout_summary="ends unless a snapshot comes",
            )
        except TimeoutError:
            return self._news
        return True

    @property
    def _name(self) -> str:
        """As the newest snapshot has it: clusters are renamed."""
        return self._kept[-1].name if self._kept else self._order.name

    def _tell(self) -> str:
        """The current details, as Markdown."""
        lines = [f"**{_plain(self._name)}**: who ran on which GPUs, kept for when its hosts cannot be asked", ""]
        if not self._kept:
            return "\n".join([*lines, "No snapshot has been taken yet."])
        lines += ["| taken at (UTC, vCenter's clock) | GPU VMs | KiB |", "|---|---|---|"]
        lines += [
            f"| {each.taken_at:%Y-%m-%d %H:%M:%S} | {each.vms} | {len(each.fleet) / 1024:.1f} |"
            for each in reversed(self._kept)
        ]
        return "\n".join(lines)


def _plain(text: str) -> str:
    return plain(text, 300)
