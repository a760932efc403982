"""Durations in words."""

from datetime import timedelta

__all__ = ["duration_words"]


def duration_words(span: timedelta) -> str:
    """A duration as people read it: `42 s`, `3 min 5 s`, `1 h 2 min`."""
    seconds = max(0, round(span.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
