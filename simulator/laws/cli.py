"""What an esxcli command is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from simulator.world import Host, World

__all__ = ["Answer", "CliFault", "Command", "Parameter", "Row"]

Row = dict[str, Any]
Answer = list[Row] | Row | str | None


class CliFault(Exception):
    """The command failed; the message is what esxcli prints."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One option: its name on the wire, its short and long forms, and whether it stands without a value."""

    name: str
    aliases: tuple[str, ...]
    help: str
    flag: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """`run(world, host, arguments)` gives rows, one row, a string, or `None`; `kind` names a row's type on the wire."""

    path: str
    help: str
    kind: str
    run: Callable[[World, Host, dict[str, str]], Answer | list[Row] | Awaitable[Answer] | Awaitable[Row]]
    parameters: tuple[Parameter, ...] = field(default=())
