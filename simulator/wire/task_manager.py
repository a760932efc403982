"""The task manager as clients see it, and collectors over the tasks that have not expired."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim, vmodl

from simulator.core import Call, Managed, Registry, method, prop
from simulator.tasks import Task
from simulator.wire.event_collectors import COLLECTORS_PER_SESSION, MAX_PAGE
from simulator.wire.session import Session

__all__ = ["TaskHistoryCollector", "TaskManagerObject"]

_TIMES = {"queuedTime": "queueTime", "startedTime": "startTime", "completedTime": "completeTime"}


class TaskFilter:
    """A compiled `TaskFilterSpec`; raises `InvalidArgument` for a recursion or time type that does not exist."""

    def __init__(self, spec: Any, registry: Registry) -> None:
        self.spec = spec
        self.registry = registry
        self._states = {str(state) for state in spec.state or ()}
        self._users = set(spec.userName.userList or ()) if spec.userName else None
        self._time = _TIMES.get(str(spec.time.timeType)) if spec.time else None
        if spec.time and self._time is None:
            raise vmodl.fault.InvalidArgument(invalidProperty="time.timeType", msg=f"timeType is {spec.time.timeType}.")
        if spec.entity and str(spec.entity.recursion) not in ("self", "children", "all"):
            raise vmodl.fault.InvalidArgument(
                invalidProperty="entity.recursion", msg=f"recursion is {spec.entity.recursion}."
            )

    def matches(self, info: Any) -> bool:
        """Whether the filter lets a task through."""
        spec = self.spec
        if self._states and str(info.state) not in self._states:
            return False
        if self._users is not None and getattr(info.reason, "userName", None) not in self._users:
            return False
        if self._time is not None:
            moment = getattr(info, self._time)
            if moment is None or (spec.time.beginTime is not None and moment < spec.time.beginTime):
                return False
            if spec.time.endTime is not None and moment > spec.time.endTime:
                return False
        if spec.eventChainId and info.eventChainId not in spec.eventChainId:
            return False
        return spec.entity is None or self._about(info.entity._moId)

    def _about(self, moid: str) -> bool:
        wanted, recursion = self.spec.entity.entity._moId, str(self.spec.entity.recursion)
        if moid == wanted:
            return recursion != "children"
        if recursion == "self":
            return False
        at = self.registry.objects.get(moid)
        while at is not None and "parent" in at.readers:
            parent = at.read("parent")
            if parent is None:
                return False
            if parent._moId == wanted:
                return True
            at = self.registry.objects.get(parent._moId)
        return False


class TaskHistoryCollector(Managed):
    """Pages through tasks, oldest first; dies with its session."""

    vim_type = vim.TaskHistoryCollector

    def __init__(self, session: Session, spec: Any) -> None:
        super().__init__(session.registry, session.new_moid())
        self.session = session
        self.filter = TaskFilter(spec, session.registry)
        self.page_size = 10
        self._position = 0

    @prop("filter")
    def filter_shown(self) -> Any:
        return self.filter.spec

    @prop("latestPage")
    def latest_page(self) -> list[Any]:
        return [task.task_info for task in self._matching()][-self.page_size :][::-1]

    @method("ReadNextTasks")
    def read_next(self, call: Call, maxCount: int) -> list[Any]:
        page = [task for task in self._matching() if task.number >= self._position][: _page(maxCount)]
        if page:
            self._position = page[-1].number + 1
        return [task.task_info for task in page]

    @method("ReadPreviousTasks")
    def read_previous(self, call: Call, maxCount: int) -> list[Any]:
        page = [task for task in self._matching() if task.number < self._position][-_page(maxCount) :]
        if page:
            self._position = page[0].number
        return [task.task_info for task in reversed(page)]

    @method("SetCollectorPageSize")
    def set_page_size(self, call: Call, maxCount: int) -> None:
        self.page_size = _page(maxCount)
        self.touch()

    @method("RewindCollector")
    def rewind(self, call: Call) -> None:
        self._position = 0

    @method("ResetCollector")
    def reset(self, call: Call) -> None:
        latest = self._matching()[-self.page_size :]
        self._position = latest[0].number if latest else 0

    @method("DestroyCollector")
    def destroy(self, call: Call) -> None:
        self.session.drop(self)

    def _matching(self) -> list[Task]:
        return [task for task in self.registry.tasks.oldest_first() if self.filter.matches(task.task_info)]


class TaskManagerObject(Managed):
    """`content.taskManager`."""

    vim_type = vim.TaskManager

    @prop("recentTask")
    def recent_task(self) -> list[Any]:
        return self.registry.tasks.recent()

    @prop("maxCollector")
    def max_collector(self) -> int:
        return COLLECTORS_PER_SESSION

    @prop("description")
    def description(self) -> Any:
        states = ("queued", "running", "success", "error")
        return vim.TaskDescription(
            methodInfo=[],
            state=[vim.ElementDescription(key=state, label=state.title(), summary=state) for state in states],
            reason=[],
        )

    @method("CreateCollectorForTasks")
    def create_collector(self, call: Call, filter: Any) -> Managed:
        session = call.session
        if not isinstance(session, Session):
            raise TypeError("collectors are made over the wire only")
        if sum(1 for _ in session.of_type(TaskHistoryCollector)) >= COLLECTORS_PER_SESSION:
            raise vim.fault.InvalidState(msg=f"A session has at most {COLLECTORS_PER_SESSION} task collectors.")
        return session.add(TaskHistoryCollector(session, filter))


def _page(max_count: int) -> int:
    if max_count <= 0:
        raise vmodl.fault.InvalidArgument(invalidProperty="maxCount", msg=f"maxCount is {max_count}.")
    return min(max_count, MAX_PAGE)
