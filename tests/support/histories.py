"""The recorded histories of `tests/replay`, and how they are replayed."""

import importlib
import pkgutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer, WorkflowRunner

import workflows

__all__ = ["HISTORIES", "history", "replay"]

HISTORIES = sorted((Path(__file__).parents[1] / "replay").glob("*/*.json"))
"""One file a history."""


def history(path: Path) -> WorkflowHistory:
    """That of one file."""
    return WorkflowHistory.from_json(f"replay-{path.stem}", path.read_text())


async def replay(histories: Sequence[WorkflowHistory], runner: WorkflowRunner) -> None:
    """Replay one after the other; raises what the first failure is."""
    replayer = Replayer(workflows=_workflows(), data_converter=pydantic_data_converter, workflow_runner=runner)

    async def each() -> AsyncIterator[WorkflowHistory]:
        for one in histories:
            yield one

    await replayer.replay_workflows(each(), raise_on_replay_failure=True)


def _workflows() -> list[type]:
    """All that there are."""
    modules = [importlib.import_module(f"workflows.{each.name}") for each in pkgutil.iter_modules(workflows.__path__)]
    return [
        found
        for module in modules
        for found in vars(module).values()
        if isinstance(found, type) and found.__module__ == module.__name__ and workflow._Definition.from_class(found)
    ]
