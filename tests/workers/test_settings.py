from pathlib import Path

import pytest

from contracts.errors import BadRequest
from workers.settings import load_settings

RIGHT = """\
temporal:
  address: temporal.example.com:7233
vcenters:
  - name: east
    url: https://vcenter.example.com
    user: gpuwright
    password_file: secret
rules_file: rules.yaml
approvals:
  trusted_key_files: [keys/alice.pub, /etc/keys/bob.pub]
"""


def written(directory: Path, text: str) -> Path:
    path = directory / "gpuwright.yaml"
    path.write_text(text)
    return path


def complaints(directory: Path, text: str) -> list[str]:
    with pytest.raises(BadRequest) as caught:
        load_settings(written(directory, text))
    return [line.replace(str(directory) + "/", "") for line in str(caught.value).splitlines()]


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    settings = load_settings(written(tmp_path, RIGHT))
    assert settings.rules_file == tmp_path / "rules.yaml"
    assert settings.vcenters[0].password_file == tmp_path / "secret"
    assert settings.approvals.trusted_key_files == (tmp_path / "keys/alice.pub", Path("/etc/keys/bob.pub"))


def test_environment_goes_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUWRIGHT_TEMPORAL__NAMESPACE", "gpu")
    monkeypatch.setenv("GPUWRIGHT_LOGGING__FORMAT", "json")
    settings = load_settings(written(tmp_path, RIGHT))
    assert settings.temporal.namespace == "gpu"
    assert settings.temporal.address == "temporal.example.com:7233"
    assert settings.logging.format == "json"


def test_every_problem_is_named_at_once_with_line_key_and_fix(tmp_path: Path) -> None:
    text = RIGHT.replace("address:", "adress:").replace("https://vcenter", "ftp://vcenter")
    text = text.replace("rules_file: rules.yaml\n", "") + "logging: {level: loud}\n"
    assert complaints(tmp_path, text) == [
        "gpuwright.yaml:2: temporal.adress: is not a known key; did you mean 'address'? "
        "the keys here are: address, namespace, task_queue, tls, api_key_file",
        "gpuwright.yaml:5: vcenters[0].url: 'ftp://vcenter.example.com' is not a vCenter address; "
        "write it like 'https://vcenter.example.com'",
        "gpuwright.yaml:1: rules_file: is missing; add it",
        "gpuwright.yaml:10: logging.level: 'loud' is not possible; possible: debug, info, warning, error",
    ]


def test_wrong_environment_variable_is_blamed_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUWRIGHT_APPROVALS__DEADLINE_S", "soon")
    [complaint] = complaints(tmp_path, RIGHT)
    assert complaint.startswith("environment variable GPUWRIGHT_APPROVALS__DEADLINE_S: approvals.deadline_s: ")
    assert complaint.endswith("not 'soon'")


def test_environment_variable_that_is_not_json_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUWRIGHT_VCENTERS", "[{")
    [complaint] = complaints(tmp_path, RIGHT)
    assert "vcenters" in complaint
    assert "JSON" in complaint


def test_two_vcenters_of_one_name_are_refused(tmp_path: Path) -> None:
    entry = RIGHT[RIGHT.index("  - name") : RIGHT.index("rules_file")]
    [complaint] = complaints(tmp_path, RIGHT.replace(entry, entry * 2))
    assert complaint == (
        "gpuwright.yaml:3: vcenters: names must differ, because workflow IDs hold them; used twice: east"
    )


def test_nobody_who_could_approve_is_refused(tmp_path: Path) -> None:
    text = RIGHT.replace("  trusted_key_files: [keys/alice.pub, /etc/keys/bob.pub]", "  deadline_s: 3600")
    [complaint] = complaints(tmp_path, text)
    assert complaint.startswith("gpuwright.yaml:9: approvals: nobody could approve anything; ")


def test_automatic_approval_needs_a_signing_key(tmp_path: Path) -> None:
    text = RIGHT.replace("  trusted_key_files: [keys/alice.pub, /etc/keys/bob.pub]", "  auto_approve: true")
    [complaint] = complaints(tmp_path, text)
    assert "'auto_approve' needs 'signing_key_file'" in complaint


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("temporal: {address: [", "gpuwright.yaml:1: this is not YAML"),
        ("- temporal", "gpuwright.yaml:1: the file must be a mapping of keys to values"),
        (RIGHT + "rules_file: other.yaml\n", "gpuwright.yaml:11: rules_file: written twice; remove this or line 8"),
        (RIGHT + "a: \x01\n", "gpuwright.yaml: this is not YAML"),
    ],
)
def test_broken_yaml_is_refused_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    assert complaints(tmp_path, text)[0].startswith(complaint)


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"nowhere\.yaml: cannot be read: No such file"):
        load_settings(tmp_path / "nowhere.yaml")


