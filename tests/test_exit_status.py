"""The tests' own exit status: `tests/conftest.py` ends the process itself."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
PASSES = "def test_passes(): pass\n"
FAILS = "def test_fails(): assert False\n"


@pytest.mark.parametrize(
    ("content", "arguments", "status", "said"),
    [
        (PASSES, (), 0, "1 passed"),
        (PASSES, ("-n", "2"), 0, "1 passed"),
        (PASSES + FAILS, (), 1, "1 failed, 1 passed"),
        (PASSES + FAILS, ("-n", "2"), 1, "1 failed, 1 passed"),
        ("import nonsense_that_is_nowhere", (), 2, "1 error"),
        ("", (), 5, "no tests ran"),
        (PASSES, ("--nonsense",), 4, "unrecognized arguments: --nonsense"),
        (PASSES, ("nowhere.py",), 4, "file or directory not found"),
    ],
)
def test_pytest_ends_with_its_summary_and_the_right_status(
    tmp_path: Path, content: str, arguments: tuple[str, ...], status: int, said: str
) -> None:
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "tests" / "support").mkdir(parents=True)
    (tmp_path / "tests" / "support" / "temporal.py").touch()
    (tmp_path / "test_it.py").write_text(content)
    (tmp_path / "pytest.ini").touch()
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTEST_ADDOPTS": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    output = ended.stdout + ended.stderr
    assert ended.returncode == status, output
    assert said in output
