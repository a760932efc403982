"""What the managers below a host's `configManager` share."""

from __future__ import annotations

from simulator.core import Managed
from simulator.world import Host, World

__all__ = ["HostManager"]


class HostManager(Managed):
    """A manager of one host; its moid is the manager's name and the host's number."""

    prefix = ""

    def __init__(self, world: World, host: Host) -> None:
        super().__init__(world.registry, f"{self.prefix}-{host.moid.removeprefix('host-')}")
        self.world = world
        self.host = host
