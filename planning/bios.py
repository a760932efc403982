"""What GPUs need of the BIOS: when its BMC has to be asked, and what is to be switched on there."""

from contracts.host import BiosEvidence, BiosFeature, HostState
from contracts.plan import Risk, Step, StepKind
from contracts.profiles import GpuMode
from planning.devices import SHARED, Pairs, is_right
from planning.iommu import Iommu, iommu_verdict

__all__ = ["before_boot", "bios_in_doubt", "bios_step", "features_missing", "waits_for_boot"]


def features_missing(state: HostState, pairs: Pairs) -> tuple[BiosFeature, ...]:
    """What vSphere's evidence says is off, of what the wanted modes need. `noIOMMU` is not the BIOS's doing."""
    missing = []
    pairs = [(gpu, wanted) for gpu, wanted in pairs if not is_right(state, gpu, wanted)]
    if any(wanted.mode is not GpuMode.DEFAULT for _, wanted in pairs) and not state.kernel_no_iommu:
        missing += [BiosFeature.IOMMU] if iommu_verdict(state).iommu is not Iommu.ON else []
    if any(wanted.mode in SHARED and gpu.sriov_capable is False for gpu, wanted in pairs):
        missing.append(BiosFeature.SRIOV)
    return tuple(missing)


def bios_in_doubt(state: HostState, pairs: Pairs) -> bool:
    """The BMC may know more than vSphere: something that the BIOS switches is missing."""
    return bool(state.pci) and bool(features_missing(state, pairs))


def before_boot(said: BiosEvidence, ordered: tuple[BiosFeature, ...]) -> BiosEvidence:
    """What a BMC says, while `ordered` waits for the next boot: some BMCs show an order as the setting in force."""
    early = tuple(feature for feature in said.on if feature in ordered)
    return said.model_copy(
        update={
            "on": tuple(feature for feature in said.on if feature not in early),
            "off": (*said.off, *early),
            "ordered": (*said.ordered, *early),
        }
    )


def waits_for_boot(state: HostState, pairs: Pairs) -> tuple[BiosFeature, ...]:
    """What is missing and ordered already: the next boot brings it."""
    ordered = state.bios.ordered if state.bios else ()
    return tuple(feature for feature in features_missing(state, pairs) if feature in ordered)


def bios_step(state: HostState, pairs: Pairs) -> Step | None:
    """Switch on what is missing and off by the BMC's own word, Above 4G decoding with it; None where nothing is."""
    if state.bios is None:
        return None
    to_order = [feature for feature in state.bios.off if feature not in state.bios.ordered]
    features = [feature for feature in features_missing(state, pairs) if feature in to_order]
    if not features:
        return None
    if BiosFeature.ABOVE_4G in to_order:
        features.append(BiosFeature.ABOVE_4G)
    names = ", ".join(features)
    return Step(
        kind=StepKind.SET_BIOS,
        target=state.ref.name,
        reason=f"the BMC says that {names} {'is' if len(features) == 1 else 'are'} off in the BIOS",
        change=f"BIOS of {state.ref.name}: {names} on, by Redfish; in force from the next boot",
        risk=Risk.DISRUPTIVE,
        params={"features": ",".join(features)},
    )
