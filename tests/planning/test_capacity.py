"""What the failure of a host would do to its GPU VMs, told before it happens."""

import time

import pytest

from contracts.errors import BadRequest
from contracts.fleet import FleetCluster, FleetGpu, FleetHost, FleetVm, GpuFleet, VgpuKind, VmGpu
from contracts.forecast import ForecastVm, HostForecast
from contracts.host import HostRef
from contracts.verdicts import Reason
from planning.capacity import forecast, forecasts, summary

A100, A100_80, A40 = "10de:20f1", "10de:20b5", "10de:2235"
CLUSTER = FleetCluster(
    moid="domain-c1", name="gpu-01", drs_enabled=True, drs_automation="fullyAutomated", ha_enabled=True
)
TRAINING = VmGpu(key=1, kind="dynamic", allowed=(A100,), label="Training")
ANY = VmGpu(key=1, kind="dynamic", allowed=(A100, A100_80))
PINNED = VmGpu(key=1, kind="static", sbdf="0000:01:00.0")
SHARE = VmGpu(key=1, kind="vgpu", profile="nvidia_a40-24c")


def whole(bus: int, label: str = "Training", pair: str = A100, by: str = "") -> FleetGpu:
    return FleetGpu(
        sbdf=f"0000:{bus:02x}:00.0",
        vendor_device=pair,
        name=pair,
        framebuffer_mib=40960,
        passthru_active=True,
        active_type="direct",
        label=label,
        vm_moids=(by,) if by else (),
    )


def shared(bus: int) -> FleetGpu:
    return FleetGpu(
        sbdf=f"0000:{bus:02x}:00.0",
        vendor_device=A40,
        name="A40",
        framebuffer_mib=49152,
        active_type="sharedDirect",
        vgpu_mode="sameSize",
        profiles=("nvidia_a40-24c", "nvidia_a40-48c"),
    )


def host(number: int, *gpus: FleetGpu, **fields: object) -> FleetHost:
    ref = HostRef(vcenter="vc", key=f"key-{number}", moid=f"host-{number}", name=f"esx-{number}")
    given: dict[str, object] = {"cluster_moid": CLUSTER.moid, "memory_mib": 65536, "gpus": gpus}
    kinds = (VgpuKind(name="nvidia_a40-24c", framebuffer_mib=24576),)
    return FleetHost.model_validate({"ref": ref, "vgpu_kinds": kinds, **given, **fields})


def vm(number: int, on: FleetHost, *gpus: VmGpu, **fields: object) -> FleetVm:
    given: dict[str, object] = {
        "moid": f"vm-{number}",
        "instance_uuid": f"uuid-{number}",
        "name": f"train-{number}",
        "host_moid": on.ref.moid,
        "powered_on": True,
        "memory_mib": 8192,
        "gpus": gpus or (TRAINING,),
    }
    return FleetVm.model_validate(given | fields)


def fleet(hosts: list[FleetHost], vms: list[FleetVm], cluster: FleetCluster = CLUSTER) -> GpuFleet:
    return GpuFleet(vcenter="vc", clusters=(cluster,), hosts=tuple(hosts), vms=tuple(vms))


def told(found: HostForecast) -> dict[str, tuple[bool, str, str]]:
    return {each.name: (each.comes_back, each.host, each.reason) for each in found.vms}


LOST = host(1, whole(1, by="vm-1"), whole(2, by="vm-2"))


def only(found: HostForecast) -> ForecastVm:
    assert len(found.vms) == 1
    return found.vms[0]


def test_vms_come_back_where_a_gpu_with_their_label_is_free_by_restart_priority_then_moid() -> None:
    spare = host(2, whole(1), whole(2, "Other"), whole(3, by="vm-9"))
    vms = [vm(10, LOST, restart_priority="low"), vm(9, LOST), vm(11, LOST, restart_priority="high")]
    found = forecast(fleet([LOST, spare], vms), CLUSTER.moid, "key-1")
    assert [(each.name, each.comes_back) for each in found.vms] == [
        ("train-9", False),
        ("train-10", False),
        ("train-11", True),
    ]
    assert found.vms[2].host == "esx-2"
    assert found.lost == 2
    assert found.vms[0].reason == Reason.NO_FREE_GPU
    assert found.vms[0].text == "asks for 10de:20f1 label Training: esx-2: in use: 0000:01:00.0, 0000:03:00.0"
    (short,) = found.shortages
    assert (short.kind, short.needed, short.missing) == ("10de:20f1 label Training", 3, 2)
    equal = [vm(10, LOST), vm(9, LOST)]
    assert told(forecast(fleet([LOST, spare], equal), CLUSTER.moid, "key-1"))["train-9"] == (True, "esx-2", "")


