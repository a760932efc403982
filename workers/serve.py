"""`gpuwright serve`: connect, register, run the workers and listen to each vCenter, and stop in good order."""

import asyncio
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog
from temporalio.client import Client
from temporalio.runtime import Runtime
from temporalio.service import RPCError
from temporalio.worker import Worker

from activities.audit import VCenterAuditActivities
from activities.cluster import VCenterClusterActivities
from activities.fleet import VCenterFleetActivities
from activities.gate import VCenterGateActivities
from activities.guest import VCenterGuestActivities
from activities.host import VCenterHostActivities
from activities.machine import VCenterVmActivities
from activities.notify import Notifier, channels_of
from activities.packages import VCenterPackageActivities
from activities.reconcile import VCenterReconcileActivities
from activities.remedies import VCenterRemedyActivities
from activities.webhooks import Webhooks
from contracts import ids, names
from contracts.audit import AuditLimits, RemedyPolicy
from contracts.cloud_events import CloudEventSender
from contracts.errors import Unreachable
from contracts.gate import GateLimits
from contracts.provision import VmLimits
from contracts.signing import trust
from listeners.follow_events import Listener
from listeners.forward_events import Forwarder
from listeners.redrive import Redriver
from listeners.releasing import Releaser
from vsphere.sessions import SessionPool
from workers.assembly import Parts, audit_activities, build_workers, machine_activities, preparation_activities
from workers.client import connect, runtime_for
from workers.configuration import Configuration
from workers.reload import Reload
from workers.search_attributes import ensure_search_attributes
from workers.vcenters import RETRY_S, STOP_TIMEOUT_S, VCenters
from workers.watches import watched_vcenters
from workflows.cluster_gate import ClusterGate
from workflows.cluster_snapshots import ClusterSnapshots
from workflows.deliver_notice import DeliverNotice
from workflows.forward_events import ForwardEvents
from workflows.ha_recovery_audit import HaRecoveryAudit
from workflows.prepare_gpu_cluster import PrepareGpuCluster
from workflows.prepare_gpu_host import PrepareGpuHost
from workflows.provision_gpu_vm import ProvisionGpuVm
from workflows.provision_gpu_vms import ProvisionGpuVms
from workflows.reconcile_fleet import ReconcileFleet
from workflows.retire_gpu_vm import RetireGpuVm
from workflows.rule_throttle import RuleThrottle
from workflows.watch_vcenter import WatchVCenter

__all__ = ["parts_of", "run_workers", "serve"]

_log = structlog.get_logger(__name__)


async def serve(path: Path, configuration: Configuration) -> None:
    """Run the service until SIGINT or SIGTERM, with `configuration`, which was loaded from `path`.

    Waits for Temporal when it is down; a vCenter that is down delays only its own events. vCenters that are added to or
    removed from the file come and go meanwhile (SIGHUP has it read at once). Raises `GpuwrightError` when the service
    cannot run as configured.
    """
    settings = configuration.settings
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, stop.set)
    # Until there is something to reload: it would end the process.
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    runtime = runtime_for(settings.metrics)
    client = await _connected(configuration, runtime, stop)
    if client is None:
        _log.info("stopped before Temporal answered")
        return
    if added := await ensure_search_attributes(client):
        _log.info("search attributes registered", added=added)
    trust(configuration.keyring)
    queues = names.TaskQueues(settings.temporal.task_queue)
    pools: dict[str, SessionPool] = {}
    webhooks = Webhooks(settings.webhooks)
    parts = parts_of(configuration, pools, webhooks)
    vcenters = VCenters(client, queues, parts, pools, settings.drift)
    reload = Reload(path, configuration, vcenters, runtime.metric_meter)
    await vcenters.want(settings.vcenters)
    try:
        await vcenters.settle()
        loop.add_signal_handler(signal.SIGHUP, reload.ask)
        await _tell_unknown(client, queues, pools)
        _log.info("serving", temporal=settings.temporal.address, task_queue=queues.main, vcenters=list(pools))
        await _run(build_workers(client, queues, parts), vcenters, reload, stop)
    finally:
        await webhooks.close()
        await vcenters.log_out()
    _log.info("stopped")


async def _run(workers: Sequence[Worker], vcenters: VCenters, reload: Reload, stop: asyncio.Event) -> None:
    """Run all until `stop` is set, or something fails and ends the service with its error."""
    beside = [asyncio.create_task(each) for each in (vcenters.tend(), reload.run())]
    for task in beside:
        task.add_done_callback(lambda _: stop.set())

    async def end() -> None:
        await stop.wait()
        for task in beside:
            task.cancel()
        await asyncio.wait(beside)
        await vcenters.shut_down()

    ending = asyncio.create_task(end())
    try:
        await run_workers(workers, stop)
    finally:
        stop.set()
        await ending
    for task in beside:
        if not task.cancelled() and (error := task.exception()):
            raise error


async def _tell_unknown(client: Client, queues: names.TaskQueues, configured: Mapping[str, SessionPool]) -> None:
    """Name watches that a restart left behind. Another service may still mean to have them, so none is stopped."""
    try:
        unknown = [name for name in await watched_vcenters(client, queues.main) if name not in configured]
    except RPCError as error:
        _log.warning("watches not listed", error=str(error))
        return
    for name in unknown:
        _log.warning(
            "watched, but not in the configuration; add it, or stop its watch",
            vcenter=name,
            command=f"temporal workflow signal --workflow-id {ids.watch(name)} --name {names.STOP}",
        )


