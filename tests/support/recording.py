"""Workflows with the names and messages of those that rules start, which only record what they were given."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from contracts import names
    from contracts.audit import HaRecoveryAuditInput, IncidentEvents
    from contracts.prepare import HostEvents, PrepareGpuHostInput
    from contracts.provision import ProvisionGpuVmInput

__all__ = ["FINISH", "RecordingHaRecoveryAudit", "RecordingPrepareGpuHost", "RecordingProvisionGpuVm"]

FINISH = "finish"


@workflow.defn(name=names.PREPARE_GPU_HOST)
class RecordingPrepareGpuHost:
    """With the profile `quick` it ends at once, with `brief` soon, with any other when it is told `finish`."""

    @workflow.init
    def __init__(self, order: PrepareGpuHostInput) -> None:
        self._keys = [event.key for event in order.events]
        self._finish = order.profile == "quick"

    @workflow.signal(name=names.HOST_EVENTS)
    def host_events(self, message: HostEvents) -> None:
        """Record every event, repeated ones too."""
        self._keys += [event.key for event in message.events]

    @workflow.signal(name=FINISH)
    def finish(self) -> None:
        """End."""
        self._finish = True

    @workflow.query
    def keys(self) -> list[int]:
        """The events so far."""
        return self._keys

    @workflow.run
    async def run(self, order: PrepareGpuHostInput) -> list[int]:
        """Wait to be told to end."""
        if order.profile == "brief":
            await workflow.sleep(0.3)
        else:
            await workflow.wait_condition(lambda: self._finish)
        return self._keys


@workflow.defn(name=names.PROVISION_GPU_VM)
class RecordingProvisionGpuVm:
    """It ends when it is told `finish`."""

    @workflow.init
    def __init__(self, order: ProvisionGpuVmInput) -> None:
        self._order = order
        self._finish = False

    @workflow.signal(name=FINISH)
    def finish(self) -> None:
        """End."""
        self._finish = True

    @workflow.query
    def order(self) -> ProvisionGpuVmInput:
        """What it was started with."""
        return self._order

    @workflow.run
    async def run(self, order: ProvisionGpuVmInput) -> None:
        """Wait to be told to end."""
        await workflow.wait_condition(lambda: self._finish)


@workflow.defn(name=names.HA_RECOVERY_AUDIT)
class RecordingHaRecoveryAudit:
    """It ends when it is told `finish`."""

    @workflow.init
    def __init__(self, order: HaRecoveryAuditInput) -> None:
        self._order = order
        self._finish = False

    @workflow.signal(name=names.INCIDENT_EVENTS)
    def incident_events(self, message: IncidentEvents) -> None:
        """Record every event, repeated ones too."""
        self._order = self._order.model_copy(update={"incident": (*self._order.incident, *message.incident)})

    @workflow.signal(name=FINISH)
    def finish(self) -> None:
        """End."""
        self._finish = True

    @workflow.query
    def order(self) -> HaRecoveryAuditInput:
        """What it was started with, and every event since."""
        return self._order

    @workflow.query
    def keys(self) -> list[int]:
        """The events so far, by key."""
        return [event.key.key for event in self._order.incident]

    @workflow.run
    async def run(self, order: HaRecoveryAuditInput) -> None:
        """Wait to be told to end."""
        await workflow.wait_condition(lambda: self._finish)
