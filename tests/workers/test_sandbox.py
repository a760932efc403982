"""The sandbox that runs share is as strict as the SDK's own."""

import asyncio
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.converter import ActivitySerializationContext, WorkflowSerializationContext
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import RestrictedWorkflowAccessError
from temporalio.worker.workflow_sandbox._runner import _Instance

from contracts.names import TaskQueues
from tests.support.forbidden import Forbidden
from tests.support.histories import HISTORIES, history, replay
from workers import sandbox
from workers.assembly import workflow_runner
from workers.sandbox import SharedSandboxRunner


async def test_each_of_many_runs_is_refused_what_is_not_deterministic(
    temporal_client: Client, queues: TaskQueues
) -> None:
    async def refused(what: str, number: int) -> str:
        with pytest.raises(WorkflowFailureError) as failed:
            await temporal_client.execute_workflow(
                Forbidden.run, what, id=f"{queues.base}-{what}-{number}", task_queue=queues.main
            )
        assert isinstance(failed.value.cause, ApplicationError)
        assert failed.value.cause.type == "RestrictedWorkflowAccessError"
        return failed.value.cause.message

    async with Worker(
        temporal_client,
        task_queue=queues.main,
        workflows=[Forbidden],
        workflow_runner=workflow_runner(),
        workflow_failure_exception_types=[RestrictedWorkflowAccessError],
    ):
        words = {
            what: set(await asyncio.gather(*(refused(what, number) for number in range(5))))
            for what in ("clock", "dice", "file")
        }
    assert {what: len(said) for what, said in words.items()} == {"clock": 1, "dice": 1, "file": 1}
    for what, named in (("clock", "time.time"), ("dice", "random.random"), ("file", "open")):
        assert named in words[what].pop()


async def test_runs_leave_the_modules_that_they_share_as_they_were() -> None:
    runner = workflow_runner()
    await replay([], runner)
    before = _state(runner)
    assert len(before) > 100
    await replay([history(path) for path in HISTORIES], runner)
    assert _state(runner) == before


async def test_payloads_are_converted_in_the_contexts_that_the_sdk_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = sandbox._SharingInstance
    seen = set()

    def compared(name: str) -> Any:
        own, theirs = getattr(ours, name), getattr(_Instance, name)

        def ask(self: Any, command: Any) -> Any:
            context = own(self, command)
            assert context == theirs(self, command)
            seen.add((name, type(context)))
            return context

        return ask

    for name in ("get_serialization_context", "get_external_store_context"):
        monkeypatch.setattr(ours, name, compared(name))
    await replay(
        [history(path) for path in HISTORIES if path.stem.startswith("prepare_gpu_cluster")], workflow_runner()
    )
    assert {kind for name, kind in seen if name == "get_serialization_context"} == {
        ActivitySerializationContext,
        WorkflowSerializationContext,
    }
    assert "get_external_store_context" in {name for name, _ in seen}


def _state(runner: SharedSandboxRunner) -> dict[str, str]:
    """What the modules of `workflows` hold, beside functions, classes and other modules, as words."""
    return dict(_words(runner))


def _words(runner: SharedSandboxRunner) -> Iterator[tuple[str, str]]:
    for loaded, importer in runner.loaded.items():
        for name, module in importer.new_modules.items():
            if name.startswith("workflows."):
                for key, value in vars(module).items():
                    if not key.startswith("__") and not isinstance(value, (ModuleType, type)) and not callable(value):
                        yield f"{loaded}: {name}.{key}", repr(value)
