"""Requests for several VMs: their names, and what cannot be several VMs'."""

from typing import Any

import pytest
from pydantic import ValidationError

from contracts.vm_fleet import ProvisionGpuVmsInput


def order(count: int, **more: Any) -> ProvisionGpuVmsInput:
    request = {
        "name": "train",
        "vcenter": "vc",
        "cluster": "gpu-01",
        "source": {"template": "t"},
        "gpus": [{"kind": "dynamic", "model": "A100"}],
    }
    return ProvisionGpuVmsInput.model_validate({"request": request | more, "count": count, "requester": "cli:alice"})


def test_names_are_numbered_with_equal_width_from_one() -> None:
    assert order(3).names == ("train-01", "train-02", "train-03")
    assert order(200).names[::199] == ("train-001", "train-200")
    assert order(3).each("train-02").name == "train-02"
    assert order(3).each("train-02").cluster == "gpu-01"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"gpus": [{"kind": "static", "host": "esx", "sbdf": "0000:81:00.0"}]}, "a static device is in one VM"),
        ({"customization": {"ip": {"address": "10.0.0.7/24"}}}, "an address is one VM's"),
        ({"customization": {"host_name": "train"}}, "host_name: it is one VM's"),
        ({"name": "n" * 78}, "more than vCenter's 80 characters"),
    ],
)
def test_what_is_one_vms_is_refused_for_several(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        order(2, **more)


@pytest.mark.parametrize("count", [1, 201])
def test_counts_are_from_two_to_two_hundred(count: int) -> None:
    with pytest.raises(ValidationError, match="count"):
        order(count)
