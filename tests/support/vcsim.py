"""vcsim, the govmomi project's vCenter simulator: the independent witness, run as a process."""

from __future__ import annotations

import selectors
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.binaries import binary

__all__ = ["VcsimProcess"]

_START_S = 30.0


class VcsimProcess:
    """`with VcsimProcess() as vcsim: …`

    After the start there are `url` (`https://127.0.0.1:PORT/sdk`), `host`, `port`, `user`, `password` and `cert`
    (its certificate as PEM file). Its inventory is `VPX`: one standalone host and a cluster of three.
    """

    def __init__(self, api_version: str = "8.0.2.0") -> None:
        self.api_version = api_version
        self.user = "user"
        self.password = "pass"
        self.url = ""
        self.host = "127.0.0.1"
        self.port = 0
        self._folder = tempfile.TemporaryDirectory(prefix="vcsim-")
        self.cert = Path(self._folder.name) / "server.pem"
        self.log_file = Path(self._folder.name) / "vcsim.log"
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> VcsimProcess:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait for its URL; raises `RuntimeError` with its log when it does not come up."""
        arguments = [str(binary("vcsim")), "-l", "127.0.0.1:0", "-cert-out", str(self.cert)]
        arguments += ["-api-version", self.api_version, "-username", self.user, "-password", self.password]
        with self.log_file.open("w") as log:
            # It ends when its standard input does, so that it never outlives its test.
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        try:
            self.url = self._first_line(self.process)
        except BaseException:
            self.stop()
            raise
        self.port = urlsplit(self.url).port or 0

    def stop(self) -> None:
        """Stop it."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()
            self.process = None
        self._folder.cleanup()

    def _first_line(self, process: subprocess.Popen[str]) -> str:
        if process.stdout is None:
            raise RuntimeError("vcsim was started without a pipe")
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            deadline = time.monotonic() + _START_S
            while time.monotonic() < deadline:
                if ready.select(timeout=0.5):
                    if line := process.stdout.readline().strip():
                        return line
                    break
        raise RuntimeError(f"vcsim did not come up: {self.log_file.read_text()}")
