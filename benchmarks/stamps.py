"""Where the stamped workflow leaves its stamps; passed through its sandbox, so that both sides have the same one."""

from queue import SimpleQueue

__all__ = ["STAMPS"]

STAMPS: SimpleQueue[float] = SimpleQueue()
"""Wall clock (s since 1970), in the order in which workflows ran."""
