"""A vCenter in parts, each small enough to travel, and the right one of several found again."""

from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from contracts.fleet import FleetCluster, FleetGpu, FleetHost, FleetVm, GpuFleet, VgpuKind, VmGpu
from contracts.host import HostRef
from contracts.packing import packed, unpacked
from contracts.snapshots import KEPT, ClusterSnapshot, ClusterSnapshotsInput
from planning.snapshots import before, by_subject, snapshot_of

NOW = datetime(2026, 6, 1, tzinfo=UTC)
EMPTY = packed(GpuFleet(vcenter="vc"))
PAYLOAD = 2 * 1024 * 1024
"""Bytes that Temporal takes."""


def host(number: int, cluster: str = "", gpus: tuple[FleetGpu, ...] = ()) -> FleetHost:
    ref = HostRef(vcenter="vc", key=f"key-{number}", moid=f"host-{number}", name=f"esx-{number}")
    return FleetHost(ref=ref, cluster_moid=cluster, gpus=gpus)


def vm(number: int, on: int) -> FleetVm:
    return FleetVm(
        moid=f"vm-{number}",
        instance_uuid=f"uuid-{number}",
        name=f"train-{number}",
        host_moid=f"host-{on}",
        powered_on=True,
    )


FLEET = GpuFleet(
    vcenter="vc",
    clusters=(FleetCluster(moid="domain-c1", name="gpu-01"), FleetCluster(moid="domain-c2", name="gpu-02")),
    hosts=(host(1, "domain-c1"), host(2, "domain-c2"), host(3), host(4, "domain-c1")),
    vms=(vm(1, 1), vm(2, 2), vm(3, 3), vm(4, 4), vm(5, on=99)),
    unread=("host-2 hardware.pciDevice: NoPermission", "vm-3 config.hardware.device: NoPermission"),
    read_at=NOW,
)


def test_a_fleet_is_parted_by_cluster_and_by_host_where_there_is_none() -> None:
    parts = by_subject(FLEET)
    assert list(parts) == ["domain-c1", "domain-c2", "key-3"]
    assert [[each.name for each in part.vms] for part in parts.values()] == [
        ["train-1", "train-4"],
        ["train-2"],
        ["train-3"],
    ]
    assert [[each.name for each in part.clusters] for part in parts.values()] == [["gpu-01"], ["gpu-02"], []]
    assert [part.unread for part in parts.values()] == [(), FLEET.unread[:1], FLEET.unread[1:]]
    assert {part.read_at for part in parts.values()} == {NOW}


def test_a_snapshot_says_whose_it_is_and_holds_the_whole_part() -> None:
    part = by_subject(FLEET)["domain-c1"]
    snapshot = snapshot_of(part, "domain-c1")
    assert (snapshot.name, snapshot.taken_at, snapshot.vms) == ("gpu-01", NOW, 2)
    assert unpacked(GpuFleet, snapshot.fleet) == part
    assert snapshot_of(by_subject(FLEET)["key-3"], "key-3").name == "esx-3"
    with pytest.raises(ValueError, match="does not say when it was read"):
        snapshot_of(part.model_copy(update={"read_at": None}), "domain-c1")


def test_the_newest_snapshot_before_a_failure_is_found_and_never_one_of_the_same_moment() -> None:
    snapshots = [
        ClusterSnapshot(vcenter="vc", subject="c", taken_at=NOW + timedelta(minutes=minutes), fleet=EMPTY)
        for minutes in (20, 0, 10)
    ]
    assert before(snapshots, NOW + timedelta(minutes=15)) == snapshots[2]
    assert before(snapshots, NOW + timedelta(minutes=20)) == snapshots[2]
    assert before(snapshots, NOW + timedelta(hours=9)) == snapshots[0]
    assert before(snapshots, NOW) is None
    assert before((), NOW) is None


def test_a_snapshot_that_shows_the_host_lost_already_is_passed_over_while_there_is_another() -> None:
    def taken(minutes: int, *lost: int) -> ClusterSnapshot:
        state = {True: "notResponding", False: "connected"}
        hosts = tuple(host(number).model_copy(update={"connection_state": state[number in lost]}) for number in (1, 2))
        at = NOW + timedelta(minutes=minutes)
        return snapshot_of(GpuFleet(vcenter="vc", hosts=hosts, read_at=at), "c")

    snapshots = [taken(0), taken(10, 2), taken(20, 1, 2)]
    later = NOW + timedelta(hours=1)
    assert before(snapshots, later) == snapshots[2]
    assert before(snapshots, later, ["key-1"]) == snapshots[1]
    assert before(snapshots, later, ["key-1", "key-2"]) == snapshots[0]
    assert before(snapshots, later, ["key-new"]) == snapshots[2]
    assert before(snapshots, NOW + timedelta(minutes=5), ["key-1"]) == snapshots[0]
    assert before(snapshots[1:], later, ["key-2"]) == snapshots[2], "better than nothing"


