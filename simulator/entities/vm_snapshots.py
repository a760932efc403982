"""Snapshots as vSphere shows them."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim

from simulator.core import Call, Managed, method, prop
from simulator.laws import snapshots
from simulator.world import Snapshot, VirtualMachine, World

__all__ = ["SnapshotEntity", "snapshot_info"]


class SnapshotEntity(Managed):
    vim_type = vim.vm.Snapshot

    def __init__(self, world: World, state: Snapshot) -> None:
        super().__init__(world.registry, state.moid)
        self.world = world
        self.state = state

    @prop("vm")
    def vm(self) -> Any:
        return self.world.ref(self.state.vm)

    @prop("childSnapshot")
    def child_snapshot(self) -> list[Any]:
        found = self.state.vm.snapshots
        return [self.world.ref(child) for child in found[found.index(self.state) + 1 :][:1]]

    @method("RemoveSnapshot_Task")
    def remove(self, call: Call, removeChildren: bool, consolidate: bool | None = None) -> Managed:
        found = self.state.vm.snapshots
        gone = found[found.index(self.state) :] if removeChildren else [self.state]
        work = snapshots.remove(self.world, self.state.vm, gone)
        return self.registry.tasks.start(self.world.managed(self.state.vm), "vm.Snapshot.remove", work)


def snapshot_info(world: World, vm: VirtualMachine) -> Any:
    """`SnapshotInfo`, unset without snapshots."""
    tree: list[Any] = []
    for found in reversed(vm.snapshots):
        tree = [
            vim.vm.SnapshotTree(
                snapshot=world.ref(found),
                vm=world.ref(vm),
                name=found.name,
                description=found.description,
                id=found.number,
                createTime=found.created,
                state=found.power_state,
                quiesced=found.quiesced,
                childSnapshotList=tree,
            )
        ]
    return vim.vm.SnapshotInfo(currentSnapshot=world.ref(vm.snapshots[-1]), rootSnapshotList=tree) if tree else None
