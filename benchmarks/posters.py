"""The process that posts events (`benchmarks/post_events.py`), and orders to it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.listeners.posting import Posting

__all__ = ["answered", "ordered", "poster_to"]


@contextmanager
def poster_to(vcenter: Posting) -> Iterator[subprocess.Popen[str]]:
    """One that is ready; its events are about the first host."""
    order = {
        "host": vcenter.host,
        "port": vcenter.port,
        "user": vcenter.user,
        "password": vcenter.password,
        "moid": vcenter.hosts()[0]._moId,
    }
    command = [sys.executable, "-m", "benchmarks.post_events", json.dumps(order)]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as poster:
        try:
            if answered(poster) != "ready":
                raise RuntimeError("the poster did not start")
            yield poster
        finally:
            poster.terminate()


def ordered(poster: subprocess.Popen[str], order: str) -> str:
    """Give an order; the first line of the answer."""
    if poster.stdin is None:
        raise RuntimeError("the poster has no stdin")
    poster.stdin.write(order + "\n")
    poster.stdin.flush()
    return answered(poster)


def answered(poster: subprocess.Popen[str]) -> str:
    """Its next line; raises `RuntimeError` when it ended."""
    line = poster.stdout.readline() if poster.stdout is not None else ""
    if not line:
        raise RuntimeError(f"the poster ended with {poster.wait(10)}")
    return line.strip()
