import re
from datetime import timedelta
from pathlib import Path

import pytest

from contracts.errors import BadRequest
from contracts.vms import DynamicGpu, VgpuGpu
from workers.rules_file import load_rules
from workers.vm_requests import Known

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


def complaints(directory: Path, text: str, known: Known | None = None) -> list[str]:
    with pytest.raises(BadRequest) as caught:
        load_rules(written(directory, text), known)
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
        "possible: PrepareGpuHost, ProvisionGpuVm, HaRecoveryAudit",
        "rules.yaml:5: rules[0].with.profile: there is no profile 'trainin'; did you mean 'training'? "
        "profiles: training",
        "rules.yaml:6: rules[1].name: 'one' is used in line 2 too; rename one",
        "rules.yaml:7: rules[1].on: is empty; give at least 1",
        "rules.yaml:8: rules[1].whre: is not a known key; did you mean 'where'? "
        "the keys here are: name, on, where, start, with, once_within, max_concurrent, quiet, group_by",
        "rules.yaml:14: profiles.training.gpus[0].match: 'a100' is not a PCI vendor:device pair; "
        "write it like '10de:20f1' (see `lspci -n`)",
        "rules.yaml:14: profiles.training.gpus[0].mode: 'passthru' is not possible; did you mean 'passthrough'? "
        "possible: default, passthrough, vgpu, vgpu-mig",
    ]


AUDIT = """\
rules:
  - name: audit-after-host-failure
    on: [DasHostFailedEvent, DasHostIsolatedEvent, HostConnectionLostEvent, VmFailoverFailed,
         com.vmware.vc.HA.DasHostFailedEvent, gpuwright.HostDown]
    start: HaRecoveryAudit
"""


def test_an_audit_needs_nothing_but_the_events_that_it_is_for(tmp_path: Path) -> None:
    [rule] = load_rules(written(tmp_path, AUDIT)).rules
    assert (rule.start, rule.with_.model_dump(exclude_none=True)) == ("HaRecoveryAudit", {})
    assert complaints(tmp_path, AUDIT + "    with: {profile: training}\n") == [
        "rules.yaml:6: rules[0].with.profile: there is no profile 'training'; profiles: none is defined yet, add it "
        "under 'profiles'",
        "rules.yaml:6: rules[0].with: HaRecoveryAudit takes nothing; leave 'with' out",
    ]


@pytest.mark.parametrize(
    ("on", "start", "complaint"),
    [
        (
            "gpuwright.HostLost",
            "HaRecoveryAudit",
            "'gpuwright.HostLost' is nothing that gpuwright finds; did you mean 'gpuwright.HostDown'? it finds: "
            "gpuwright.HostDown, gpuwright.HostNeverPrepared, gpuwright.VmOnUnexpectedGpu, gpuwright.VmNotSavedByHa, "
            "gpuwright.UnknownLabel",
        ),
        (
            "gpuwright.UnknownLabel",
            "HaRecoveryAudit",
            "no rule can act on gpuwright.UnknownLabel, a person has to judge it; rules can on gpuwright.HostDown and "
            "gpuwright.HostNeverPrepared. Leave it out",
        ),
        (
            "GPUwright.hostNeverPrepared",
            "HaRecoveryAudit",
            "gpuwright.HostNeverPrepared can start PrepareGpuHost only; give it a rule of its own with "
            "'start: PrepareGpuHost'",
        ),
        (
            "gpuwright.HostDown",
            "PrepareGpuHost, with: {profile: training}",
            "gpuwright.HostDown can start HaRecoveryAudit only; give it a rule of its own with "
            "'start: HaRecoveryAudit'",
        ),
    ],
)
def test_findings_start_only_what_mends_them(tmp_path: Path, on: str, start: str, complaint: str) -> None:
    profiles = RIGHT[RIGHT.index("profiles:") :]
    text = f"rules:\n  - {{name: r, on: [{on}], start: {start}}}\n{profiles}"
    assert complaints(tmp_path, text) == [f"rules.yaml:2: rules[0].on[0]: {complaint}"]


