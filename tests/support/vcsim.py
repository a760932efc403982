"""vcsim, the govmomi project's vCenter simulator: the independent witness, run as a process."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from tests.support.binaries import binary
from tests.support.process import ServerProcess

__all__ = ["VcsimProcess"]


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
        self._server: ServerProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait for its URL; raises `RuntimeError` with its log when it does not come up."""
        arguments: list[str | Path] = [binary("vcsim"), "-l", "127.0.0.1:0", "-cert-out", self.cert]
        arguments += ["-api-version", self.api_version, "-username", self.user, "-password", self.password]
        self._server = ServerProcess("vcsim", arguments, Path(self._folder.name) / "vcsim.log")
        self.url = self._server.start(r"^(https://\S+)\n")[1]
        self.port = urlsplit(self.url).port or 0

    def stop(self) -> None:
        """Stop it."""
        if self._server is not None:
            self._server.stop()
        self._folder.cleanup()
