"""Who a guest becomes at its next boot: vSphere's guest customisation, and cloud-init's VMware datasource."""

from __future__ import annotations

import base64
import binascii
import gzip
import ipaddress
from collections.abc import Callable
from typing import Any

import yaml
from pyVmomi import vim

from simulator.guests import Customization, Guest, GuestFile
from simulator.laws.notices import post_vm_event
from simulator.world import VirtualMachine, World

__all__ = ["carry_out", "demanded"]

_spec = vim.vm.customization
LOG = "/var/log/vmware-imc/toolsDeployPkg.log"


def demanded(vm: VirtualMachine, spec: Any, adapters: int) -> Customization:
    """What a `Specification` asks for, checked as vCenter checks it.

    Raises `UncustomizableGuest` for a guest OS that it does not know, `NicSettingMismatch` for more settings than
    the VM has network adapters, and `CustomizationFault` for an identity that is not one of a Linux guest.
    """
    if vm.guest_id.startswith("other"):
        raise vim.fault.UncustomizableGuest(
            uncustomizableGuestOS=vm.guest_id,
            msg=f"Customization of the guest operating system '{vm.guest_id}' is not supported in this configuration.",
        )
    identity, settings = spec.identity, spec.nicSettingMap or []
    if isinstance(identity, _spec.CloudinitPrep):
        return Customization(metadata=identity.metadata, userdata=identity.userdata or "")
    if not isinstance(identity, _spec.LinuxPrep):
        raise vim.fault.CustomizationFault(msg=f"{type(identity).__name__} does not fit a Linux guest.")
    if len(settings) != adapters:
        raise vim.fault.NicSettingMismatch(
            numberOfNicsInSpec=len(settings),
            numberOfNicsInVM=adapters,
            msg="The number of network adapters in the specification differs from that of the virtual machine.",
        )
    name = identity.hostName.name if isinstance(identity.hostName, _spec.FixedName) else vm.name
    if not name or len(name) > 63 or not name.replace("-", "a").isalnum():
        raise vim.fault.CustomizationFault(msg=f"{name!r} is no host name.")
    ip = settings[0].adapter.ip if settings else None
    address = ip.ipAddress if isinstance(ip, _spec.FixedIp) else ""
    if address:
        _check_address(address, settings[0].adapter.subnetMask)
    return Customization(host_name=name, address=address)


def _check_address(address: str, mask: str | None) -> None:
    try:
        ipaddress.IPv4Interface(f"{address}/{mask}")
    except ValueError as wrong:
        raise vim.fault.CustomizationFault(msg=f"The fixed address is wrong: {wrong}.") from wrong


def carry_out(world: World, vm: VirtualMachine, guest: Callable[[], Guest]) -> None:
    """At boot: what vSphere was told, with its events; then what cloud-init finds in the VM's `guestinfo` keys."""
    waiting = vm.customization
    if waiting is not None and waiting.status == "TOOLSDEPLOYPKG_PENDING":
        _customize(world, vm, guest(), waiting)
    keys = {key.casefold(): value for key, value in vm.extra_config.items()}
    if "guestinfo.metadata" in keys or "guestinfo.userdata" in keys:
        metadata = _decoded(keys, "guestinfo.metadata")
        _cloud_init(world, vm, guest(), metadata, _decoded(keys, "guestinfo.userdata"))


def _customize(world: World, vm: VirtualMachine, guest: Guest, wanted: Customization) -> None:
    fields = {"logLocation": LOG}
    post_vm_event(world, vim.event.CustomizationStartedEvent, vm, f"Started customization of VM {vm.name}", **fields)
    error = wanted.error or vm.quirks.customization_error
    if error:
        wanted.status, wanted.error = "TOOLSDEPLOYPKG_FAILED", error
        message = f"An error occurred while customizing VM {vm.name}: {error}"
        # vCenter's reason is one of four words; the text has the details.
        post_vm_event(world, vim.event.CustomizationFailed, vm, message, reason="customizationDisabled", **fields)
        return
    if wanted.metadata or wanted.userdata:
        _cloud_init(world, vm, guest, wanted.metadata, wanted.userdata)
    else:
        guest.host_name, guest.address = wanted.host_name, wanted.address
    wanted.status = "TOOLSDEPLOYPKG_SUCCEEDED"
    post_vm_event(world, vim.event.CustomizationSucceeded, vm, f"Customization of VM {vm.name} succeeded", **fields)


def _decoded(keys: dict[str, str], name: str) -> str:
    """A `guestinfo` value as its `.encoding` says: plain, `base64` or `gzip+base64`; empty when it is broken."""
    value, encoding = keys.get(name, ""), keys.get(f"{name}.encoding", "").casefold()
    try:
        if encoding in ("base64", "b64"):
            return base64.b64decode(value, validate=True).decode()
        if encoding in ("gzip+base64", "gz+b64"):
            return gzip.decompress(base64.b64decode(value, validate=True)).decode()
    except (binascii.Error, OSError, EOFError, UnicodeDecodeError):
        return ""
    return value


def _cloud_init(world: World, vm: VirtualMachine, guest: Guest, metadata: str, userdata: str) -> None:
    """Once for each `instance-id`: host name, addresses, users and files. What it cannot read, it skips."""
    meta = _mapping(metadata)
    instance = str(meta.get("instance-id", "iid-vmware"))
    if guest.instance_id == instance:
        return
    guest.instance_id = instance
    user = _mapping(userdata) if userdata.startswith("#cloud-config") else {}
    guest.host_name = str(meta.get("local-hostname") or user.get("hostname") or guest.host_name)
    network = meta.get("network")
    for adapter in (_adapters(network) if isinstance(network, dict) else [])[:1]:
        guest.address = next((str(address).partition("/")[0] for address in adapter.get("addresses", [])), "")
    for account in user.get("users", []):
        if isinstance(account, dict) and account.get("name") and account.get("plain_text_passwd"):
            guest.logins[str(account["name"])] = str(account["plain_text_passwd"])
    for account in (user.get("chpasswd") or {}).get("users", []):
        if isinstance(account, dict) and account.get("name") and account.get("password"):
            guest.logins[str(account["name"])] = str(account["password"])
    for found in user.get("write_files", []):
        if isinstance(found, dict) and str(found.get("path", "")).startswith("/"):
            content = str(found.get("content", "")).encode()
            mode = int(str(found.get("permissions", "0644")), 8)
            guest.files[str(found["path"])] = GuestFile(content, world.registry.clock.now(), mode)


def _mapping(text: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _adapters(network: dict[str, Any]) -> list[dict[str, Any]]:
    config = network.get("config", network)
    ethernets = config.get("ethernets", {}) if isinstance(config, dict) else {}
    return [found for found in ethernets.values() if isinstance(found, dict)] if isinstance(ethernets, dict) else []
