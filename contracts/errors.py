"""The closed set of things that can go wrong, and what each means for a retry.

Gateway and activities raise these; `activities/` turns them into `ApplicationError` once (`to_application_error`),
whose `type` is the class name, so that workflows and people see the same word everywhere.
"""

import math
from datetime import timedelta
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
    """An error with what was wrong, where, and how to fix it, in its message.

    With `retry_for_s`, trying again can help for so many seconds after the work was asked for, whatever its class says.
    With `retry_after_s`, whoever did not do it asked to be left alone for so many seconds.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, message: str = "", *, retry_for_s: float = 0.0, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_for_s = retry_for_s
        self.retry_after_s = retry_after_s


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


_PAUSE = timedelta(seconds=20)
"""Between attempts while `retry_for_s` lasts: policies that allow a few attempts last for a minute or so by it."""


def to_application_error(error: GpuwrightError, asked_s_ago: float = math.inf) -> ApplicationError:
    """The `ApplicationError` that carries `error` across Temporal; its `type` is the class name.

    `asked_s_ago` is how long ago, in seconds, the failed work was asked for.
    """
    again = asked_s_ago < error.retry_for_s
    pause = timedelta(seconds=error.retry_after_s) if error.retry_after_s else None
    return ApplicationError(
        str(error),
        type=type(error).__name__,
        non_retryable=not (error.retryable or again),
        next_retry_delay=pause or (_PAUSE if again else None),
    )
