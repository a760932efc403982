"""Logs of the service: structlog, with the standard library's (temporalio, asyncio) through the same pipeline."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog
from structlog.typing import Processor
from temporalio import activity, workflow

from contracts import ids
from workers.settings import LoggingSettings

__all__ = ["configure_logging"]

SECRET_WORDS = (
    "password",
    "secret",
    "token",
    "api_key",
    "authorization",
    "cookie",
    "private_key",
    "signing_key",
    "grant",
)

# Local variables hold passwords on their way to a login: no traceback shows them.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def configure_logging(settings: LoggingSettings, stream: TextIO | None = None) -> None:
    """Log to `stream` (standard error) from now on, in this process."""
    stream = stream or sys.stderr
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _bind_run,
        _hide_secrets,
    ]
    renderer: list[Processor] = (
        [_TRACEBACKS, structlog.processors.JSONRenderer(default=str)]
        if settings.format == "json"
        else [
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), exception_formatter=structlog.dev.RichTracebackFormatter(show_locals=False)
            )
        ]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *before],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *before,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    # Their context arrives as fields of its own; it need not be in the message too.
    workflow.logger.workflow_info_on_message = False
    activity.logger.activity_info_on_message = False


def _bind_run(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add workflow, run, activity and vCenter of the code that logs."""
    details = event.pop("temporal_workflow", None) or event.pop("temporal_activity", None) or {}
    if not details and activity.in_activity():
        info = activity.info()
        details = {
            "workflow_id": info.workflow_id,
            "workflow_run_id": info.workflow_run_id,
            "activity_type": info.activity_type,
            "attempt": info.attempt,
        }
    workflow_id = details.get("workflow_id")
    if workflow_id:
        event.setdefault("workflow_id", workflow_id)
        event.setdefault("run_id", details.get("run_id") or details.get("workflow_run_id"))
        try:
            event.setdefault("vcenter", ids.parse(workflow_id).vcenter)
        except ValueError:
            # Somebody else's workflow on our queue; its ID says nothing about a vCenter.
            return event
    for name in ("activity_type", "attempt"):
        if name in details:
            event.setdefault(name, details[name])
    return event


def _hide_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in event:
        if any(word in key.lower() for word in SECRET_WORDS) and not key.endswith(("_file", "_id", "_env")):
            event[key] = "***"
    return event
