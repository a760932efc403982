"""ESXi packages: what is installed, what a depot holds, and whether a version is the wanted one. No I/O.

A VIB's version is `<driver>-<build>`, e.g. `550.54.10-1OEM.800.1.0.20613240`; people ask for the driver's part.
"""

import re
from enum import StrEnum
from itertools import zip_longest

from pydantic import Field

from contracts.base import Message

__all__ = [
    "AcceptanceLevel",
    "DepotContent",
    "DepotVib",
    "InstalledVib",
    "acceptance_level",
    "accepts",
    "check_requirement",
    "meets",
    "platform_matches",
]


class AcceptanceLevel(StrEnum):
    """`vim.host.ImageConfigManager.AcceptanceLevel`: who vouches for a package, the most trusted first."""

    CERTIFIED = "vmware_certified"
    ACCEPTED = "vmware_accepted"
    PARTNER = "partner"
    COMMUNITY = "community"


class InstalledVib(Message):
    """A package that is installed on a host."""

    name: str
    version: str
    vendor: str
    acceptance_level: str = ""
    """A value of `AcceptanceLevel`, or what the host says where it is none."""


class DepotVib(Message):
    """A package in a depot, as its descriptor says."""

    name: str
    version: str
    vendor: str
    acceptance_level: str
    """A value of `AcceptanceLevel`."""
    signed: bool | None = None
    """A signature lies beside the payload; None where the depot has the description without the package."""


class DepotContent(Message):
    """What an offline bundle (zip) or a single `.vib` holds."""

    vibs: tuple[DepotVib, ...]
    components: dict[str, str] = Field(default_factory=dict)
    """vLCM component → version; empty for bundles older than ESXi 7 and for single packages."""
    platforms: tuple[str, ...] = ()
    """ESXi versions it is for, as patterns (`8.*`); empty where it does not say."""
    sha256: str = ""
    size_bytes: int = 0

    def find(self, name: str) -> DepotVib | None:
        """The package of that name; letter case does not matter."""
        return next((vib for vib in self.vibs if vib.name.casefold() == name.casefold()), None)


_LEVELS = {
    "certified": AcceptanceLevel.CERTIFIED,
    "accepted": AcceptanceLevel.ACCEPTED,
    "partner": AcceptanceLevel.PARTNER,
    "community": AcceptanceLevel.COMMUNITY,
}
_CLAUSE = re.compile(r"(>=|<=|==|>|<)?\s*(\d+(?:\.\d+)*)(\.\*)?")


def acceptance_level(said: str) -> str:
    """The `AcceptanceLevel` in any of its spellings (`VMwareAccepted`, `accepted`, `PartnerSupported`).

    An unknown one comes back as it is.
    """
    short = said.casefold().replace("vmware", "").replace("supported", "").strip("_ ")
    return str(_LEVELS.get(short, said))


def accepts(host_level: str, package_level: str) -> bool:
    """A host at `host_level` takes a package at `package_level`. An unknown level is taken by nobody."""
    order = [str(level) for level in AcceptanceLevel]
    if host_level not in order or package_level not in order:
        return False
    return order.index(package_level) <= order.index(host_level)


def check_requirement(requirement: str) -> str:
    """The requirement as it was given; raises `ValueError` when it is none."""
    for clause in requirement.split(","):
        match = _CLAUSE.fullmatch(clause.strip())
        if match is None or (match[3] and match[1] not in (None, "==")):
            raise ValueError(
                f"{requirement!r} is not a version requirement; write '==535.129.03', '>=550', '550.*' or '>=550,<570'"
            )
    return requirement


def meets(version: str, requirement: str) -> bool:
    """A VIB's version meets a requirement: clauses joined by commas, of the driver's part before the `-`.

    `550` alone means `==550`; `550.*` the whole branch. Missing parts count as 0. An empty requirement is met by
    every version. Raises `ValueError` for a requirement that is none.
    """
    if not requirement:
        return True
    driver = version.partition("-")[0]
    if not re.fullmatch(r"\d+(\.\d+)*", driver):
        return False
    have = [int(part) for part in driver.split(".")]
    for clause in check_requirement(requirement).split(","):
        match = _CLAUSE.fullmatch(clause.strip())
        if match is None:
            return False
        wanted = [int(part) for part in match[2].split(".")]
        if match[3]:
            if have[: len(wanted)] != wanted:
                return False
            continue
        order = _compare(have, wanted)
        holds = {">=": order >= 0, "<=": order <= 0, ">": order > 0, "<": order < 0}.get(match[1], order == 0)
        if not holds:
            return False
    return True


def _compare(left: list[int], right: list[int]) -> int:
    for a, b in zip_longest(left, right, fillvalue=0):
        if a != b:
            return 1 if a > b else -1
    return 0


def platform_matches(esxi_version: str, platforms: tuple[str, ...]) -> bool:
    """A package for `platforms` (`8.*`, `8.0.*`, `8.0.0`) is one for this ESXi; without platforms it is for any.

    ESXi releases of one minor version take each other's packages, so `8.0.0` means `8.0`.
    """
    have = esxi_version.split(".")
    for platform in platforms:
        parts = platform.removesuffix("*").strip(".").split(".")[:2]
        if parts == [""] or have[: len(parts)] == parts:
            return True
    return not platforms
