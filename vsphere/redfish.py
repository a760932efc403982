"""BIOS settings through a BMC's Redfish: is the IOMMU on, and switching it on.

Source: DMTF Redfish `ComputerSystem`, `Bios`, `@Redfish.Settings`. BIOS attribute names and values are the vendors'
own; `FEATURES` lists those of Dell, HPE, Lenovo and Supermicro.
"""

import time
import uuid as uuids
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from contracts.errors import BadRequest, NeedsHuman, NotSupported, Unreachable
from contracts.host import BiosEvidence, BiosFeature
from vsphere import rest
from vsphere.connection import Endpoint
from vsphere.settings import BmcSettings

__all__ = ["FEATURES", "BiosFeature", "BiosState", "Bmc", "features_of", "wanted_attributes"]


FEATURES: dict[BiosFeature, tuple[str, ...]] = {
    BiosFeature.IOMMU: (
        "ProcVirtualization",  # Dell: on many models VT-x and VT-d in one
        "ProcVtd",  # Dell
        "IommuSupport",  # Dell, AMD
        "IntelProcVtd",  # HPE
        "ProcAmdIoVt",  # HPE, AMD
        "DevicesandIOPorts_IntelVTforDirectedIO",  # Lenovo
        "Processors_IntelVTd",  # Lenovo
        "DevicesandIOPorts_IOMMU",  # Lenovo, AMD
        "IntelVTforDirectedIO(VT-d)",  # Supermicro
        "IntelVTforDirectedI_OVT_d",  # Supermicro
        "IntelVTforDirectedIOVTd",  # Supermicro
        "IOMMU",  # Supermicro, AMD
    ),
    BiosFeature.SRIOV: (
        "SriovGlobalEnable",  # Dell
        "Sriov",  # HPE
        "DevicesandIOPorts_SRIOV",  # Lenovo
        "SR_IOVSupport",  # Supermicro
        "SR-IOVSupport",  # Supermicro
    ),
    BiosFeature.ABOVE_4G: (
        "MmioAbove4Gb",  # Dell; HPE has no switch, it is on
        "DevicesandIOPorts_PCI64BitResource",  # Lenovo
        "Above4GDecoding",  # Supermicro
    ),
}
"""Attribute names; their values are `Enabled` and `Disabled`, with or without the last letter."""


@dataclass(frozen=True)
class BiosState:
    """What a BMC says about a system's BIOS. Features that its attributes do not name are absent: unknown."""

    manufacturer: str
    model: str
    power_state: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[BiosFeature, bool] = field(default_factory=dict)
    """In force since the last boot."""
    pending: Mapping[str, Any] = field(default_factory=dict)
    """Attributes that the next boot changes, with their new values."""

    @property
    def evidence(self) -> BiosEvidence:
        """What planners look at."""
        later = features_of({**self.attributes, **self.pending})
        off = tuple(feature for feature, is_on in self.features.items() if not is_on)
        known = {name for names in FEATURES.values() for name in names}
        return BiosEvidence(
            on=tuple(feature for feature, is_on in self.features.items() if is_on),
            off=off,
            ordered=tuple(feature for feature in off if later.get(feature)),
            off_by={feature: tuple(_off(self.attributes, feature)) for feature in off},
            switches={name: str(value) for name, value in self.attributes.items() if name in known},
            pending={name: str(value) for name, value in self.pending.items() if name in known},
        )


def features_of(attributes: Mapping[str, Any]) -> dict[BiosFeature, bool]:
    """Which features are on: all of a feature's attributes that this BIOS has. Unknown values leave it out."""
    found = {}
    for feature, names in FEATURES.items():
        switches = [_switch(attributes[name]) for name in names if name in attributes]
        if False in switches:
            found[feature] = False
        elif switches and None not in switches:
            found[feature] = True
    return found


