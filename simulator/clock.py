"""The world's clock: durations shrink by the time scale, timestamps are real UTC until somebody sets the clock."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

__all__ = ["Clock"]


class Clock:
    """Sleeps `seconds / scale`; raises `ValueError` unless `scale` is positive."""

    def __init__(self, scale: float = 1.0) -> None:
        if not scale > 0:
            raise ValueError(f"time scale {scale} is not positive: 1 is real time, 60 makes a minute pass in a second")
        self.scale = scale
        self.ahead = timedelta()
        """Of the real time; negative when it is behind."""

    def now(self) -> datetime:
        """What the clock shows, in UTC."""
        return datetime.now(UTC) + self.ahead

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` of the world's time pass."""
        await asyncio.sleep(max(0.0, seconds) / self.scale)
