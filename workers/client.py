"""The connection to Temporal."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client, Interceptor
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode, TLSConfig

from contracts.errors import BadRequest, Unreachable
from workers.settings import MetricsSettings, TemporalSettings

__all__ = ["connect", "runtime_for"]

_BUCKETS = {"gpuwright_hand_over_seconds": (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)}
"""The SDK's own are milliseconds. Beyond five seconds Temporal is away, and the hand-over waits for it."""


async def connect(
    settings: TemporalSettings, *, runtime: Runtime | None = None, interceptors: Sequence[Interceptor] = ()
) -> Client:
    """A client whose namespace exists; it reconnects by itself later.

    Raises `Unreachable` when nobody answers, `BadRequest` for a wrong namespace, key or certificate file.
    """
    where = f"Temporal at {settings.address}"
    try:
        client = await Client.connect(
            settings.address,
            namespace=settings.namespace,
            data_converter=pydantic_data_converter,
            tls=_tls(settings),
            api_key=_read(settings.api_key_file, "temporal.api_key_file").decode(errors="replace").strip()
            if settings.api_key_file
            else None,
            identity=f"gpuwright {os.getpid()}@{socket.gethostname()}",
            runtime=runtime,
            interceptors=interceptors,
        )
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=settings.namespace))
    except RuntimeError as error:
        raise Unreachable(
            f"{where} does not answer ({error}); start it, or correct temporal.address and temporal.tls"
        ) from error
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise BadRequest(
                f"{where} has no namespace {settings.namespace!r}; correct temporal.namespace, or create it: "
                f"temporal operator namespace create --namespace {settings.namespace}"
            ) from error
        if error.status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED):
            raise BadRequest(
                f"{where} refuses us in namespace {settings.namespace!r} ({error.message}); "
                "check temporal.api_key_file or the client certificate in temporal.tls"
            ) from error
        raise Unreachable(f"{where} does not answer properly ({error.message}); look at its log") from error
    return client


def runtime_for(metrics: MetricsSettings) -> Runtime:
    """The SDK's runtime, serving `/metrics` where that is wanted. One a process.

    Raises `BadRequest` when the address cannot be served.
    """
    if metrics.listen is None:
        return Runtime.default()
    try:
        prometheus = PrometheusConfig(bind_address=metrics.listen, histogram_bucket_overrides=_BUCKETS)
        return Runtime(telemetry=TelemetryConfig(metrics=prometheus))
    except (RuntimeError, ValueError) as error:
        raise BadRequest(f"metrics cannot be served on {metrics.listen} ({error}); correct metrics.listen") from error


def _tls(settings: TemporalSettings) -> TLSConfig | bool:
    tls = settings.tls
    if tls is None:
        return settings.api_key_file is not None

    def content(file: Path | None, key: str) -> bytes | None:
        return _read(file, f"temporal.tls.{key}") if file else None

    return TLSConfig(
        server_root_ca_cert=content(tls.ca_file, "ca_file"),
        client_cert=content(tls.cert_file, "cert_file"),
        client_private_key=content(tls.key_file, "key_file"),
        domain=tls.server_name,
    )


def _read(file: Path, key: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadRequest(f"{key}: {file} cannot be read ({error})") from error
