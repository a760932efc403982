"""The models of rules and profiles refuse what people get wrong."""

from typing import Any

import pytest
from pydantic import ValidationError

from contracts.rules import RulesFile

RULE: dict[str, Any] = {
    "name": "prepare",
    "on": ["HostAddedEvent"],
    "where": {"cluster": "gpu-*"},
    "start": "PrepareGpuHost",
    "with": {"profile": "training"},
}
GPU = {"match": "10de:20f1", "mode": "passthrough"}
PROFILES: dict[str, Any] = {"training": {"gpus": [{"match": "10DE:20F1", "mode": "passthrough", "label": "Training"}]}}


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
    ],
)
def test_mistakes_are_named(data: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RulesFile.model_validate(data)
