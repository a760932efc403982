"""Plans: the steps still missing between what a subject is and what it should be."""

import hashlib
from enum import StrEnum

from pydantic import Field

from contracts.base import Message

__all__ = ["Blocker", "Plan", "Risk", "Step", "StepKind", "plan_hash"]


class Risk(StrEnum):
    """What a step may cost. Policy decides by risk whether a person is asked."""

    SAFE = "safe"
    DISRUPTIVE = "disruptive"
    DESTRUCTIVE = "destructive"


class StepKind(StrEnum):
    """What a step does; each kind has one activity."""

    ENTER_MAINTENANCE = "enter-maintenance"
    SET_BIOS = "set-bios"
    INSTALL_MANAGER = "install-vgpu-manager"
    REMOVE_MANAGER = "remove-vgpu-manager"
    REMEDIATE_IMAGE = "remediate-image"
    SET_HOST_GRAPHICS = "set-host-graphics"
    SET_GRAPHICS_TYPE = "set-graphics-type"
    DISABLE_PASSTHROUGH = "disable-passthrough"
    ENABLE_PASSTHROUGH = "enable-passthrough"
    SET_LABEL = "set-hardware-label"
    RESTART_XORG = "restart-xorg"
    REBOOT = "reboot"
    SET_MIG = "set-mig"
    EXIT_MAINTENANCE = "exit-maintenance"
    CREATE_VM = "create-vm"
    UPGRADE_HARDWARE = "upgrade-hardware"
    CONFIGURE_VM = "configure-vm"
    SET_VM_GPUS = "set-vm-gpus"
    SHUT_DOWN_GUEST = "shut-down-guest"
    MIGRATE_COLD = "migrate-cold"
    POWER_ON_VM = "power-on-vm"
    AWAIT_GUEST = "await-guest"
    INSTALL_GUEST_DRIVER = "install-guest-driver"
    DELETE_VM = "delete-vm"
    REGISTER_VM = "register-vm"
    MOVE_VM = "move-vm"
    SUSPEND_VM = "suspend-vm"
    APPLY_RECOMMENDATION = "apply-recommendation"


class Step(Message):
    """One step: what it does, to what, why, and at which risk. Equal steps have equal IDs."""

    kind: StepKind
    target: str
    """What it changes: SBDFs with commas between them, or the name of the host or of a VM."""
    reason: str
    change: str
    """What will be different, in words a person approves."""
    risk: Risk
    params: dict[str, str] = Field(default_factory=dict)
    only_if_needed: str = ""
    """Set where the step is skipped when the ones before it made it unnecessary: the condition in words."""

    @property
    def id(self) -> str:
        """Identity of the effect: kind, target and parameters; words may differ."""
        return "|".join([self.kind, self.target, *(f"{k}={v}" for k, v in sorted(self.params.items()))])


class Blocker(Message):
    """Something that has to change before any step may run."""

    code: str
    """Stable word for tests and filters, e.g. `iommu-off`."""
    text: str
    fix: str
    error: str = "NeedsHuman"
    """The error (`contracts.errors`) to end with: `NeedsHuman` is waited for, others end the run at once."""


class Plan(Message):
    """An ordered list of missing steps. Empty, without blockers, means done."""

    steps: tuple[Step, ...] = ()
    blockers: tuple[Blocker, ...] = ()
    notes: tuple[str, ...] = ()
    """Consequences and facts that the approver should know."""

    @property
    def done(self) -> bool:
        """Nothing is missing."""
        return not self.steps and not self.blockers

    @property
    def needs_approval(self) -> bool:
        """At least one step is more than safe."""
        return any(step.risk is not Risk.SAFE for step in self.steps)


def plan_hash(subject: str, plan: Plan) -> str:
    """The hash that an approval is bound to: SHA-256 over the subject and every step as people read it, 32 hex digits.

    Order and wording count: a person approves what was shown.
    """
    digest = hashlib.sha256(subject.encode())
    for step in plan.steps:
        digest.update(b"\0" + step.model_dump_json().encode())
    for note in plan.notes:
        digest.update(b"\1" + note.encode())
    return digest.hexdigest()[:32]