def large_cluster(hosts: int = 96, gpus: int = 8, vms: int = 3000) -> GpuFleet:
    """The largest cluster there is, with every field of a VM filled with something of its own."""
    random = Random(1)

    def word(digits: int) -> str:
        return f"{random.getrandbits(4 * digits):0{digits}x}"

    profiles = tuple(f"nvidia_a40-{size}q" for size in (1, 2, 4, 6, 8, 12, 16, 24, 48))
    running = {on: [number for number in range(vms) if number % hosts == on] for on in range(hosts)}
    fleet_hosts = tuple(
        FleetHost(
            ref=HostRef(
                vcenter="vc", key=f"{word(8)}-{word(24)}", moid=f"host-{on}", name=f"esx-{on:03}.gpu.example.com"
            ),
            cluster_moid="domain-c1",
            power_state="poweredOn",
            ha_state="connectedToMaster",
            version="8.0.3",
            cpus=128,
            memory_mib=2**20,
            reserved_mib=random.randrange(2**20),
            assignment_policy="performance",
            vgpu_kinds=tuple(VgpuKind(name=name, framebuffer_mib=1024, migrate_supported=True) for name in profiles),
            gpus=tuple(
                FleetGpu(
                    sbdf=f"0000:{card:02x}:00.0",
                    vendor_device="10de:2235",
                    name="NVIDIA A40",
                    framebuffer_mib=49152,
                    active_type="sharedDirect",
                    vgpu_mode="mixedSize",
                    profiles=profiles,
                    vm_moids=tuple(f"vm-{number}" for number in running[on][card::gpus]),
                )
                for card in range(gpus)
            ),
        )
        for on in range(hosts)
    )
    fleet_vms = tuple(
        FleetVm(
            moid=f"vm-{number}",
            instance_uuid=f"{word(8)}-{word(24)}",
            name=f"tenant-{word(6)}-{number}",
            host_moid=f"host-{number % hosts}",
            powered_on=True,
            power_state="poweredOn",
            memory_mib=random.choice((16384, 32768, 65536)),
            gpus=(VmGpu(key=13000, kind="vgpu", profile="nvidia_a40-12q", assigned=f"0000:{number % gpus:02x}:00.0"),),
            ha_protected=True,
            restart_priority=random.choice(("low", "medium", "high")),
            mmio_gib=128,
            barred=tuple(f"host-{random.randrange(hosts)}" for _ in range(4)),
            tools_running=True,
            boot_time=NOW - timedelta(seconds=random.randrange(10**7)),
        )
        for number in range(vms)
    )
    cluster = FleetCluster(moid="domain-c1", name="gpu-01", ha_enabled=True, drs_enabled=True)
    return GpuFleet(vcenter="vc", clusters=(cluster,), hosts=fleet_hosts, vms=fleet_vms, read_at=NOW)


def test_the_largest_cluster_travels_far_below_what_temporal_takes() -> None:
    fleet = large_cluster()
    (part,) = by_subject(fleet).values()
    snapshot = snapshot_of(part, "domain-c1")
    assert unpacked(GpuFleet, snapshot.fleet) == fleet
    one = len(snapshot.model_dump_json())
    kept = tuple(snapshot.model_copy(update={"taken_at": NOW + timedelta(hours=hour)}) for hour in range(KEPT))
    carried = len(ClusterSnapshotsInput(vcenter="vc", subject="domain-c1", snapshots=kept).model_dump_json())
    print(f"96 hosts, 768 GPUs, 3,000 GPU VMs: {one / 1024:.0f} KiB packed, {carried / 1024:.0f} KiB with all kept")
    assert one < PAYLOAD / 8
    assert carried < PAYLOAD / 2


def test_what_was_not_packed_is_refused() -> None:
    with pytest.raises(ValueError, match="not a packed GpuFleet"):
        unpacked(GpuFleet, "AAAA")
    with pytest.raises(ValueError, match="base64"):
        unpacked(GpuFleet, "no!")
    assert unpacked(GpuFleet, packed(FLEET)) == FLEET
