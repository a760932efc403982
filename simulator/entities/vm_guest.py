"""What vSphere shows of a VM's guest, and of what the VM asks."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim

from simulator.laws.guests import host_name
from simulator.world import VirtualMachine

__all__ = ["guest_family", "guest_info", "question_info"]


def guest_info(vm: VirtualMachine, full_name: str) -> Any:
    """`GuestInfo`; most of it is unset while VMware Tools do not run."""
    if not vm.booted:
        status = "toolsNotInstalled" if vm.quirks.no_tools or vm.blank else "toolsNotRunning"
        return vim.vm.GuestInfo(
            toolsStatus=status,
            toolsVersionStatus2="guestToolsNotInstalled" if status == "toolsNotInstalled" else "guestToolsUnmanaged",
            toolsRunningStatus="guestToolsNotRunning",
            guestState="running" if vm.power_state == "poweredOn" and vm.quirks.no_tools else "notRunning",
            guestOperationsReady=False,
            customizationInfo=_customization_info(vm),
        )
    return vim.vm.GuestInfo(
        toolsStatus="toolsOk",
        toolsVersionStatus2="guestToolsUnmanaged",
        toolsRunningStatus="guestToolsRunning",
        guestId=vm.guest_id,
        guestFamily=guest_family(vm),
        guestFullName=full_name,
        hostName=host_name(vm),
        ipAddress=vm.ip_address,
        net=[
            vim.vm.GuestInfo.NicInfo(
                network=network.name, ipAddress=[vm.ip_address] if index == 0 and vm.ip_address else [],
                connected=True, deviceConfigId=4000 + index,
            )
            for index, network in enumerate(vm.networks)
        ],
        guestState="running",
        guestOperationsReady=True,
        customizationInfo=_customization_info(vm),
    )  # fmt: skip


def guest_family(vm: VirtualMachine) -> str:
    """What VMware Tools say that the guest is."""
    return "windowsGuest" if vm.guest_id.startswith("win") else "linuxGuest"


def _customization_info(vm: VirtualMachine) -> Any:
    if vm.customization is None:
        return None
    return vim.vm.GuestInfo.CustomizationInfo(
        customizationStatus=vm.customization.status, errorMsg=vm.customization.error or None
    )


def question_info(vm: VirtualMachine) -> Any:
    """`QuestionInfo`; choices are told by their number."""
    if (question := vm.question) is None:
        return None
    choices = [
        vim.ElementDescription(key=str(index), label=label, summary=label)
        for index, label in enumerate(question.choices)
    ]
    return vim.vm.QuestionInfo(
        id=question.key, text=question.text, choice=vim.option.ChoiceOption(choiceInfo=choices, defaultIndex=0)
    )
