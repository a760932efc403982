"""Names that people give, matched against what vCenter shows; a wrong one is answered with close matches. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any
from urllib.parse import unquote

from vsphere.properties import Read

__all__ = ["Named", "close_matches", "inventory_path", "pick", "shown_name"]


@dataclass(frozen=True)
class Named:
    """Something that can be named: by name, by the end of its inventory path (`folder/sub`), or by moid."""

    moid: str
    path: str
    """From the datacenter down, with `/` between the names."""

    @property
    def name(self) -> str:
        """The path's last part."""
        return self.path.rpartition("/")[2]


def shown_name(read: Read) -> str:
    """The name as clients show it: vCenter keeps `/`, `\\` and `%` as `%2f`, `%5c` and `%25`."""
    return unquote(str(read.get("name", read.obj._moId)))


def inventory_path(moid: str, found: Mapping[str, Read]) -> str:
    """The path of an object by the `name` and `parent` of what was read; the root folder is left out."""
    parts: list[str] = []
    at: Any = found.get(moid)
    while at is not None:
        parent = at.get("parent")
        if parent is None and parts:
            break
        parts.append(str(at.get("name", at.obj._moId)))
        at = found.get(parent._moId) if parent is not None else None
    return unquote("/".join(reversed(parts)))


def pick(
    kind: str, wanted: str, candidates: Sequence[Named], where: str, problems: list[str], hint: str = ""
) -> Named | None:
    """The one that `wanted` names, letter case aside; otherwise None, and `problems` gains why, with close matches."""
    folded = wanted.casefold().strip("/")
    found = [each for each in candidates if wanted == each.moid or _ends(each.path.casefold(), folded)]
    exact = [each for each in found if wanted == each.moid or each.path.casefold() == folded]
    if len(found) == 1 or len(exact) == 1:
        return (exact or found)[0]
    if found:
        several = ", ".join(f"{each.path} ({each.moid})" for each in found[:8])
        problems.append(f"{kind} {wanted!r} is not the only one in {where}: {several}; use the path or the moid")
        return None
    close = close_matches(folded.rpartition("/")[2], [each.name for each in candidates])
    problems.append(f"{kind} {wanted!r} is not in {where}; {hint or close}")
    return None


def _ends(path: str, wanted: str) -> bool:
    return bool(wanted) and (path == wanted or path.endswith("/" + wanted))


def close_matches(wanted: str, names: Iterable[str]) -> str:
    """`did you mean a or b?`, or what there is instead, for the end of a message."""
    known = {name.casefold(): name for name in names}
    close = [known[match] for match in get_close_matches(wanted.casefold(), known, n=3)]
    close = close or [name for folded, name in sorted(known.items()) if folded.startswith(wanted.casefold())][:3]
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there are: {', '.join(sorted(known.values())[:8])}" if known else "there is none"
