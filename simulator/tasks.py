"""Tasks: a law that takes time, run as an asyncio task and shown to clients as a vSphere `Task` object."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Iterator
from contextvars import ContextVar
from typing import Any

from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import ManagedMethod

from simulator.core import CURRENT_CALL, Call, Managed, Registry, SessionView, method, prop

__all__ = ["Task", "TaskManager"]

log = logging.getLogger(__name__)

_RECENT = 200
"""How many tasks `TaskManager.recentTask` lists at most."""

_CURRENT_TASK: ContextVar[Task | None] = ContextVar("current_task", default=None)


class Task(Managed):
    """One task object; `info` is its live `TaskInfo`."""

    vim_type = vim.Task

    def __init__(self, registry: Registry, number: int, info: Any) -> None:
        super().__init__(registry, info.key)
        self.number = number
        self.task_info = info
        self.work: asyncio.Task[None] | None = None

    @prop("info")
    def info(self) -> Any:
        return self.task_info

    @method("CancelTask")
    def cancel(self, call: Call) -> None:
        if self.work is None or self.work.done():
            raise vim.fault.InvalidState(msg="The task has already ended.")
        if not self.task_info.cancelable:
            raise vmodl.fault.NotSupported(msg="The task cannot be canceled.")
        self.task_info.cancelled = True
        self.touch()
        self.work.cancel()


class TaskManager:
    """Starts tasks, keeps the recent ones, and forgets those that ended `ttl_s` real seconds ago."""

    def __init__(self, registry: Registry, ttl_s: float = 600.0) -> None:
        self.registry = registry
        self.ttl_s = ttl_s
        self._next = 1
        self._tasks: deque[Task] = deque()
        self._by_entity: dict[str, deque[Task]] = {}
        self._running: set[asyncio.Task[None]] = set()

    def start(
        self,
        entity: Managed,
        description_id: str,
        work: Coroutine[Any, Any, Any],
        *,
        cancelable: bool = False,
        session: SessionView | None = None,
    ) -> Task:
        """Run `work` as a task on `entity` and return the task object, which shows it as queued, then running.

        `description_id` is vSphere's, e.g. `HostSystem.reboot`. What `work` returns becomes `info.result` (a
        `Managed` is shown as its reference); a pyVmomi fault that it raises becomes `info.error`.
        """
        call = CURRENT_CALL.get()
        session = session or (call.session if call else None)
        number, self._next = self._next, self._next + 1
        moid = f"task-{number}"
        reason = vim.TaskReasonUser(userName=session.user) if session else vim.TaskReasonSystem()
        info = vim.TaskInfo(
            key=moid,
            task=vim.Task(moid),
            descriptionId=description_id,
            name=_method_named(entity, call.method) if call else None,
            entity=entity.ref(),
            entityName=entity.read("name") if "name" in entity.readers else None,
            state="queued",
            cancelled=False,
            cancelable=cancelable,
            reason=reason,
            queueTime=self.registry.clock.now(),
            eventChainId=0,
        )
        task = Task(self.registry, number, info)
        event = vim.event.TaskEvent(info=info, userName=session.user if session else "")
        info.eventChainId = self.registry.events.next_key
        self.registry.events.post(event)
        self._expire()
        self._tasks.append(task)
        self._by_entity.setdefault(entity.moid, deque()).append(task)
        self.registry.add(task)
        task.work = asyncio.ensure_future(self._run(task, entity, work))
        self._running.add(task.work)
        task.work.add_done_callback(self._running.discard)
        self._shown(entity)
        return task

    def progress(self, percent: int) -> None:
        """Called by a law inside its task: show how far it is, 0 to 100. No effect outside of a task."""
        if (task := _CURRENT_TASK.get()) is not None:
            task.task_info.progress = percent
            task.touch()

    def recent(self, entity: Managed | None = None) -> list[Any]:
        """References to the tasks of an entity (of all, without one) that have not expired, oldest first."""
        self._expire()
        found = self._tasks if entity is None else self._by_entity.get(entity.moid, ())
        return [task.ref() for task in list(found)[-_RECENT:]]

    def oldest_first(self) -> Iterator[Task]:
        """All tasks that have not expired, in the order of their start."""
        self._expire()
        return iter(self._tasks)

    async def close(self) -> None:
        """Stop what still runs."""
        for running in tuple(self._running):
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _run(self, task: Task, entity: Managed, work: Coroutine[Any, Any, Any]) -> None:
        info = task.task_info
        _CURRENT_TASK.set(task)
        try:
            info.state = "running"
            info.startTime = self.registry.clock.now()
            task.touch()
            result = await work
            info.result = result.ref() if isinstance(result, Managed) else result
            info.state = "success"
            info.progress = None
        except vmodl.MethodFault as fault:
            info.error, info.state = fault, "error"
        except asyncio.CancelledError:
            info.error, info.state = vmodl.fault.RequestCanceled(msg="The task was canceled."), "error"
        except Exception as broken:
            log.exception("task %s %s of %s broke", info.key, info.descriptionId, info.entityName)
            info.error = vmodl.fault.SystemError(reason=repr(broken), msg=f"The simulator's law broke: {broken!r}")
            info.state = "error"
        finally:
            work.close()
            info.completeTime = self.registry.clock.now()
            info.cancelable = False
            task.touch()
            self._shown(entity)

    def _shown(self, entity: Managed) -> None:
        """`recentTask` of the entity and of the task manager changed."""
        for obj in (self.registry.objects.get(entity.moid), self.registry.objects.get("TaskManager")):
            if obj is not None:
                obj.touch()

    def _expire(self) -> None:
        now = self.registry.clock.now()

        def expired(task: Task) -> bool:
            ended = task.task_info.completeTime
            return ended is not None and (now - ended).total_seconds() > self.ttl_s

        while self._tasks and expired(self._tasks[0]):
            task = self._tasks.popleft()
            own = self._by_entity[task.task_info.entity._moId]
            own.remove(task)
            if not own:
                del self._by_entity[task.task_info.entity._moId]
            self.registry.remove(task)


def _method_named(entity: Managed, wsdl_name: str) -> Any:
    """pyVmomi's method object for a task's `name`, as clients show it; `None` when it has none."""
    for base in entity.vim_type.__mro__:
        if isinstance(found := vars(base).get(wsdl_name), ManagedMethod):
            return found
    return None
