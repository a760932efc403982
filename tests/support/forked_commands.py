"""Many commands as processes of their own: `python -m tests.support.forked_commands FOLDER`.

Reads a JSON list of argument lists from standard input. Each command is a fork of this process, which has imported what
commands import and started nothing; so each starts and ends the Temporal SDK by itself, and its start costs little.
Prints a JSON list of exit statuses (negative for a signal); `FOLDER/{number}.out` and `.err` are what was said.
"""

import json
import os
import sys
from pathlib import Path

import cli.runs  # noqa: F401 - imported once for all forks
from cli.main import main

AT_ONCE = 2


def fork(arguments: list[str], said: Path) -> int:
    pid = os.fork()
    if pid == 0:
        for number, suffix in ((1, ".out"), (2, ".err")):
            os.dup2(os.open(said.with_suffix(suffix), os.O_WRONLY | os.O_CREAT), number)
        sys.argv = ["gpuwright", *arguments]
        main()
    return pid


def run_all(commands: list[list[str]], folder: Path) -> list[int]:
    statuses = [0] * len(commands)
    running: dict[int, int] = {}
    for number, arguments in enumerate(commands):
        running[fork(arguments, folder / str(number))] = number
        while len(running) == AT_ONCE or (running and number == len(commands) - 1):
            pid, status = os.wait()
            statuses[running.pop(pid)] = os.waitstatus_to_exitcode(status)
    return statuses


if __name__ == "__main__":
    print(json.dumps(run_all(json.load(sys.stdin), Path(sys.argv[1]))))