def wanted_attributes(attributes: Mapping[str, Any], features: Iterable[BiosFeature]) -> dict[str, str]:
    """The attributes to change so that these features are on, spelled as this BIOS spells; empty when they are.

    Raises `NotSupported` for a feature that none of the BIOS's attributes names.
    """
    have = features_of(attributes)
    wanted = {}
    for feature in features:
        if feature not in have:
            raise NotSupported(
                f"the BIOS has no attribute known for {feature} ({', '.join(FEATURES[feature])}); switch it on in the "
                "BIOS setup by hand"
            )
        for name in _off(attributes, feature):
            wanted[name] = "Enabled" if str(attributes[name]).casefold().endswith("d") else "Enable"
    return wanted


def _off(attributes: Mapping[str, Any], feature: BiosFeature) -> list[str]:
    return [name for name in FEATURES[feature] if name in attributes and _switch(attributes[name]) is False]


def _switch(value: Any) -> bool | None:
    return {"enable": True, "enabled": True, "disable": False, "disabled": False}.get(str(value).casefold())


class Bmc:
    """The Redfish service of one host's BMC. Every change looks first and is sent once."""

    def __init__(self, settings: BmcSettings, host_name: str, host_uuid: str) -> None:
        self._settings = settings
        self._uuid = host_uuid
        address = urlsplit(settings.address(host_name, host_uuid))
        self._endpoint = Endpoint(_Target(host_name, address.hostname or "", address.port or 443, settings), "BMC of")
        self._system_path = ""

    def bios(self) -> BiosState:
        """The BIOS as it is and as it will be; raises `NotSupported` when the BMC shows none.

        Also `BadRequest` (login, certificate, the wrong system behind the address) and `Unreachable`.
        """
        system = self._system()
        bios = self._bios(system)
        attributes = bios.get("Attributes") or {}
        settings = self._settings_path(bios)
        later = (self._send("GET", settings) or {}).get("Attributes") or {} if settings else {}
        return BiosState(
            manufacturer=str(system.get("Manufacturer") or ""),
            model=str(system.get("Model") or ""),
            power_state=str(system.get("PowerState") or ""),
            attributes=attributes,
            features=features_of(attributes),
            pending={name: value for name, value in later.items() if attributes.get(name) != value},
        )

    def enable(self, *features: BiosFeature) -> dict[str, str]:
        """Order these features on for the next boot; gives the attributes changed, empty when nothing was to do.

        Raises what `bios` raises, and `NeedsHuman` when the BMC does not keep the order.
        """
        return self._order(lambda attributes: wanted_attributes(attributes, features))

    def put_back(self, values: Mapping[str, str]) -> dict[str, str]:
        """Order exactly these values for the next boot; gives the attributes changed, empty when nothing was to do.

        Raises what `enable` raises, and `NotSupported` for an attribute that the BIOS does not have.
        """

        def changes(attributes: Mapping[str, Any]) -> dict[str, str]:
            if unknown := sorted(values.keys() - attributes.keys()):
                raise NotSupported(f"{self._endpoint.where}: the BIOS has no attribute {', '.join(unknown)} any more")
            return {name: value for name, value in values.items() if attributes[name] != value}

        return self._order(changes)

    def _order(self, changes_of: Callable[[Mapping[str, Any]], dict[str, str]]) -> dict[str, str]:
        """Order what `changes_of` says about the attributes as they will be, and read it back."""
        bios = self._bios(self._system())
        path = self._settings_path(bios)
        if not path:
            raise NotSupported(
                f"{self._endpoint.where}: the BIOS cannot be changed through Redfish (no settings resource)"
            )
        in_force = bios.get("Attributes") or {}
        later = (self._send("GET", path) or {}).get("Attributes") or {}
        changes = changes_of({**in_force, **later})
        if changes:
            self._send("PATCH", path, {"Attributes": changes})
            # What is as it is in force may be listed there, or not.
            kept = {**in_force, **((self._send("GET", path) or {}).get("Attributes") or {})}
            lost = {name: kept.get(name) for name, value in changes.items() if kept.get(name) != value}
            if lost:
                raise NeedsHuman(f"{self._endpoint.where}: accepted {changes}, but then shows {lost}")
        return changes

    def reset(self, reset_type: str = "GracefulRestart") -> None:
        """Order a reset (`ComputerSystem.Reset`). vCenter's own reboot is the better way while vCenter has the host.

        Raises `NotSupported` when the BMC does not allow this type.
        """
        action = ((self._system().get("Actions") or {}).get("#ComputerSystem.Reset")) or {}
        allowed = action.get("ResetType@Redfish.AllowableValues")
        if allowed and reset_type not in allowed:
            raise NotSupported(f"{self._endpoint.where}: allows {', '.join(allowed)}, not {reset_type}")
        target = str(action.get("target") or f"{self._system_path}/Actions/ComputerSystem.Reset")
        self._send("POST", target, {"ResetType": reset_type})

    def await_power(self, state: str, timeout_s: float, poll_s: float = 2) -> None:
        """Wait for `PowerState` (`On`, `Off`); raises `NeedsHuman` after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while (seen := str(self._system().get("PowerState"))) != state:
            if time.monotonic() >= deadline:
                raise NeedsHuman(f"{self._endpoint.where}: the system is {seen}, not {state}, after {timeout_s:g} s")
            time.sleep(poll_s)

    def _system(self) -> dict[str, Any]:
        """The ComputerSystem with the host's UUID, or the only one there is when it tells none."""
        if self._system_path:
            return self._send("GET", self._system_path) or {}
        root = self._send("GET", "/redfish/v1/") or {}
        systems = str((root.get("Systems") or {}).get("@odata.id") or "/redfish/v1/Systems")
        members = (self._send("GET", systems) or {}).get("Members") or ()
        seen = []
        for member in members:
            path = str(member["@odata.id"])
            system = self._send("GET", path) or {}
            said = str(system.get("UUID") or "")
            seen.append(said or path)
            if _same_uuid(said, self._uuid) or (not said and len(members) == 1):
                self._system_path = path
                return dict(system)
        raise BadRequest(
            f"{self._endpoint.where}: no system there has the UUID {self._uuid}; it has {', '.join(seen) or 'none'}: "
            "correct 'url' or 'hosts' of this BMC, so that no other server is changed"
        )

    def _bios(self, system: Mapping[str, Any]) -> dict[str, Any]:
        path = (system.get("Bios") or {}).get("@odata.id")
        if not path:
            raise NotSupported(f"{self._endpoint.where}: shows no BIOS through Redfish")
        return dict(self._send("GET", str(path)) or {})

    def _settings_path(self, bios: Mapping[str, Any]) -> str:
        settings = (bios.get("@Redfish.Settings") or {}).get("SettingsObject") or {}
        return str(settings.get("@odata.id") or "")

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        what = f"{self._endpoint.where}: {method} {path}"
        headers = rest.basic_auth(self._settings.user, self._settings.password().get_secret_value())
        headers["OData-Version"] = "4.0"
        if method == "PATCH":
            # Some BMCs refuse a PATCH without the tag of what it changes.
            tag = rest.call(self._endpoint, "GET", path, headers=headers).headers.get("etag")
            headers |= {"If-Match": tag} if tag else {}
        answer = rest.call(self._endpoint, method, path, headers=headers, body=body)
        if answer.status == 401:
            raise BadRequest(
                f"{what}: user {self._settings.user} with the password from {self._settings.password_source} is refused"
            )
        if answer.status >= 400:
            raise rest.refusal(what, answer, _words(answer.body))
        if method == "GET" and not isinstance(answer.body, dict):
            raise Unreachable(f"{what}: nothing there speaks Redfish; check 'url'")
        return answer.body


@dataclass(frozen=True)
class _Target:
    """A BMC's address with its settings' trust: a `TlsTarget`."""

    name: str
    host: str
    port: int
    settings: BmcSettings

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self.settings, attribute)


def _same_uuid(left: str, right: str) -> bool:
    """Equal, or equal but for the byte order of the first three fields, which SMBIOS tables and BMCs mix up."""
    try:
        one, other = uuids.UUID(left), uuids.UUID(right)
    except ValueError:
        return False
    return one == other or one.bytes_le == other.bytes


def _words(body: Any) -> str:
    """What a Redfish error says: its extended messages, else its message."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return ""
    extended = [str(entry.get("Message") or "") for entry in error.get("@Message.ExtendedInfo") or ()]
    return "; ".join(filter(None, extended)) or str(error.get("message") or "")
