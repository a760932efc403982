"""Which events vCenter is asked for, when not for all: a pure function.

vCenter compares `EventFilterSpec.eventTypeId` with the `eventTypeId` of an `EventEx` or `ExtendedEvent`, and with the
type of any other event (vSphere Web Services API, `EventFilterSpec`); whether letter case counts is not said. Rules do
not count it. So names are looked up in vCenter's own catalogue, `EventManager.description.eventInfo`, which spells them
as vCenter does; a name that is not there cannot be asked for safely. Types are spelled in one way only, by the API;
an `eventTypeId` is whatever logs the event says, so that it is asked for only where people allow that.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

__all__ = ["EVERYTHING", "Narrow", "Narrowing", "narrowing"]

Narrow = Literal["never", "types", "ids"]
"""`VCenterSettings.narrow_events`."""

_HA = (".HA.", ".ha.")
"""`com.vmware.vc.HA` is spelled in both ways, by one and the same release."""
_ANY_ID = frozenset({"eventex", "extendedevent"})
"""Types of events that are asked for by their `eventTypeId` only."""


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What is asked for."""

    type_ids: tuple[str, ...] = ()
    """For `EventFilterSpec.eventTypeId`; empty: everything."""
    text: str = ""
    """How, or why not, in words."""


EVERYTHING = Narrowing(text="not narrowed: every event is needed")


def narrowing(needed: Collection[str] | None, catalogue: Collection[str], how: Narrow = "types") -> Narrowing:
    """What to ask for where events of the types `needed` are (None: all), of those that vCenter has.

    A name of `needed` is a type or an `eventTypeId` in any letter case.
    """
    if needed is None:
        return EVERYTHING
    if how == "never":
        return Narrowing(text="not narrowed: 'narrow_events: never'")
    if not needed:
        return Narrowing(text="not narrowed: no rule is for this vCenter's events")
    if how == "types" and (ids := sorted(name for name in needed if "." in name)):
        return Narrowing(text=f"not narrowed: rules need events by their eventTypeId ({ids[0]}, {len(ids)} in all)")
    spelled: dict[str, list[str]] = {}
    for name in catalogue:
        spelled.setdefault(name.casefold(), []).append(name)
    unknown = sorted({name for name in needed if name.casefold() not in spelled or name.casefold() in _ANY_ID})
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        return Narrowing(text=f"not narrowed: vCenter's catalogue of events has no {', '.join(unknown[:5])}{more}")
    found = {each for name in needed for each in spelled[name.casefold()]}
    asked = {each.replace(this, other) for each in found for this in _HA for other in _HA}
    return Narrowing(tuple(sorted(asked)), f"narrowed to {len(found)} of {len(set(catalogue))} event types")