def test_the_host_with_most_free_memory_takes_a_vm_and_of_equals_the_first() -> None:
    hosts = [LOST, host(2, whole(1)), host(3, whole(1), memory_mib=131072), host(4, whole(1))]
    found = forecast(fleet(hosts, [vm(1, LOST), vm(2, LOST)]), CLUSTER.moid, "key-1")
    assert told(found) == {"train-1": (True, "esx-3", ""), "train-2": (True, "esx-2", "")}


@pytest.mark.parametrize(
    ("fields", "cluster", "reason", "words"),
    [
        ({"gpus": (PINNED,)}, {}, Reason.STATIC_PINNED, "0000:01:00.0 of esx-1"),
        ({}, {"ha_enabled": False}, Reason.HA_OFF, "HA is off in cluster gpu-01"),
        ({}, {"ha_host_monitoring": False}, Reason.HA_OFF, "host monitoring is off"),
        ({"restart_priority": "disabled"}, {}, Reason.UNPROTECTED, "priority is disabled"),
        ({"ha_protected": False}, {}, Reason.UNPROTECTED, "does not protect it"),
        ({"memory_reserved": False}, {}, Reason.RESERVATION, "8192 MiB"),
        ({"barred": ("host-2",)}, {}, Reason.RULE, "keep it off esx-2"),
        ({"memory_mib": 100_000}, {}, Reason.ADMISSION, "esx-2 has most left: 65536 MiB"),
        ({"gpus": (TRAINING.model_copy(update={"label": "Gold"}),)}, {}, Reason.NO_FREE_GPU, "0000:01:00.0 Training"),
        ({"gpus": (SHARE,)}, {}, Reason.NO_PROFILE_ROOM, "nvidia_a40-24c"),
        ({}, {"drs_automation": "manual"}, Reason.RECOMMENDATION, "recommend a host such as esx-2"),
        ({"drs_automation": "manual"}, {}, Reason.RECOMMENDATION, "DRS is manual for this VM"),
    ],
)  # fmt: skip
def test_each_vm_that_stays_off_has_its_reason(
    fields: dict[str, object], cluster: dict[str, object], reason: Reason, words: str
) -> None:
    world = fleet([LOST, host(2, whole(1))], [vm(1, LOST, **fields)], CLUSTER.model_copy(update=cluster))
    found = only(forecast(world, CLUSTER.moid, "key-1"))
    assert (found.comes_back, found.reason) == (False, reason)
    assert words in found.text
    good = only(forecast(fleet([LOST, host(2, whole(1))], [vm(1, LOST)]), CLUSTER.moid, "key-1"))
    assert good.comes_back


def test_a_vms_own_drs_automation_counts_before_its_clusters() -> None:
    manual = CLUSTER.model_copy(update={"drs_automation": "manual"})
    own = vm(1, LOST, drs_automation="fullyAutomated")
    assert only(forecast(fleet([LOST, host(2, whole(1))], [own], manual), CLUSTER.moid, "key-1")).comes_back


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"in_maintenance": True}, "maintenance"),
        ({"standby": True}, "standby"),
        ({"connection_state": "notResponding"}, "notResponding"),
        ({"ha_state": "networkIsolated"}, "networkIsolated"),
        ({"cluster_moid": "domain-c2"}, "no other host"),
    ],
)
def test_hosts_that_cannot_start_vms_give_no_room(fields: dict[str, object], words: str) -> None:
    found = only(forecast(fleet([LOST, host(2, whole(1), **fields)], [vm(1, LOST)]), CLUSTER.moid, "key-1"))
    assert not found.comes_back
    assert words in found.text


def test_hosts_that_count_as_down_give_no_room_and_have_no_forecast() -> None:
    world = fleet([LOST, host(2, whole(1)), host(3, whole(1, by="vm-3"))], [vm(1, LOST), vm(3, host(3))])
    assert [each.host.key for each in forecasts(world, CLUSTER.moid)] == ["key-1", "key-3"]
    after = forecasts(world, CLUSTER.moid, down=["key-2"])
    assert [(each.host.key, each.lost) for each in after] == [("key-1", 1), ("key-3", 1)]
    assert "esx-2: it is down" in after[0].vms[0].text
    assert [each.host.key for each in forecasts(world, CLUSTER.moid, down=["key-1"])] == ["key-3"]


