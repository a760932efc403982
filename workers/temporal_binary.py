"""Find the `temporal` program, or obtain it, for the demo and the tests.

In this order: on PATH, in the project's cache, by the SDK's own download, built with Go. Run as a module it obtains
the program and prints where it is.
"""

import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from temporalio.testing import WorkflowEnvironment

from contracts.errors import GpuwrightError, NeedsHuman

__all__ = ["cache_directory", "find", "obtain"]

MODULE = "github.com/temporalio/cli/cmd/temporal@v1.5.1"
"""The newest CLI that `go install` accepts: later modules carry a replace directive."""

DOWNLOAD_TIMEOUT_S = 300.0
BUILD_TIMEOUT_S = 1800.0

Progress = Callable[[str], None]


def cache_directory() -> Path:
    """Where obtained programs are kept: `.cache/bin` of a checkout, else the user's cache directory."""
    root = Path(__file__).resolve().parent.parent
    if (root / "pyproject.toml").is_file():
        return root / ".cache" / "bin"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gpuwright" / "bin"


def find(cache: Path | None = None) -> Path | None:
    """The `temporal` program on PATH, else the cached one, else None."""
    if on_path := shutil.which("temporal"):
        return Path(on_path)
    cached = (cache or cache_directory()) / "temporal"
    return cached if os.access(cached, os.X_OK) else None


def obtain(progress: Progress, cache: Path | None = None) -> Path:
    """The `temporal` program, fetched or built if need be; `progress` gets a line for each thing that takes time.

    Raises `NeedsHuman` with what was tried and the ways out.
    """
    cache = cache or cache_directory()
    if found := find(cache):
        return found
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache / ".temporal.lock"):
        if found := find(cache):
            return found
        target = cache / "temporal"
        tried = []
        for way in (_download, _build):
            with tempfile.TemporaryDirectory(prefix=".temporal-", dir=cache) as scratch:
                problem = way(Path(scratch), target, progress)
            if problem is None:
                return target
            tried.append(problem)
            progress(problem)
    raise NeedsHuman(
        "no Temporal server is to be had. " + "; ".join(tried) + ". Do one of these:\n"
        "  1. set TEMPORAL_ADDRESS to a server that runs, such as 127.0.0.1:7233\n"
        f"  2. put the `temporal` program on PATH or at {target} (https://docs.temporal.io/cli)\n"
        "  3. let this machine reach https://temporal.download, from where the SDK fetches it\n"
        f"  4. install Go (https://go.dev/dl), with which gpuwright builds it: go install {MODULE}"
    )


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    # Parallel test workers must not each build their own.
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _download(scratch: Path, target: Path, progress: Progress) -> str | None:
    """Fetch the program by the SDK; None on success, else what went wrong."""
    progress("Temporal: downloading the dev server with the SDK …")

    async def start_and_stop() -> None:
        # The SDK downloads only in order to start a server, so one is started and stopped.
        server = await WorkflowEnvironment.start_local(download_dest_dir=str(scratch))
        await server.shutdown()

    try:
        asyncio.run(asyncio.wait_for(start_and_stop(), DOWNLOAD_TIMEOUT_S))
    except TimeoutError:
        return f"the SDK's download did not finish within {DOWNLOAD_TIMEOUT_S:.0f} s"
    except RuntimeError as error:
        return f"the SDK's download failed: {error}"
    downloaded = [path for path in scratch.iterdir() if path.is_file() and os.access(path, os.X_OK)]
    if len(downloaded) != 1:
        return f"the SDK's download left {len(downloaded)} programs instead of one"
    downloaded[0].replace(target)
    return None


def _build(scratch: Path, target: Path, progress: Progress) -> str | None:
    """Build the program with Go; None on success, else what went wrong."""
    go = shutil.which("go")
    if go is None:
        return "Go is not installed, so it cannot be built either"
    progress(f"Temporal: building {MODULE} with Go, once; this takes about two minutes …")
    # Flags and workspaces of the user's own projects must not reach this build; the build cache should.
    environment = {**os.environ, "GOBIN": str(scratch), "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
    with subprocess.Popen(
        [go, "install", "-v", MODULE],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as build:
        assert build.stderr is not None  # noqa: S101 - Popen was told to make it
        lines: list[str] = []
        for line in build.stderr:
            lines.append(line.rstrip())
            if len(lines) % 200 == 0:
                progress(f"Temporal: {len(lines)} packages done, now {lines[-1]}")
        status = build.wait(BUILD_TIMEOUT_S)
    if status != 0:
        return f"go install ended with status {status}: " + " / ".join(lines[-3:])
    (scratch / "temporal").replace(target)
    return None


def main() -> int:
    """Obtain the program and print its path; the exit status."""
    try:
        print(obtain(lambda line: print(line, file=sys.stderr, flush=True)))
    except GpuwrightError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Exception:  # noqa: BLE001 - os._exit below would lose the traceback
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # The SDK can crash the interpreter's teardown (status 134 or 139), which would hide the real status.
    os._exit(code)
