"""What every test may use; the fixtures live in `tests/support`."""

import os
import sys
from pathlib import Path

import pytest

pytest_plugins = ["tests.support.temporal"]

_SESSION = pytest.StashKey[pytest.Session]()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Keep the session for the last hook, which has to know the exit status and is not given it."""
    session.config.stash[_SESSION] = session


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests come first: as the last ones they would run alone, while other processes have no work."""
    longest: dict[Path, float] = {}
    for item in items:
        allowed = item.get_closest_marker("timeout")
        longest[item.path] = max(longest.get(item.path, 0), allowed.args[0] if allowed else 0)
    items.sort(key=lambda item: -longest[item.path])


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave at once: the Temporal SDK can crash the interpreter's teardown, and that would spoil the exit status.

    A usage error is reported after this hook, and a worker of pytest-xdist is ended by its controller, which has its
    results by then.
    """
    session = config.stash.get(_SESSION, None)
    if session is None or session.exitstatus == pytest.ExitCode.USAGE_ERROR or hasattr(config, "workerinput"):
        return
    config.get_terminal_writer().flush()
    for stream in {sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__} - {None}:
        stream.flush()
    os._exit(int(session.exitstatus))
