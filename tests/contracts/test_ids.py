"""Workflow IDs have an inverse, whatever people call their hosts."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import ids

words = st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable())


@given(words, words)
def test_a_preparation_id_gives_back_its_vcenter_and_host(vcenter: str, host: str) -> None:
    assert ids.parse(ids.prepare_gpu_host(vcenter, host)) == ("prepare-gpu-host", vcenter, host)


@given(words, words)
def test_a_clusters_preparation_id_gives_back_its_vcenter_and_cluster(vcenter: str, cluster: str) -> None:
    assert ids.parse(ids.prepare_gpu_cluster(vcenter, cluster)) == ("prepare-gpu-cluster", vcenter, cluster)


@given(words, words)
def test_ids_about_vms_give_back_their_vcenter_and_vm(vcenter: str, vm: str) -> None:
    assert ids.parse(ids.provision_gpu_vm(vcenter, vm)) == ("provision-gpu-vm", vcenter, vm)
    assert ids.parse(ids.provision_gpu_vms(vcenter, vm)) == ("provision-gpu-vms", vcenter, vm)
    assert ids.parse(ids.retire_gpu_vm(vcenter, vm)) == ("retire-gpu-vm", vcenter, vm)


@given(words, words)
def test_a_forwards_id_gives_back_its_vcenter_and_webhook(vcenter: str, webhook: str) -> None:
    assert ids.parse(ids.forward(vcenter, webhook)) == ("forward", vcenter, webhook)


@given(words)
def test_a_watch_id_gives_back_its_vcenter(vcenter: str) -> None:
    assert ids.parse(ids.watch(vcenter)) == ("watch", vcenter, "")


@given(words, st.integers(0, 2**32).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)))
def test_a_schedules_id_and_those_of_its_runs_give_back_their_vcenter(vcenter: str, at: datetime) -> None:
    schedule = ids.reconcile_fleet(vcenter)
    assert ids.parse(schedule) == ("reconcile-fleet", vcenter, "")
    assert ids.parse(f"{schedule}-{at:%Y-%m-%dT%H:%M:%SZ}") == ("reconcile-fleet", vcenter, "")


@pytest.mark.parametrize("text", ["", "watch", "watch/", "prepare-gpu-host/vc", "watch/a/b", "order/1/2"])
def test_other_ids_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a gpuwright workflow ID"):
        ids.parse(text)


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(ValueError, match="empty part"):
        ids.prepare_gpu_host("vc", "")
