"""Who a new VM's guest is to be: vSphere's customisation specification, or cloud-init's VMware datasource. Pure."""

import base64
import hashlib
import json
import re
from ipaddress import IPv4Interface
from typing import Any

from pyVmomi import vim

from contracts.vms import Customization, StaticIp

__all__ = ["customization_spec", "guestinfo"]

_spec = vim.vm.customization


def customization_spec(wanted: Customization, adapters: int) -> vim.vm.customization.Specification:
    """Host name, domain and addresses of a Linux guest; each of its network adapters has to have an entry.

    The first one gets the fixed address if there is one, the others DHCP. Without a host name vCenter makes one of
    the VM's name.
    """
    name: Any = _spec.VirtualMachineNameGenerator()
    if wanted.host_name is not None:
        name = _spec.FixedName(name=wanted.host_name)
    return _spec.Specification(
        identity=_spec.LinuxPrep(hostName=name, domain=wanted.domain),
        globalIPSettings=_spec.GlobalIPSettings(dnsServerList=list(wanted.ip.dns) if wanted.ip else []),
        nicSettingMap=[
            _spec.AdapterMapping(adapter=_address(wanted.ip if index == 0 else None)) for index in range(adapters)
        ],
    )


def _address(ip: StaticIp | None) -> vim.vm.customization.IPSettings:
    if ip is None:
        return _spec.IPSettings(ip=_spec.DhcpIpGenerator())
    interface = IPv4Interface(ip.address)
    return _spec.IPSettings(
        ip=_spec.FixedIp(ipAddress=str(interface.ip)),
        subnetMask=str(interface.netmask),
        gateway=[ip.gateway] if ip.gateway else [],
        dnsServerList=list(ip.dns),
    )


def guestinfo(wanted: Customization, name: str, run: str, user_data: str) -> dict[str, str]:
    """cloud-init's keys of the extra configuration, base64 as `.encoding` says; the instance ID is the run's and VM's.

    Source: cloud-init, datasource VMware, transport guestinfo; network configuration version 2.
    """
    digest = hashlib.sha256(f"{run}\0{name}".encode()).hexdigest()[:16]
    metadata: dict[str, Any] = {
        "instance-id": f"gpuwright-{digest}",
        "local-hostname": wanted.host_name or re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-")[:63],
    }
    if wanted.ip is not None:
        adapter: dict[str, Any] = {"match": {"name": "e*"}, "dhcp4": False, "addresses": [wanted.ip.address]}
        if wanted.ip.gateway:
            adapter["routes"] = [{"to": "0.0.0.0/0", "via": wanted.ip.gateway}]
        if wanted.ip.dns:
            adapter["nameservers"] = {"addresses": list(wanted.ip.dns)}
        metadata["network"] = {"version": 2, "ethernets": {"first": adapter}}
    texts = {"metadata": json.dumps(metadata), "userdata": user_data}
    return {
        key: value
        for part, text in texts.items()
        for key, value in (
            (f"guestinfo.{part}", base64.b64encode(text.encode()).decode()),
            (f"guestinfo.{part}.encoding", "base64"),
        )
    }
