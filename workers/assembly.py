"""The workers of a service: which workflows and activities run on which task queue, and with how many slots."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.worker import Interceptor, Worker
from temporalio.worker.workflow_sandbox import SandboxRestrictions

from activities.errors import GpuwrightErrors
from activities.parents import TellParent
from contracts.activities import (
    AuditActivities,
    ClusterActivities,
    GateActivities,
    GuestActivities,
    HostActivities,
    PackageActivities,
    RemedyActivities,
    VmActivities,
)
from contracts.names import TaskQueues
from workers.sandbox import SharedSandboxRunner

__all__ = [
    "GRACE",
    "PASSED_THROUGH",
    "Parts",
    "audit_activities",
    "build_workers",
    "listen_workers",
    "machine_activities",
    "preparation_activities",
    "workflow_runner",
]

GRACE = timedelta(seconds=10)
"""How long running activities may finish after a stop was asked for, before they are cancelled."""

PASSED_THROUGH = (
    "contracts",
    "annotated_types",
    "cryptography",
    "jwt",
    "pydantic",
    "pydantic_core",
    "typing_extensions",
)
"""Modules that the sandbox need not load again for each run: deterministic as workflows use them. `contracts` must be
one: the keyring that validators use is set outside."""

MAIN_SLOTS = 20
WAIT_SLOTS = 200
"""Waiting costs a thread and little else; a hundred rebooting hosts are normal during a rollout."""


@dataclass(frozen=True)
class Parts:
    """What runs: workflow classes and the activities of each queue."""

    workflows: Sequence[type] = ()
    main: Sequence[Callable[..., Any]] = ()
    """Short activities."""
    wait: Sequence[Callable[..., Any]] = ()
    """Activities that mostly wait."""
    listen: Sequence[Callable[..., Any]] = ()
    """`follow_events`."""
    forward: Sequence[Callable[..., Any]] = ()
    """`forward_events`."""
    webhooks: Sequence[str] = ()
    """To whom `forward` takes events."""
    vcenters: Sequence[str] = ()
    """Whose events `listen` and `forward` follow."""


def preparation_activities(
    host: HostActivities, package: PackageActivities, gate: GateActivities, cluster: ClusterActivities
) -> tuple[list[Callable[..., Any]], list[Callable[..., Any]]]:
    """The activities that prepare hosts and clusters: the short ones, and those that mostly wait."""
    short: list[Callable[..., Any]] = [
        host.look_and_plan_host,
        host.grant_automatically,
        host.enter_maintenance,
        host.exit_maintenance,
        host.reboot,
        host.set_host_graphics,
        host.set_graphics_type,
        host.restart_xorg,
        host.disable_passthrough,
        host.enable_passthrough,
        host.set_hardware_label,
        host.shut_down_guest,
        host.migrate_cold,
        host.power_on_vm,
        gate.request_lease,
        gate.describe_holders,
        gate.read_legacy,
        gate.look_and_decide_leases,
    ]
    wait: list[Callable[..., Any]] = [
        host.await_task,
        host.await_host_back,
        host.await_vm_off,
        package.inspect_depot,
        package.install_vgpu_manager,
        package.remove_vgpu_manager,
        package.remediate_image,
        package.set_mig,
        package.set_bios,
        cluster.look_and_plan_cluster,
        cluster.await_preparation,
    ]
    return short, wait


def machine_activities(
    vm: VmActivities, guest: GuestActivities
) -> tuple[list[Callable[..., Any]], list[Callable[..., Any]]]:
    """The activities about GPU VMs: the short ones, and those that mostly wait. Those about hosts are needed too."""
    short: list[Callable[..., Any]] = [
        vm.look_and_plan_vm,
        vm.look_for_room,
        vm.configure_vm,
        vm.set_vm_gpus,
        vm.upgrade_hardware,
        vm.shut_down_gpu_vm,
    ]
    wait: list[Callable[..., Any]] = [
        vm.create_vm,
        vm.power_on_gpu_vm,
        vm.await_power_on,
        vm.delete_vm,
        guest.await_guest,
        guest.inspect_guest,
        guest.install_guest_driver,
    ]
    return short, wait


def audit_activities(audit: AuditActivities, remedy: RemedyActivities) -> list[Callable[..., Any]]:
    """The activities of audits, all of which may take long. Those about hosts and VMs are needed too."""
    return [
        audit.identify_victims,
        audit.look_at_incident,
        audit.recall_profiles,
        remedy.register_lost_vm,
        remedy.configure_lost_vm,
        remedy.convert_lost_vm,
        remedy.power_on_lost_vm,
        remedy.apply_recommendation,
        remedy.move_vm,
        remedy.suspend_vm,
    ]


def workflow_runner() -> SharedSandboxRunner:
    """The sandbox, with what is safe and expensive to load again passed through; one for each worker."""
    return SharedSandboxRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*PASSED_THROUGH))


def build_workers(
    client: Client, queues: TaskQueues, parts: Parts, *, interceptors: Sequence[Interceptor] = ()
) -> list[Worker]:
    """A worker for each queue that has something to run, see `listen_workers`; not started yet."""
    given, interceptors = interceptors, [GpuwrightErrors(), TellParent(client), *interceptors]
    workers = []
    if parts.workflows or parts.main:
        workers.append(
            Worker(
                client,
                task_queue=queues.main,
                workflows=parts.workflows,
                activities=parts.main,
                workflow_runner=workflow_runner(),
                activity_executor=ThreadPoolExecutor(MAIN_SLOTS, thread_name_prefix="activity"),
                max_concurrent_activities=MAIN_SLOTS,
                graceful_shutdown_timeout=GRACE,
                interceptors=interceptors,
            )
        )
    if parts.wait:
        workers.append(
            Worker(
                client,
                task_queue=queues.wait,
                activities=parts.wait,
                activity_executor=ThreadPoolExecutor(WAIT_SLOTS, thread_name_prefix="wait"),
                max_concurrent_activities=WAIT_SLOTS,
                graceful_shutdown_timeout=GRACE,
                interceptors=interceptors,
            )
        )
    for vcenter in parts.vcenters:
        workers += listen_workers(client, queues, parts, vcenter, interceptors=given)
    return workers


def listen_workers(
    client: Client, queues: TaskQueues, parts: Parts, vcenter: str, *, interceptors: Sequence[Interceptor] = ()
) -> list[Worker]:
    """The workers that follow the events of one vCenter, for the rules and for each webhook; not started yet.

    Heartbeats leave at once and one poller asks: so another worker takes over within seconds, with a cursor that is a
    second old at most. One slot, taken by the activity, means no poll while it runs: with a slot to spare a process
    that freezes keeps a poll open, which takes the retried activity and loses it, and the take-over needs two heartbeat
    time-outs instead of one. Hence a worker for each of them.
    """
    work = [(queues.listen(vcenter), parts.listen)] if parts.listen else []
    if parts.forward:
        work += [(queues.forward(vcenter, webhook), parts.forward) for webhook in parts.webhooks]
    return [
        Worker(
            client,
            task_queue=task_queue,
            activities=activities,
            max_concurrent_activities=1,
            max_concurrent_activity_task_polls=1,
            max_heartbeat_throttle_interval=timedelta(seconds=1),
            default_heartbeat_throttle_interval=timedelta(seconds=1),
            graceful_shutdown_timeout=GRACE,
            interceptors=[GpuwrightErrors(), TellParent(client), *interceptors],
        )
        for task_queue, activities in work
    ]
