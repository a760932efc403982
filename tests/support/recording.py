"""A workflow with the name and the messages of `PrepareGpuHost` that only records which events it was given."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from contracts import names
    from contracts.prepare import HostEvents, PrepareGpuHostInput

__all__ = ["FINISH", "RecordingPrepareGpuHost"]

FINISH = "finish"


@workflow.defn(name=names.PREPARE_GPU_HOST)
class RecordingPrepareGpuHost:
    """With the profile `quick` it ends at once, with any other when it is told `finish`."""

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
        await workflow.wait_condition(lambda: self._finish)
        return self._keys