def parts_of(configuration: Configuration, pools: Mapping[str, SessionPool], webhooks: CloudEventSender) -> Parts:
    """The workflows and activities of the service, with what they need given to them."""
    host = VCenterHostActivities(
        pools,
        configuration.rules,
        configuration.keyring,
        terms=configuration.terms,
        limits=configuration.limits,
        windows=configuration.settings.windows,
        ssh=configuration.settings.ssh is not None,
        bmcs=configuration.settings.bmcs,
        signing_key=configuration.signing_key,
    )
    package = VCenterPackageActivities(
        pools,
        configuration.rules,
        configuration.keyring,
        limits=configuration.limits,
        ssh=configuration.settings.ssh,
        bmcs=configuration.settings.bmcs,
    )
    gate = VCenterGateActivities(pools, GateLimits.model_validate(configuration.settings.gate.model_dump()))
    cluster = VCenterClusterActivities(pools, host.look_and_plan_host, configuration.terms)
    reconcile = VCenterReconcileActivities(pools, configuration.rules, host.look_and_plan_host)
    fleet = VCenterFleetActivities(pools, configuration.rules, configuration.settings.temporal.task_queue)
    listener = Listener(
        pools,
        configuration.rules,
        configuration.settings.temporal.task_queue,
        configuration.settings.watch.unreachable_after_s,
    )
    redriver = Redriver(pools, configuration.rules, configuration.settings.temporal.task_queue)
    releaser = Releaser(configuration.rules, configuration.settings.temporal.task_queue)
    settings, ask_always = configuration.settings, configuration.settings.approvals.ask_for_vms
    vm = VCenterVmActivities(
        pools,
        configuration.keyring,
        terms=configuration.terms,
        limits=VmLimits.model_validate(settings.vm_limits.model_dump()),
        ask_always=ask_always,
        cloud_init={name: entry.user_data_file for name, entry in settings.cloud_init.items()},
        credentials=settings.guest_credentials,
    )
    guest = VCenterGuestActivities(pools, configuration.keyring, settings.guest_credentials, ask_always=ask_always)
    audit = VCenterAuditActivities(
        pools,
        terms=configuration.terms,
        limits=AuditLimits.model_validate(settings.audit.model_dump()),
        policy=RemedyPolicy.model_validate(settings.audit.model_dump()),
    )
    forwarder = Forwarder(pools, settings.webhooks, webhooks, settings.watch.unreachable_after_s)
    notifier = Notifier(channels_of(settings.webhooks, webhooks))
    main, wait = preparation_activities(host, package, gate, cluster)
    vm_main, vm_wait = machine_activities(vm, guest)
    return Parts(
        workflows=[
            PrepareGpuHost,
            PrepareGpuCluster,
            ProvisionGpuVm,
            ProvisionGpuVms,
            RetireGpuVm,
            ReconcileFleet,
            WatchVCenter,
            ForwardEvents,
            DeliverNotice,
            ClusterGate,
            RuleThrottle,
            ClusterSnapshots,
            HaRecoveryAudit,
        ],
        main=[*main, *vm_main, releaser.release_throttled],
        wait=[
            *wait,
            *vm_wait,
            reconcile.recall_preparations,
            reconcile.look_for_drift,
            fleet.look_at_fleet,
            fleet.look_after_gap,
            redriver.redrive_events,
            notifier.notice_channels,
            notifier.send_notice,
            *audit_activities(audit, VCenterRemedyActivities(pools, configuration.keyring)),
        ],
        listen=[listener.follow_events],
        forward=[forwarder.forward_events],
        webhooks=tuple(webhook.name for webhook in settings.webhooks if webhook.events),
    )


async def run_workers(workers: Sequence[Worker], stop: asyncio.Event) -> None:
    """Run until `stop` is set or a worker fails, then stop all within `STOP_TIMEOUT_S`; raises a worker's failure."""
    running = [asyncio.create_task(worker.run()) for worker in workers]
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([*running, stopped], return_when=asyncio.FIRST_COMPLETED)
        failures = [error for task in running if task.done() and (error := task.exception())]
        _log.info("stopping", within_s=STOP_TIMEOUT_S, failed_workers=len(failures))
        shutdowns = [asyncio.create_task(worker.shutdown()) for worker in workers]
        _, unfinished = await asyncio.wait(shutdowns, timeout=STOP_TIMEOUT_S)
        if unfinished:
            _log.warning("left activities that do not end; Temporal retries them elsewhere", workers=len(unfinished))
    finally:
        for task in (stopped, *running):
            task.cancel()
        ended = await asyncio.gather(*running, return_exceptions=True)
    failures += [error for error in ended if isinstance(error, Exception) and error not in failures]
    if failures:
        raise failures[0]


async def _connected(configuration: Configuration, runtime: Runtime, stop: asyncio.Event) -> Client | None:
    """A client as soon as Temporal answers; None when a stop was asked for before that."""
    attempt = 0
    while not stop.is_set():
        try:
            return await connect(configuration.settings.temporal, runtime=runtime)
        except Unreachable as error:
            pause = RETRY_S[min(attempt, len(RETRY_S) - 1)]
            attempt += 1
            _log.warning("waiting for Temporal", error=str(error), attempt=attempt, next_attempt_in_s=pause)
        try:
            await asyncio.wait_for(stop.wait(), pause)
        except TimeoutError:
            continue
    return None
