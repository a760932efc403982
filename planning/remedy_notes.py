"""What an audit cannot do for VMs, in lines that stay the same as long as the reason does."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from contracts.vms import DynamicGpu, GpuWish, StaticGpu
from planning.remedy_rooms import Promises, Wanted
from planning.rooms import pairs_of

__all__ = ["Notes", "kind_words"]

_MOST_NAMES = 20
"""VMs named in one line."""


def kind_words(wishes: Iterable[GpuWish]) -> list[str]:
    """GPUs as VMs ask for them, counted: `2 × 10de:20f1 label Training`, `1 × nvidia_a40-24c`."""
    counted = Counter(_kind(wish) for wish in wishes)
    return [f"{count} × {kind}" for kind, count in sorted(counted.items())]


def _kind(wish: GpuWish) -> str:
    if isinstance(wish, DynamicGpu):
        pairs = "/".join(pairs_of(wish)) or str(wish.model)
        return f"{pairs} label {wish.label}" if wish.label is not None else pairs
    return wish.sbdf if isinstance(wish, StaticGpu) else wish.profile


@dataclass
class _Shortage:
    wishes: dict[str, GpuWish] = field(default_factory=dict)
    needed: Counter[str] = field(default_factory=Counter)
    hosts: tuple[str, ...] = ()
    names: list[str] = field(default_factory=list)


@dataclass
class Notes:
    """Reasons with the VMs that they are about, in the order in which they came up."""

    _said: dict[str, list[str]] = field(default_factory=dict)
    _general: dict[str, None] = field(default_factory=dict)
    _short: dict[tuple[str, ...], _Shortage] = field(default_factory=dict)
    _room: Promises | None = None

    def add(self, why: str, vm: str) -> None:
        """A reason for one VM; VMs with the same one share a line."""
        self._said.setdefault(why, []).append(vm)

    def general(self, text: str) -> None:
        """A consequence that the approver should know, once."""
        self._general.setdefault(text)

    def missing(self, wanted: Wanted, room: Promises, waits: str, vm: str) -> None:
        """The VM's GPUs are nowhere free; `waits` says for whom else it waits. Counted when all VMs are known."""
        self._room = room
        kinds = {_kind(wish): wish for wish in wanted.wishes}
        short = self._short.setdefault((waits, *sorted(kinds)), _Shortage())
        short.wishes |= kinds
        short.needed.update(_kind(wish) for wish in wanted.wishes)
        short.hosts = tuple(dict.fromkeys((*short.hosts, *wanted.hosts)))
        short.names.append(vm)

    def told(self) -> tuple[str, ...]:
        """All of them: consequences first, then what is missing, then every other reason."""
        lines = list(self._general)
        for (waits, *_), short in self._short.items():
            what = [
                f"{missing} of {needed} {kind}"
                for kind, needed in sorted(short.needed.items())
                if self._room is not None
                and (missing := self._room.missing(short.hosts, short.wishes[kind], needed)) > 0
            ]
            said = f"GPUs are missing: {', '.join(what)}" if what else f"no host has all of {', '.join(short.wishes)}"
            lines.append(f"{_names(short.names)}: {said}; waits for one to become free{waits}")
        lines += [f"{_names(names)}: {why}" for why, names in self._said.items()]
        return tuple(lines)


def _names(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
