"""Which hosts were taken out of service, on both worlds."""

from datetime import UTC, datetime, timedelta

from pyVmomi import vim

from tests.vsphere.conftest import World
from vsphere.host_modes import HostModes, read_host_modes
from vsphere.inventory import find_host


def test_hosts_are_told_by_moid_and_one_that_is_gone_hides_no_other(si: vim.ServiceInstance, world: World) -> None:
    first, second = (find_host(si, world.name, name).moid for name in world.hosts[:2])
    modes, now = read_host_modes(si, [first, "host-99999", second])
    assert modes == {moid: HostModes(maintenance=False, standby=False) for moid in (first, second)}
    assert abs(now - datetime.now(UTC)) < timedelta(days=1)
    assert read_host_modes(si, ["host-99999"])[0] == {}
