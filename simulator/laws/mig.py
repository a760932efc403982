"""MIG: a card is cut into slices, which takes an unused card and, on most cards, a reset."""

from __future__ import annotations

from simulator.hardware import model_of
from simulator.world import GpuCard, Host, World

__all__ = ["MigError", "in_use", "reset", "set_mode", "visible"]


class MigError(Exception):
    """The driver refuses; `status` is nvidia-smi's exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


NOT_SUPPORTED, IN_USE = 3, 19


def visible(host: Host) -> list[GpuCard]:
    """The cards that the driver sees, in nvidia-smi's order: those in passthrough are not its own."""
    return [card for card in host.gpus.values() if not host.pci[card.pci_id].passthru_active]


def in_use(host: Host, card: GpuCard) -> bool:
    """A running VM holds some of the card."""
    return any(
        gpu.assigned_id == card.pci_id for vm in host.vms.values() if vm.power_state == "poweredOn" for gpu in vm.gpus
    )


def set_mode(world: World, host: Host, card: GpuCard, on: bool) -> bool:
    """Ask for MIG, or for none; returns whether it is in force, or waits for a reset of the card or a reboot.

    Raises `MigError` for a card that cannot do MIG or that a running VM uses.
    """
    model = model_of(host.pci[card.pci_id])
    if not model.mig:
        raise MigError("Not Supported", NOT_SUPPORTED)
    if in_use(host, card):
        raise MigError("In use by another client", IN_USE)
    card.mig_pending = on
    host.ledger.append(f"mig {'on' if on else 'off'} {card.pci_id}")
    if model.mig_at_once:
        card.mig = on
    world.changed(host)
    return card.mig == on


def reset(world: World, host: Host, card: GpuCard) -> None:
    """`nvidia-smi --gpu-reset`: what was asked for is in force; raises `MigError` while a VM uses the card."""
    if in_use(host, card):
        raise MigError("In use by another client", IN_USE)
    card.mig = card.mig_pending
    world.changed(host)