def test_a_host_that_nobody_prepared_may_be_prepared_by_a_rule(tmp_path: Path) -> None:
    text = RIGHT.replace("HostAddedEvent,", "HostAddedEvent, gpuwright.HostNeverPrepared,")
    assert "gpuwright.HostNeverPrepared" in load_rules(written(tmp_path, text)).rules[0].on


def test_rules_without_any_profile_are_refused(tmp_path: Path) -> None:
    text = RIGHT[: RIGHT.index("profiles:")]
    [complaint] = complaints(tmp_path, text)
    assert complaint.endswith("there is no profile 'training'; profiles: none is defined yet, add it under 'profiles'")


def test_empty_file_has_no_rules(tmp_path: Path) -> None:
    assert load_rules(written(tmp_path, "")).rules == ()


VMS = """\
rules:
  - name: inference-vm-on-new-hosts
    on: [ExitMaintenanceModeEvent]
    start: ProvisionGpuVm
    with: {request: inference}
vms:
  inference:
    name: "infer-{host}"
    cluster: gpu-01
    source: {template: ubuntu-24.04}
    gpus: [{model: A100, label: Training}]
    driver: {policy: verify, credentials: ubuntu}
  shared:
    name: shared
    vcenter: lab
    cluster: gpu-02
    source: {template: ubuntu-24.04}
    gpus: [{profile: nvidia_a40-24c}]
"""
LAB = Known(["lab", "east"], ["ubuntu"])


def test_rules_for_vms_are_loaded_and_kinds_of_gpus_need_no_naming(tmp_path: Path) -> None:
    loaded = load_rules(written(tmp_path, VMS), LAB)
    assert loaded.rules[0].with_.request == "inference"
    inference, shared = loaded.vms["inference"], loaded.vms["shared"]
    assert (inference.vcenter, shared.vcenter) == (None, "lab")
    assert inference.gpus == (DynamicGpu(model="A100", label="Training"),)
    assert shared.gpus == (VgpuGpu(profile="nvidia_a40-24c"),)


def test_every_problem_of_vms_is_named_at_once_with_line_key_and_fix(tmp_path: Path) -> None:
    text = """\
rules:
  - name: one
    on: [ExitMaintenanceModeEvent]
    start: ProvisionGpuVm
    with: {request: infrence}
  - name: two
    on: [ExitMaintenanceModeEvent]
    start: ProvisionGpuVm
    with: {profile: training}
  - name: three
    on: [ExitMaintenanceModeEvent]
    start: PrepareGpuHost
    with: {reqest: inference}
vms:
  inference:
    name: "infer-{hots}"
    vcenter: lap
    clustre: gpu-01
    source: {template: ubuntu-24.04}
    gpus: [{model: A1000}]
    driver: {policy: verify, credentials: ubunto}
profiles:
  training:
    gpus: [{match: "10de:20f1", mode: passthrough}]
"""
    found = complaints(tmp_path, text, LAB)
    assert found[:5] == [
        "rules.yaml:5: rules[0].with.request: there is no request 'infrence'; did you mean 'inference'? vms: inference",
        "rules.yaml:9: rules[1].with: ProvisionGpuVm takes 'request' and nothing else; write 'with: {request: NAME}'",
        "rules.yaml:13: rules[2].with.reqest: is not a known key; did you mean 'request'? "
        "the keys here are: profile, request",
        "rules.yaml:15: vms.inference.cluster: is missing; add it",
        "rules.yaml:16: vms.inference.name: 'infer-{hots}': '{hots}' stands for nothing; only {host} does, "
        "the event's host",
    ]
    assert [line.partition(";")[0] for line in found[5:]] == [
        "rules.yaml:17: vms.inference.vcenter: there is no vCenter 'lap' in the configuration",
        "rules.yaml:18: vms.inference.clustre: is not a known key",
        "rules.yaml:20: vms.inference.gpus[0].model: no GPU model is called 'A1000'",
        "rules.yaml:21: vms.inference.driver.credentials: there is no 'guest_credentials' entry 'ubunto' "
        "in the configuration",
    ]
    assert all("did you mean" in line for line in found[5:])


