"""govc, govmomi's command line: what it shows of a vCenter is a second opinion."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.support.binaries import binary

__all__ = ["govc_json"]


def govc_json(url: str, user: str, password: str, trusted: Path, *arguments: str) -> Any:
    """What `govc ARGUMENTS -json` prints; fails with its words when it ends with another status than 0."""
    with tempfile.TemporaryDirectory(prefix="govc-") as home:
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": home,
            "GOVC_URL": url,
            "GOVC_USERNAME": user,
            "GOVC_PASSWORD": password,
            "GOVC_TLS_CA_CERTS": str(trusted),
            "GOVC_PERSIST_SESSION": "false",
        }
        command = [str(binary("govc")), arguments[0], "-json", *arguments[1:]]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise AssertionError(f"govc {' '.join(arguments)} ended with {done.returncode}: {done.stderr}{done.stdout}")
    return json.loads(done.stdout)