def test_secrets_are_not_quoted(tmp_path: Path) -> None:
    text = RIGHT.replace("    password_file: secret", "    password: hunter2")
    assert "hunter2" not in "\n".join(complaints(tmp_path, text))


def test_bmcs_and_ssh_are_told_where_hosts_are(tmp_path: Path) -> None:
    text = RIGHT + (
        "ssh: {known_hosts_file: known_hosts, password_file: ssh-secret, address: '{short}.mgmt.example.com'}\n"
        "bmcs:\n"
        "  - {hosts: ['gpu-*.example.com'], url: 'https://{short}-bmc.example.com', user: u,\n"
        "     password_file: bmc-secret}\n"
    )
    settings = load_settings(written(tmp_path, text))
    assert settings.ssh
    assert settings.ssh.known_hosts_file == tmp_path / "known_hosts"
    assert settings.ssh.address_of("esx-01.example.com") == "esx-01.mgmt.example.com"
    assert settings.bmcs[0].address("gpu-1.example.com", "0") == "https://gpu-1-bmc.example.com"
    assert settings.bmcs[0].password_file == tmp_path / "bmc-secret"
    [complaint] = complaints(tmp_path, text.replace("{short}-bmc", "{name}-bmc"))
    assert "bmcs[0].url" in complaint


def test_looking_for_drift_is_hourly_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drift = load_settings(written(tmp_path, RIGHT)).drift
    assert (drift.enabled, drift.every_s, drift.propose) == (True, 3600, True)
    monkeypatch.setenv("GPUWRIGHT_DRIFT__ENABLED", "false")
    assert not load_settings(written(tmp_path, RIGHT)).drift.enabled
    found = complaints(tmp_path, RIGHT + "drift: {every_s: 5, proposed: true}\n")
    assert any("drift.every_s" in line and "60" in line for line in found)
    assert any("drift.proposed: is not a known key; did you mean 'propose'?" in line for line in found)


def test_audits_of_failures_are_set_in_one_section_and_unknown_keys_are_refused(tmp_path: Path) -> None:
    settings = load_settings(written(tmp_path, RIGHT + "audit: {linger_s: 60, make_room: move}\n"))
    assert (settings.audit.linger_s, settings.audit.make_room, settings.audit.convert_static) == (60, "move", True)
    [complaint] = complaints(tmp_path, RIGHT + "audit: {lingers: 60}\n")
    assert "audit.lingers: is not a known key; did you mean 'linger_s'?" in complaint


def test_webhooks_have_names_of_their_own_and_files_beside_the_settings(tmp_path: Path) -> None:
    entry = "  - {name: router, url: 'https://hooks.example.com/', token_file: hook-token, notices: true}\n"
    [webhook] = load_settings(written(tmp_path, RIGHT + "webhooks:\n" + entry)).webhooks
    assert webhook.token_file == tmp_path / "hook-token"
    [complaint] = complaints(tmp_path, RIGHT + "webhooks:\n" + entry * 2)
    assert "webhooks: names must differ, because workflow IDs hold them; used twice: router" in complaint
