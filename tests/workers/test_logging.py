import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import structlog
from temporalio import activity
from temporalio.testing import ActivityEnvironment

from workers.logging import configure_logging
from workers.settings import LoggingSettings


@pytest.fixture
def lines() -> Iterator[Any]:
    """What was logged so far, as JSON documents; logging is as before afterwards."""
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    stream = io.StringIO()
    configure_logging(LoggingSettings(format="json", level="info"), stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers, root.level = before[0], before[1]
    structlog.reset_defaults()


def test_structlog_and_the_standard_library_share_one_pipeline(lines: Any) -> None:
    structlog.get_logger("ours").info("hello", host="esx-01")
    logging.getLogger("temporalio.worker").warning("theirs %s", 1, extra={"queue": "q"})
    ours, theirs = lines()
    assert (ours["event"], ours["host"], ours["level"], ours["logger"]) == ("hello", "esx-01", "info", "ours")
    assert (theirs["event"], theirs["queue"], theirs["level"]) == ("theirs 1", "q", "warning")
    assert ours["timestamp"].endswith("Z")


def test_level_is_kept(lines: Any) -> None:
    structlog.get_logger("ours").debug("not this")
    logging.getLogger("asyncio").debug("nor this")
    assert lines() == []


def test_secrets_are_hidden(lines: Any) -> None:
    structlog.get_logger("ours").info("login", password="hunter2", api_key="abc", key_id="k1", password_file="/etc/p")
    [line] = lines()
    assert (line["password"], line["api_key"], line["key_id"], line["password_file"]) == ("***", "***", "k1", "/etc/p")


def test_exceptions_keep_their_traceback(lines: Any) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger("ours").exception("it failed")
    [line] = lines()
    assert line["exception"][0]["exc_type"] == "ValueError"


@pytest.mark.parametrize("form", ["json", "console"])
def test_tracebacks_show_no_local_variables(form: Literal["json", "console"]) -> None:
    def log_in(password: str) -> None:
        arguments = ("root", password)
        raise ConnectionError(f"no answer to {len(arguments)} arguments")

    root = logging.getLogger()
    before, stream = (list(root.handlers), root.level), io.StringIO()
    configure_logging(LoggingSettings(format=form, level="info"), stream)
    try:
        log_in("hunter2")
    except ConnectionError:
        structlog.get_logger("ours").exception("it failed")
    finally:
        root.handlers, root.level = before[0], before[1]
        structlog.reset_defaults()
    assert "no answer to" in stream.getvalue()
    assert "log_in" in stream.getvalue()
    # The line that calls is shown as it is written.
    assert stream.getvalue().count("hunter2") == (1 if form == "console" else 0)


@activity.defn
def look() -> None:
    structlog.get_logger("vsphere").info("looking")
    activity.logger.info("also looking")


async def test_activities_say_which_run_and_vcenter_they_work_for(lines: Any) -> None:
    environment = ActivityEnvironment()
    environment.info = ActivityEnvironment.default_info()
    environment.info = type(environment.info)(
        **{**environment.info.__dict__, "workflow_id": "prepare-gpu-host/east/uuid-1", "activity_type": "look"}
    )
    await asyncio.to_thread(environment.run, look)
    for line in lines():
        assert (line["vcenter"], line["workflow_id"]) == ("east", "prepare-gpu-host/east/uuid-1")
        assert line["activity_type"] == "look"
    assert [line["event"] for line in lines()] == ["looking", "also looking"]
