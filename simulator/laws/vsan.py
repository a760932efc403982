"""vSAN: objects that are rebuilt, and hosts that cannot be taken away meanwhile."""

from __future__ import annotations

from simulator.world import Cluster, World

__all__ = ["accessible_without", "resyncing", "start_resync", "wait_for_resync"]

_OBJECTS_A_SECOND = 0.5
_BYTES_AN_OBJECT = 4 * 2**30
_STEP_SECONDS = 5.0


def start_resync(world: World, cluster: Cluster, seconds: float) -> None:
    """vSAN rebuilds objects for `seconds` of the world's time, as after a disk failed."""
    running = cluster.vsan_resync_seconds > 0
    cluster.vsan_resync_seconds = seconds
    if not running:
        world.start(_resync(world, cluster))


async def _resync(world: World, cluster: Cluster) -> None:
    while cluster.vsan_resync_seconds > 0:
        # At a high time scale, steps of a few seconds would be a busy loop.
        step = min(cluster.vsan_resync_seconds, max(_STEP_SECONDS, 0.01 * world.registry.clock.scale))
        await world.sleep(step)
        cluster.vsan_resync_seconds = max(0.0, cluster.vsan_resync_seconds - step)


def resyncing(cluster: Cluster) -> tuple[int, int]:
    """How many objects vSAN rebuilds now, and the bytes that are left."""
    objects = -int(-cluster.vsan_resync_seconds * _OBJECTS_A_SECOND // 1)
    return objects, objects * _BYTES_AN_OBJECT


def accessible_without(cluster: Cluster) -> bool:
    """All objects stay accessible when one more host goes away: nothing is being rebuilt."""
    return not cluster.vsan_enabled or cluster.vsan_resync_seconds <= 0


async def wait_for_resync(world: World, cluster: Cluster) -> float:
    """`ensureObjectAccessibility`: waits until nothing is being rebuilt; returns how many seconds that took."""
    waited = 0.0
    while not accessible_without(cluster):
        step = max(1.0, 0.01 * world.registry.clock.scale)
        await world.sleep(step)
        waited += step
    return waited
