"""The process whose workers die, for tests, and what the server tells of runs while nobody serves them."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowHandle

from contracts import search_attributes

__all__ = ["Life", "dying_workers", "stage_of", "stop"]

ROOT = Path(__file__).parents[2]
Life = dict[str, Any]
"""How a worker dies: fields of `tests.support.dying_workers.Life`."""


class dying_workers:
    """The process of `tests.support.dying_workers`, stopped by closing its standard input."""

    def __init__(self, order: dict[str, object]) -> None:
        self.order = order

    def __enter__(self) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.dying_workers"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin
        self.process.stdin.write(json.dumps(self.order) + "\n")
        self.process.stdin.flush()
        return self.process

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            stop(self.process)


def stop(process: subprocess.Popen[str]) -> dict[str, int]:
    """End the workers; how many of each queue's died."""
    assert process.stdin
    assert process.stdout
    process.stdin.close()
    died = Counter(line.split()[0] for line in process.stdout)
    process.stdout.close()
    process.wait(30)
    return dict(died)


async def stage_of(handle: WorkflowHandle[Any, Any], *stages: str, timeout_s: float = 300) -> str:
    """The first of these stages that a run reaches, by the server's word: its workers are dead at times."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        described = await handle.describe()
        found = described.typed_search_attributes.get(search_attributes.GPU_STAGE)
        if found in stages:
            return str(found)
        waits = [f"{each.activity_type.name} ({each.attempt})" for each in described.raw_description.pending_activities]
        assert asyncio.get_running_loop().time() < deadline, f"still {found} after {timeout_s} s, waiting for {waits}"
        await asyncio.sleep(0.5)
