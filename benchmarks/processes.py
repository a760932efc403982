"""What processes have used, by `/proc`."""

import os
from pathlib import Path

__all__ = ["cpu_s", "peak_rss_mib", "rss_mib"]


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used, user and system (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    """The memory that a process holds (proc(5), `VmRSS`)."""
    return _status(pid, "VmRSS")


def peak_rss_mib(pid: int) -> float:
    """The most memory that a process has ever held (proc(5), `VmHWM`)."""
    return _status(pid, "VmHWM")


def _status(pid: int, field: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024
