"""docs/vms.md tells every key of a request, the limits of each mode and the silent failures, and the code agrees."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from contracts.fleet import VmGpu
from contracts.machine import GuestEvidence, GuestGpu, VmRef, VmState
from contracts.vms import DynamicGpu, GpuWish, StaticGpu, VgpuGpu, VmRequest
from planning.gpu_models import model_names
from planning.guest_drivers import guest_trouble
from planning.machine_rules import cannot_do, silent_causes

TEXT = (Path(__file__).parents[2] / "docs" / "vms.md").read_text()
WISHES: dict[str, GpuWish] = {
    "static": StaticGpu(host="esx-1", sbdf="0000:81:00.0"),
    "dynamic": DynamicGpu(match="10de:20f1"),
    "vgpu": VgpuGpu(profile="nvidia_a40-24c"),
}


def keys(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, str]]:
    """Every key of a request with its default as people read it."""
    for name, field in model.model_fields.items():
        below = list(_models(field.annotation))
        several = "[]" if str(field.annotation).startswith("tuple[") else ""
        yield above + name, _default(field.default, bool(below))
        for each in below:
            yield from keys(each, f"{above}{name}{several}.")


def _default(value: Any, is_section: bool) -> str:
    if value is PydanticUndefined:
        return "needed"
    if value is None or value == () or is_section:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for each in get_args(annotation):
        yield from _models(each)


def told(section: str) -> dict[str, str]:
    """The first two cells of the rows of a section's table."""
    found = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)
    assert found is not None
    return {row[0].strip("`"): row[1] for row in re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|", found[1], re.M)[1:]}


def test_every_key_is_told_with_its_default() -> None:
    # `kind` has a default of its own in each kind of GPU; files may leave it out, and mean dynamic with no other key.
    assert told("Keys") == dict(keys(VmRequest)) | {"gpus[].kind": "dynamic"}


def test_every_model_is_told() -> None:
    found = re.search(r"^Models: (.*?)\. Others", TEXT, re.M | re.S)
    assert found is not None
    assert tuple(" ".join(found[1].split()).split(", ")) == model_names()


@pytest.mark.parametrize("mode", WISHES)
def test_the_limits_of_each_mode_are_told(mode: str) -> None:
    assert told("What a VM cannot do, by mode")[mode] == " · ".join(cannot_do([WISHES[mode]]))


def _silent(**changes: Any) -> str:
    gpu = VmGpu(key=1, kind="static", sbdf="0000:81:00.0")
    right: dict[str, Any] = {
        "ref": VmRef(vcenter="vc", instance_uuid="u", moid="vm-1", name="x"),
        "power_state": "poweredOn",
        "firmware": "efi",
        "guest_id": "ubuntu64Guest",
        "memory_reserved_all": True,
        "extra_config": {"pciPassthru.use64bitMMIO": "TRUE", "pciPassthru.64bitMMIOSizeGB": "256"},
        "gpus": (gpu,),
    }
    return "; ".join(silent_causes(VmState(**right | changes), {"0000:81:00.0": 40960}))


def _trouble(asked: int = 1, *, vgpu: bool = False, **seen: Any) -> str:
    return guest_trouble(GuestEvidence(**seen), asked, vgpu=vgpu)


SAID = {
    "MMIO space too small": _silent(extra_config={}),
    "BIOS firmware": _silent(firmware="bios"),
    "32-bit guest": _silent(guest_id="ubuntuGuest"),
    "memory not reserved": _silent(memory_reserved_all=False),
    "same GPU twice": _silent(gpus=(VmGpu(key=1, kind="static", sbdf="0000:81:00.0"),) * 2),
    "no VMware Tools": _silent(),
    "no driver in the guest": _trouble(error="command not found", driver_installed=False),
    "data-centre driver with a vGPU": _trouble(error="libvgpu.so mismatch", vgpu=True),
    "GPU Operator": _trouble(error="no devices", gpu_operator=True),
    "fewer GPUs than asked for": _trouble(asked=2, gpus=(GuestGpu(name="A100"),)),
}


def test_every_silent_failure_is_told_as_it_is_said() -> None:
    assert set(told("When vSphere says nothing")) == set(SAID)


@pytest.mark.parametrize("what", SAID)
def test_what_is_said_of_a_silent_failure_is_as_told(what: str) -> None:
    assert told("When vSphere says nothing")[what] in SAID[what]
