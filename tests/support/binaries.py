"""Programs that the tests start: found in the project's cache, built by `make tools`."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["binary", "gpuwright"]

_CACHE = Path(__file__).parents[2] / ".cache" / "bin"


def binary(name: str) -> Path:
    """The path of `govc`, `vcsim` or `temporal`; raises `FileNotFoundError` that says how to get it."""
    path = _CACHE / name
    if not path.is_file():
        raise FileNotFoundError(f"{name} is not in .cache/bin: run `make tools`, which builds it")
    return path


def gpuwright() -> Path:
    """The `gpuwright` command of the environment that runs the tests; raises `FileNotFoundError` without one."""
    path = Path(sys.executable).with_name("gpuwright")
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: run `make setup`, which installs it")
    return path
