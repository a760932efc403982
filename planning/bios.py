"""What GPUs need of the BIOS: when its BMC has to be asked, and what is to be switched on there."""

import json
from collections.abc import Iterable, Mapping

from contracts.host import BiosEvidence, BiosFeature, HostState
from contracts.plan import Risk, Step, StepKind
from contracts.profiles import GpuMode
from planning.devices import SHARED, Pairs, is_right
from planning.iommu import Iommu, iommu_verdict

__all__ = [
    "before_boot",
    "bios_in_doubt",
    "bios_step",
    "features_missing",
    "put_back_step",
    "put_back_waits",
    "replaced",
    "waits_for_boot",
]


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
    before = {feature: {name: state.bios.switches[name] for name in state.bios.off_by[feature]}
              for feature in features if feature in state.bios.off_by}  # fmt: skip
    now = ", ".join(f"{name}={value}" for values in before.values() for name, value in values.items())
    return Step(
        kind=StepKind.SET_BIOS,
        target=state.ref.name,
        reason=f"the BMC says that {names} {'is' if len(features) == 1 else 'are'} off in the BIOS",
        change=f"BIOS of {state.ref.name}: {names} on, by Redfish{f' (now {now})' if now else ''}; in force from the "
        "next boot",
        risk=Risk.DISRUPTIVE,
        params={"features": ",".join(features)} | ({"before": json.dumps(before, sort_keys=True)} if before else {}),
    )


def replaced(ran: Iterable[Step]) -> dict[BiosFeature, dict[str, str]]:
    """The attributes that steps which ran have switched on, with the values that they had before."""
    found: dict[BiosFeature, dict[str, str]] = {}
    for step in ran:
        if step.kind is StepKind.SET_BIOS:
            for feature, values in json.loads(step.params.get("before", "{}")).items():
                # Of two changes the first one tells what was there before the run.
                found[BiosFeature(feature)] = values | found.get(BiosFeature(feature), {})
    return found


def put_back_step(state: HostState, values: Mapping[str, str]) -> Step | None:
    """Order these values of BIOS attributes; None where they are in force or ordered, and without a BMC."""
    if state.bios is None:
        return None
    later = {**state.bios.switches, **state.bios.pending}
    to_set = {name: value for name, value in values.items() if later.get(name, value) != value}
    if not to_set:
        return None
    changes = ", ".join(f"{name} {later[name]} → {value}" for name, value in sorted(to_set.items()))
    return Step(
        kind=StepKind.SET_BIOS,
        target=state.ref.name,
        reason="this run changed it, and a person gave the run up",
        change=f"BIOS of {state.ref.name}: {changes}, by Redfish; in force from the next boot",
        risk=Risk.DISRUPTIVE,
        params={"values": json.dumps(to_set, sort_keys=True)} | ({"takes": "boot"} if _in_force(state, to_set) else {}),
    )


def put_back_waits(state: HostState, values: Mapping[str, str], ran: Iterable[Step]) -> bool:
    """Another value than the one to put back is in force, so that it takes a boot; `ran` are the run's steps so far.

    A BMC that shows an order as the setting in force is not believed before that boot.
    """
    waits = False
    for step in ran:
        if step.kind in (StepKind.SET_BIOS, StepKind.REBOOT):
            waits = step.params.get("takes") == "boot"
    return waits or _in_force(state, values)


def _in_force(state: HostState, values: Mapping[str, str]) -> bool:
    switches = state.bios.switches if state.bios else {}
    return any(switches.get(name, value) != value for name, value in values.items())
