"""A server under test, run as a process: started until it says that it is ready, and stopped by its pid."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

__all__ = ["ServerProcess"]

_ROOT = Path(__file__).parents[2]


class ServerProcess:
    """A program; `name` is what messages call it, `log_file` gets its standard error, a file beside it the output.

    Its standard input ends with the test process, for programs that end with it.
    """

    def __init__(
        self, name: str, arguments: Sequence[str | Path], log_file: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.arguments = [str(argument) for argument in arguments]
        self.log_file = log_file
        self.output_file = log_file.with_suffix(".out")
        self.env = env
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self, ready: str, timeout_s: float = 60) -> re.Match[str]:
        """Start it and wait until what it writes matches `ready`; raises `RuntimeError` with the log otherwise."""
        with self.log_file.open("wb") as log, self.output_file.open("wb") as output:
            self.process = subprocess.Popen(
                self.arguments, cwd=_ROOT, env=self.env, stdin=subprocess.PIPE, stdout=output, stderr=log
            )
        try:
            return self.wait_for(ready, timeout_s)
        except BaseException:
            self.stop()
            raise

    def wait_for(self, pattern: str, timeout_s: float = 60) -> re.Match[str]:
        """The first place of its output or log that matches; raises `RuntimeError` when it ends or takes too long."""
        deadline = time.monotonic() + timeout_s
        while True:
            ended = self.process is None or self.process.poll() is not None
            if found := re.search(pattern, self.output() + self.log(), re.MULTILINE):
                return found
            if ended or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} {'ended' if ended else 'did not say'} {pattern!r}: {self.log()}")
            time.sleep(0.02)

    def output(self) -> str:
        """What it has written to its standard output so far."""
        return self.output_file.read_text(errors="replace")

    def log(self) -> str:
        """What it has written to its standard error so far."""
        return self.log_file.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 15) -> int:
        """Send the signal and return the exit status; SIGKILL when it does not end in time. 0 when it does not run."""
        if self.process is None:
            return 0
        process, self.process = self.process, None
        process.send_signal(number)
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        if process.stdin is not None:
            process.stdin.close()
        return status
