from pathlib import Path

import pytest

from contracts.errors import BadRequest
from workers.rules_file import load_rules

RIGHT = """\
rules:
  - name: prepare-new-gpu-hosts
    on: [HostAddedEvent, com.vmware.vc.HA.DasHostFailedEvent]
    where: {cluster: "gpu-*"}
    start: PrepareGpuHost
    with: {profile: training}
profiles:
  training:
    gpus:
      - {match: "10DE:20f1", mode: passthrough, label: Training}
"""


def written(directory: Path, text: str) -> Path:
    path = directory / "rules.yaml"
    path.write_text(text)
    return path


def complaints(directory: Path, text: str) -> list[str]:
    with pytest.raises(BadRequest) as caught:
        load_rules(written(directory, text))
    return [line.replace(str(directory) + "/", "") for line in str(caught.value).splitlines()]


def test_rules_and_profiles_are_loaded(tmp_path: Path) -> None:
    loaded = load_rules(written(tmp_path, RIGHT))
    [rule] = loaded.rules
    assert rule.on == ("HostAddedEvent", "com.vmware.vc.HA.DasHostFailedEvent")
    assert rule.with_.profile == "training"
    assert loaded.profiles["training"].gpus[0].match == "10de:20f1"


def test_every_problem_is_named_at_once_with_line_key_and_fix(tmp_path: Path) -> None:
    text = """\
rules:
  - name: one
    on: [HostAdded]
    start: PrepareGpuHosts
    with: {profile: trainin}
  - name: one
    on: []
    whre: {}
    start: PrepareGpuHost
    with: {profile: training}
profiles:
  training:
    gpus:
      - {match: a100, mode: passthru}
"""
    assert complaints(tmp_path, text) == [
        "rules.yaml:3: rules[0].on[0]: 'HostAdded' names no event; write a class like 'HostAddedEvent' or an "
        "eventTypeId like 'com.vmware.vc.HA.DasHostFailedEvent'",
        "rules.yaml:4: rules[0].start: 'PrepareGpuHosts' is not possible; did you mean 'PrepareGpuHost'? "
        "possible: PrepareGpuHost",
        "rules.yaml:5: rules[0].with.profile: there is no profile 'trainin'; did you mean 'training'? "
        "profiles: training",
        "rules.yaml:6: rules[1].name: 'one' is used in line 2 too; rename one",
        "rules.yaml:7: rules[1].on: is empty; give at least 1",
        "rules.yaml:8: rules[1].whre: is not a known key; did you mean 'where'? "
        "the keys here are: name, on, where, start, with",
        "rules.yaml:14: profiles.training.gpus[0].match: 'a100' is not a PCI vendor:device pair; "
        "write it like '10de:20f1' (see `lspci -n`)",
        "rules.yaml:14: profiles.training.gpus[0].mode: 'passthru' is not possible; did you mean 'passthrough'? "
        "possible: default, passthrough, vgpu, vgpu-mig",
    ]


def test_rules_without_any_profile_are_refused(tmp_path: Path) -> None:
    text = RIGHT[: RIGHT.index("profiles:")]
    [complaint] = complaints(tmp_path, text)
    assert complaint.endswith("there is no profile 'training'; profiles: none is defined yet, add it under 'profiles'")


def test_empty_file_has_no_rules(tmp_path: Path) -> None:
    assert load_rules(written(tmp_path, "")).rules == ()
