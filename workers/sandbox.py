"""Temporal's workflow sandbox, loaded once a workflow class instead of once a run.

The sandbox forbids what is not deterministic (clocks, randomness, files, threads), and all of that stays in force here.
Two of its costs go, which together were most of what it costs (`benchmarks/sandbox.py`):

- It loads a workflow's modules anew for each run, so that runs share no module state. Ours have none that changes
  (`tests/workers/test_sandbox.py` compares it before and after), so that the runs of a class share what is loaded.
- It enters itself for each payload, to ask in which context it is to be converted. The answer is read from the SDK's
  own state of the run: no workflow code takes part.

Both reach into parts of the SDK that it does not promise to keep; the tests tell when it changed them.
"""

import threading
from dataclasses import dataclass, field
from typing import Any

from temporalio.converter import SerializationContext, StorageDriverStoreContext
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails, WorkflowRunner
from temporalio.worker._command_aware_visitor import CommandInfo
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions
from temporalio.worker.workflow_sandbox._importer import Importer
from temporalio.worker.workflow_sandbox._restrictions import RestrictionContext
from temporalio.worker.workflow_sandbox._runner import _Instance

__all__ = ["SharedSandboxRunner"]


@dataclass(frozen=True)
class SharedSandboxRunner(SandboxedWorkflowRunner):
    """A sandbox whose runs share the modules of their workflow class; for workflows without module state only."""

    loaded: dict[str, Importer] = field(default_factory=dict, init=False, compare=False)
    """What was loaded, by the name of the workflow's module."""

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """One run."""
        return _SharingInstance(det, self.runner_class, self.restrictions, self.loaded)


class _SharingInstance(_Instance):
    def __init__(
        self,
        instance_details: WorkflowInstanceDetails,
        runner_class: type[WorkflowRunner],
        restrictions: SandboxRestrictions,
        loaded: dict[str, Importer],
    ) -> None:
        self._loaded = loaded
        self._restrictions = restrictions
        super().__init__(instance_details, runner_class, restrictions)

    def _create_instance(self) -> None:
        module = self._workflow_module_name()
        if module not in self._loaded:
            self._loaded[module] = Importer(self._restrictions, _ThreadsContext(), workflow_module_name=module)
        self.importer = self._loaded[module]
        super()._create_instance()

    def get_serialization_context(self, command_info: CommandInfo | None) -> SerializationContext | None:
        context: SerializationContext | None = self._inside.get_serialization_context(command_info)
        return context

    def get_external_store_context(self, command_info: CommandInfo | None) -> StorageDriverStoreContext:
        return self._inside.get_external_store_context(command_info)

    @property
    def _inside(self) -> WorkflowInstance:
        loaded: dict[str, Any] = self.globals_and_locals
        inside: WorkflowInstance = loaded["__temporal_in_sandbox"].instance
        return inside


class _ThreadsContext(RestrictionContext):
    """Whether workflow code is running, by thread: runs that share their modules are active side by side."""

    def __init__(self) -> None:
        self._here = threading.local()

    @property
    def is_runtime(self) -> bool:
        return bool(getattr(self._here, "is_runtime", False))

    @is_runtime.setter
    def is_runtime(self, value: bool) -> None:
        self._here.is_runtime = value

    @property
    def in_activation(self) -> bool:
        return bool(getattr(self._here, "in_activation", False))

    @in_activation.setter
    def in_activation(self, value: bool) -> None:
        self._here.in_activation = value
