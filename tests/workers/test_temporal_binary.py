import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.errors import NeedsHuman
from workers.temporal_binary import MODULE, find, obtain

ROOT = Path(__file__).parents[2]


def program(path: Path, script: str = "exit 0") -> Path:
    """A shell script in the place of a program that is not to be run for real."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No `temporal` or Go on PATH, and a proxy that nobody runs between the SDK and its download."""
    tools = tmp_path / "path"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    return tools


def test_program_on_path_goes_before_the_cached_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = program(tmp_path / "cache" / "temporal")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert find(tmp_path / "cache") == cached
    on_path = program(tmp_path / "path" / "temporal")
    assert find(tmp_path / "cache") == on_path


def test_cached_file_that_cannot_be_run_does_not_count(tmp_path: Path, unreachable: Path) -> None:
    (tmp_path / "temporal").write_text("half a download")
    assert find(tmp_path) is None


def test_download_that_fails_falls_back_to_go(tmp_path: Path, unreachable: Path) -> None:
    program(unreachable / "go", f'[ "$1 $2 $3" = "install -v {MODULE}" ] && /bin/cp /bin/true "$GOBIN/temporal"')
    told: list[str] = []
    cache = tmp_path / "cache"
    assert obtain(told.append, cache) == cache / "temporal"
    assert subprocess.run([cache / "temporal"], check=False).returncode == 0
    assert told[0].startswith("Temporal: downloading")
    assert told[1].startswith("the SDK's download failed")
    assert told[2].startswith("Temporal: building")
    assert obtain(told.append, cache) == cache / "temporal"
    assert len(told) == 3  # the second time nothing was done
    assert {path.name for path in cache.iterdir()} == {"temporal", ".temporal.lock"}


def test_failed_build_is_told_with_its_reason(tmp_path: Path, unreachable: Path) -> None:
    program(unreachable / "go", "echo 'no space left' >&2; exit 3")
    with pytest.raises(NeedsHuman, match="go install ended with status 3: no space left"):
        obtain(lambda _: None, tmp_path / "cache")


def test_without_any_way_the_four_ways_are_named(tmp_path: Path, unreachable: Path) -> None:
    with pytest.raises(NeedsHuman) as caught:
        obtain(lambda _: None, tmp_path / "cache")
    message = str(caught.value)
    assert "Go is not installed" in message
    for way in ("TEMPORAL_ADDRESS", "on PATH", "temporal.download", f"go install {MODULE}"):
        assert way in message


def test_module_prints_where_the_program_is(temporal_program: Path) -> None:
    environment = {**os.environ, "PATH": str(temporal_program.parent)}
    ended = subprocess.run(
        [sys.executable, "-m", "workers.temporal_binary"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.strip() == str(temporal_program)