def test_a_device_that_allows_several_pairs_is_served_by_any_of_them() -> None:
    hosts = [LOST, host(2, whole(1, "", A100_80)), host(3, whole(1, "", A40))]
    found = forecast(fleet(hosts, [vm(1, LOST, ANY), vm(2, LOST, ANY)]), CLUSTER.moid, "key-1")
    assert told(found)["train-1"] == (True, "esx-2", "")
    assert found.shortages[0].kind == f"{A100} or {A100_80}"
    assert found.shortages[0].missing == 1


def test_shares_are_counted_by_profile_and_running_ones_take_room() -> None:
    there = host(2, shared(1))
    running = vm(9, there, SHARE.model_copy(update={"assigned": "0000:01:00.0"}))
    found = forecast(fleet([LOST, there], [vm(1, LOST, SHARE), vm(2, LOST, SHARE), running]), CLUSTER.moid, "key-1")
    assert found.lost == 1
    assert [(each.kind, each.needed, each.missing) for each in found.shortages] == [("nvidia_a40-24c", 2, 1)]


def test_gpus_that_are_free_but_apart_count_as_missing_once() -> None:
    two = (TRAINING, TRAINING.model_copy(update={"key": 2}))
    hosts = [LOST, host(2, whole(1)), host(3)]
    found = forecast(fleet(hosts, [vm(1, LOST, *two), vm(2, LOST, *two)]), CLUSTER.moid, "key-1")
    assert [(each.needed, each.missing) for each in found.shortages] == [(4, 3)]


def test_a_host_in_no_cluster_loses_everything() -> None:
    alone = host(1, whole(1), cluster_moid="")
    world = fleet([alone, host(2, whole(1), cluster_moid="")], [vm(1, alone)])
    (found,) = forecasts(world, "")
    assert (only(found).reason, found.shortages) == (Reason.HA_OFF, ())
    assert "in no cluster" in only(found).text


def test_vms_that_are_off_are_not_lost_and_an_unknown_host_is_refused() -> None:
    world = fleet([LOST, host(2, whole(1))], [vm(1, LOST, powered_on=False)])
    assert forecast(world, CLUSTER.moid, "key-1").vms == ()
    assert forecasts(world, CLUSTER.moid) == ()
    with pytest.raises(BadRequest, match="key-7"):
        forecast(world, CLUSTER.moid, "key-7")


def test_of_many_hosts_it_is_told_how_many_say_what() -> None:
    full = [host(number, whole(1, by=f"vm-{number + 90}")) for number in range(2, 7)]
    text = only(forecast(fleet([LOST, *full, host(9, whole(1, "Gold"))], [vm(1, LOST)]), CLUSTER.moid, "key-1")).text
    assert text == (
        "asks for 10de:20f1 label Training: of 6 other hosts 5 have them in use, 1 have none with that label"
    )


def test_forecasts_are_summed_up_in_a_line_the_worst_first() -> None:
    assert summary(()) == "no host that is left has running GPU VMs"
    small, spare = host(3, whole(1, by="vm-3")), host(2, whole(1))
    world = fleet([LOST, spare, small], [vm(1, LOST), vm(2, LOST), vm(3, small)])
    found = forecasts(world, CLUSTER.moid)
    assert [each.host.name for each in found] == ["esx-1", "esx-3"]
    assert summary(found) == (
        "if esx-1 fails, 1 of its 2 GPU VMs would not come back; missing: 1 × 10de:20f1 label Training; "
        "1 of 2 hosts would leave some off"
    )
    roomy = fleet([LOST, host(2, whole(1), whole(2)), small], [vm(1, LOST), vm(3, small)])
    assert summary(forecasts(roomy, CLUSTER.moid)) == "if any one of 2 hosts fails, all of its GPU VMs come back"


@pytest.mark.parametrize("full", [True, False])
def test_the_largest_cluster_is_forecast_quickly(full: bool) -> None:
    """64 hosts with 8 GPUs and 500 VMs. The bound leaves room for a busy machine."""
    labels = ("Training", "Gold", "", "Inference")
    held = {divmod(place, 8): f"vm-{place}" for place in range(500)}
    other = "vm-9999" if full else ""
    hosts = [
        host(
            number,
            *(whole(bus, labels[bus % 4], by=held.get((number, bus), other)) for bus in range(8)),
            memory_mib=2**20,
        )
        for number in range(64)
    ]
    vms = [
        vm(number * 8 + bus, hosts[number], TRAINING.model_copy(update={"label": labels[bus % 4]}))
        for number, bus in held
    ]
    world = fleet(hosts, vms)
    began = time.perf_counter()
    found = forecasts(world, CLUSTER.moid)
    took_s = time.perf_counter() - began
    assert len(found) == 63
    assert sum(len(each.vms) for each in found) == 500
    assert sum(each.lost for each in found) == (500 if full else 0)
    assert took_s < 6, took_s
