"""The closed set of things that can go wrong, and what each means for a retry.

Gateway and activities raise these; `activities/` turns them into `ApplicationError` once (`to_application_error`),
whose `type` is the class name, so that workflows and people see the same word everywhere.
"""

from typing import ClassVar

from temporalio.exceptions import ApplicationError

__all__ = [
    "BadRequest",
    "Busy",
    "Conflict",
    "GpuwrightError",
    "NeedsHuman",
    "NotSupported",
    "Unreachable",
    "to_application_error",
]


class GpuwrightError(Exception):
    """An error with what was wrong, where, and how to fix it, in its message."""

    retryable: ClassVar[bool] = False


class NotSupported(GpuwrightError):
    """The host, device or release cannot do what was asked, now or later."""


class NeedsHuman(GpuwrightError):
    """Something outside gpuwright's reach has to change first."""


class BadRequest(GpuwrightError):
    """The request, rule, profile or configuration is wrong."""


class Conflict(GpuwrightError):
    """What was asked contradicts what is there: a stale plan, a missing or forged grant, a duplicate."""


class Busy(GpuwrightError):
    """The target does something else now; trying again later can help."""

    retryable = True


class Unreachable(GpuwrightError):
    """vCenter, a host or a service did not answer; trying again can help."""

    retryable = True


def to_application_error(error: GpuwrightError) -> ApplicationError:
    """The `ApplicationError` that carries `error` across Temporal; its `type` is the class name."""
    return ApplicationError(str(error), type=type(error).__name__, non_retryable=not error.retryable)
