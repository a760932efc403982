"""What all inventory objects share: name, parent, health and recent tasks."""

from __future__ import annotations

from typing import Any

from pyVmomi import vmodl

from simulator.core import Call, Managed, method, prop
from simulator.world import World

__all__ = ["Entity", "resolve"]


class Entity(Managed):
    """A managed entity that renders one piece of the world's state."""

    def __init__(self, world: World, state: Any) -> None:
        super().__init__(world.registry, state.moid)
        self.world = world
        self.state = state

    @prop("name")
    def name(self) -> str:
        return self.state.name

    @prop("overallStatus")
    def overall_status(self) -> str:
        return "green"

    @prop("configStatus")
    def config_status(self) -> str:
        return "green"

    @prop("recentTask")
    def recent_task(self) -> list[Any]:
        return self.registry.tasks.recent(self)

    @prop("effectiveRole")
    def effective_role(self) -> list[int]:
        return [-1]

    @prop("disabledMethod")
    def disabled_method(self) -> list[str]:
        return []

    @prop("alarmActionsEnabled")
    def alarm_actions_enabled(self) -> bool:
        return True

    @prop("declaredAlarmState")
    def declared_alarm_state(self) -> list[Any]:
        return []

    @prop("triggeredAlarmState")
    def triggered_alarm_state(self) -> list[Any]:
        return []

    @prop("customValue")
    def custom_value(self) -> list[Any]:
        return []

    @prop("value")
    def value(self) -> list[Any]:
        return []

    @prop("availableField")
    def available_field(self) -> list[Any]:
        return []

    @prop("tag")
    def tag(self) -> list[Any]:
        return []

    @prop("permission")
    def permission(self) -> list[Any]:
        return []

    @method("Rename_Task")
    def rename(self, call: Call, newName: str) -> Managed:
        async def renamed() -> None:
            self.state.name = newName
            self.touch()

        return self.registry.tasks.start(self, "ManagedEntity.rename", renamed())


def resolve(world: World, ref: Any, kind: type) -> Any:
    """The state behind a reference that a client sent to an object of a pyVmomi type.

    Raises `ManagedObjectNotFound`, or `InvalidArgument` for an object of another type.
    """
    obj = world.registry.objects.get(ref._moId)
    if obj is None:
        raise vmodl.fault.ManagedObjectNotFound(obj=ref, msg=f"The object {ref} has already been deleted.")
    if not isinstance(obj, Entity) or not issubclass(obj.vim_type, kind):
        raise vmodl.fault.InvalidArgument(invalidProperty="ref", msg=f"{ref} is not a {kind.__name__}.")
    return obj.state
