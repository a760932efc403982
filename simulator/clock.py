"""The world's clock: durations shrink by the time scale, timestamps stay real UTC."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

__all__ = ["Clock"]


class Clock:
    """Sleeps `seconds / scale`; raises `ValueError` unless `scale` is positive."""

    def __init__(self, scale: float = 1.0) -> None:
        if not scale > 0:
            raise ValueError(f"time scale {scale} is not positive: 1 is real time, 60 makes a minute pass in a second")
        self.scale = scale

    def now(self) -> datetime:
        """The real time, in UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` of the world's time pass."""
        await asyncio.sleep(max(0.0, seconds) / self.scale)