def test_a_request_without_any_vm_is_refused(tmp_path: Path) -> None:
    [complaint] = complaints(tmp_path, VMS[: VMS.index("vms:")])
    assert complaint == (
        "rules.yaml:5: rules[0].with.request: there is no request 'inference'; "
        "vms: none is defined yet, add it under 'vms'"
    )


def test_the_rules_in_the_guide_are_right(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "vms.md").read_text()
    [example] = re.findall(r"^```yaml\n(# rules\.yaml\n.*?)^```", guide, re.M | re.S)
    assert load_rules(written(tmp_path, example)).vms["inference"].name == "infer-{host}"


THROTTLED = RIGHT.replace(
    "with: {profile: training}\n",
    """with: {profile: training}
    once_within: 10m
    max_concurrent: 3
    group_by: cluster
    quiet:
      - {days: [sat, sun], from: "00:00", to: "00:00", timezone: Europe/Berlin}
""",
)


def test_throttles_are_loaded(tmp_path: Path) -> None:
    [rule] = load_rules(written(tmp_path, THROTTLED)).rules
    assert rule.throttled
    assert (rule.once_within, rule.max_concurrent, rule.group_by) == (timedelta(minutes=10), 3, "cluster")
    assert rule.quiet[0].timezone == "Europe/Berlin"
    assert rule.throttles == "once within 10 m, at most 3 open a cluster, quiet hours"
    [unthrottled] = load_rules(written(tmp_path, RIGHT)).rules
    assert not unthrottled.throttled


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("90", 90), ("1.5h", 5400), ("2 h", 7200), ("1d", 86400), ("'45s'", 45)]
)
def test_durations_are_written_as_people_do(tmp_path: Path, text: str, seconds: int) -> None:
    [rule] = load_rules(written(tmp_path, THROTTLED.replace("10m", text))).rules
    assert rule.once_within == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("line", "instead", "complaint"),
    [
        ("once_within: 10m", "once_within: ten", "rules[0].once_within: 'ten' is no duration; write it like 30s, 10m"),
        ("once_within: 10m", "once_within: 0s", "rules[0].once_within: '0s' is no duration"),
        ("once_within: 10m", "once_within: -5", "rules[0].once_within: -5 is no duration"),
        ("max_concurrent: 3", "max_concurrent: 0", "rules[0].max_concurrent: input should be greater than or equal"),
        ("group_by: cluster", "group_by: clutser", "rules[0].group_by: 'clutser' is not possible; did you mean"),
        ("    group_by: cluster\n", "", "rules[0].group_by: is missing: a target has one live run anyway"),
        ("Europe/Berlin", "Europe/Berlim", "rules[0].quiet[0].timezone: 'Europe/Berlim' is no time zone"),
        ("days: [sat, sun], ", "", "rules[0].quiet: these times leave no pause"),
        ("HostAddedEvent, com.vmware.vc.HA.DasHostFailedEvent", "gpuwright.HostDown", ""),
    ],
)
def test_mistakes_in_throttles_are_named_with_line_and_fix(
    tmp_path: Path, line: str, instead: str, complaint: str
) -> None:
    wrong = complaints(tmp_path, THROTTLED.replace(line, instead))
    assert re.match(r"rules\.yaml:\d+: ", wrong[0])
    assert complaint in wrong[0], wrong


def test_grouping_nothing_is_a_mistake(tmp_path: Path) -> None:
    text = THROTTLED.replace("    once_within: 10m\n    max_concurrent: 3\n", "")
    [wrong] = complaints(tmp_path, text)
    assert wrong.startswith("rules.yaml:7: rules[0].group_by: groups nothing without 'once_within' or 'max_concurrent'")


def test_what_is_found_by_looking_is_not_throttled(tmp_path: Path) -> None:
    text = THROTTLED.replace("HostAddedEvent, com.vmware.vc.HA.DasHostFailedEvent", "gpuwright.HostNeverPrepared")
    assert any("throttles what vCenter's events start" in line for line in complaints(tmp_path, text))
