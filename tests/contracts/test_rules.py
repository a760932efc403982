"""The models of rules and profiles refuse what people get wrong."""

from typing import Any

import pytest
from pydantic import ValidationError

from contracts.rules import RuledVm, RulesFile

RULE: dict[str, Any] = {
    "name": "prepare",
    "on": ["HostAddedEvent"],
    "where": {"cluster": "gpu-*"},
    "start": "PrepareGpuHost",
    "with": {"profile": "training"},
}
GPU = {"match": "10de:20f1", "mode": "passthrough"}
PROFILES: dict[str, Any] = {"training": {"gpus": [{"match": "10DE:20F1", "mode": "passthrough", "label": "Training"}]}}

VM_RULE: dict[str, Any] = {**RULE, "start": "ProvisionGpuVm", "with": {"request": "inference"}}
VM: dict[str, Any] = {
    "name": "infer-{host}",
    "cluster": "gpu-01",
    "source": {"template": "ubuntu-24.04"},
    "gpus": [{"kind": "dynamic", "model": "A100"}],
}


def test_a_profile_carries_its_name_and_lower_case_ids() -> None:
    profile = RulesFile.model_validate({"rules": [RULE], "profiles": PROFILES}).profiles["training"]
    assert profile.name == "training"
    assert profile.gpus[0].match == "10de:20f1"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"rules": [RULE]}, "profile 'training'"),
        ({"rules": [RULE, RULE], "profiles": PROFILES}, "more than once: prepare"),
        ({"rules": [{**RULE, "start": "FormatDisk"}], "profiles": PROFILES}, "PrepareGpuHost"),
        ({"rules": [{**RULE, "wehre": {}}], "profiles": PROFILES}, "wehre"),
        ({"profiles": {"x": {"gpus": [{"match": "A100", "mode": "passthrough"}]}}}, "vendor:device"),
        ({"profiles": {"x": {"gpus": []}}}, "gpus"),
        ({"profiles": {"x": {"gpus": [{"match": "10de:2235", "mode": "vgpu"}]}}}, "vgpu_manager"),
        ({"profiles": {"x": {"gpus": [{"mode": "passthrough"}]}}}, "say which GPUs"),
        ({"profiles": {"x": {"gpus": [{"sbdf": "81:0", "mode": "passthrough"}]}}}, "PCI address"),
        ({"profiles": {"x": {"gpus": [{"match": "10de:2235", "mode": "vgpu", "label": "L"}]}}}, "for mode passthrough"),
        ({"profiles": {"x": {"gpus": [GPU], "vgpu_manager": {"name": "n", "version": "new"}}}}, "version requirement"),
        (
            {"profiles": {"x": {"gpus": [GPU], "vgpu_manager": {"name": "n", "version": "1", "depot": "https://d/x"}}}},
            "sha256",
        ),
        ({"rules": [VM_RULE]}, "names request 'inference'; vms are: none"),
        ({"rules": [{**VM_RULE, "with": {}}], "vms": {"inference": VM}}, "ProvisionGpuVm takes 'request'"),
        ({"rules": [{**RULE, "with": VM_RULE["with"]}], "vms": {"inference": VM}}, "PrepareGpuHost takes 'profile'"),
        (
            {
                "rules": [{**RULE, "with": RULE["with"] | VM_RULE["with"]}],
                "profiles": PROFILES,
                "vms": {"inference": VM},
            },
            "and nothing else",
        ),
        ({"vms": {"inference": {**VM, "name": "infer-{hots}"}}}, "'{hots}' stands for nothing"),
        ({"vms": {"inference": {**VM, "name": "infer-{host"}}}, "'{' stands for nothing"),
    ],
)
def test_mistakes_are_named(data: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RulesFile.model_validate(data)


@pytest.mark.parametrize(
    ("host", "name"),
    [("esx-01.example.com", "infer-esx-01"), ("esx-01", "infer-esx-01"), ("10.0.0.7", "infer-10.0.0.7")],
)
def test_a_vm_is_named_after_the_first_label_of_its_host(host: str, name: str) -> None:
    request = RuledVm.model_validate(VM).request("east", host)
    assert (request.name, request.vcenter, request.cluster) == (name, "east", "gpu-01")


def test_a_vcenter_that_the_rules_name_wins_over_the_events() -> None:
    elsewhere = RuledVm.model_validate({**VM, "vcenter": "west"})
    assert elsewhere.request("east", "esx-01").vcenter == "west"


def test_a_host_whose_name_is_too_long_for_a_vm_is_told() -> None:
    with pytest.raises(ValidationError, match="is no VM name: 1 to 80 characters"):
        RuledVm.model_validate(VM).request("east", "e" * 75)
