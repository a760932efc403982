"""What must hold for every host: plans converge, ask before they disrupt, and touch nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from contracts.host import HostState, HostVm
from contracts.plan import Risk, Step, StepKind
from planning.devices import gpu_statuses
from planning.host import plan_host
from tests.support.hosts import TRAINING, a100, host

gpu_states = st.fixed_dictionaries(
    {
        "passthru_enabled": st.booleans(),
        "passthru_active": st.booleans(),
        "hardware_label": st.sampled_from([None, "Training", "Other"]),
        "vendor_device": st.sampled_from(["10de:20f1", "10de:2235"]),
    }
)


@st.composite
def host_states(draw: st.DrawFn) -> HostState:
    devices = draw(st.lists(gpu_states, min_size=1, max_size=4))
    gpus = [a100(f"0000:{0x81 + n:02x}:00.0", **device) for n, device in enumerate(devices)]
    gpus[0] = gpus[0].model_copy(update={"vendor_device": "10de:20f1"})
    vms = tuple(HostVm(moid=f"vm-{n}", name=f"vm-{n}", powered_on=True) for n in range(draw(st.integers(0, 3))))
    return host(
        *gpus,
        in_maintenance=draw(st.booleans()),
        rebind_without_reboot=draw(st.booleans()),
        vms=vms,
    )


def carried_out(state: HostState, step: Step) -> HostState:
    """The law of each step, as small as it can be said."""

    def change(**fields: object) -> HostState:
        pci = tuple(d.model_copy(update=fields) if d.sbdf == step.target else d for d in state.pci)
        return state.model_copy(update={"pci": pci})

    label = {"hardware_label": step.params["label"]} if "label" in step.params else {}
    match step.kind:
        case StepKind.ENTER_MAINTENANCE:
            return state.model_copy(update={"in_maintenance": True, "vms": ()})
        case StepKind.EXIT_MAINTENANCE:
            return state.model_copy(update={"in_maintenance": False})
        case StepKind.ENABLE_PASSTHROUGH:
            at_once = {"passthru_active": True} if state.rebind_without_reboot else {}
            return change(passthru_enabled=True, **at_once, **label)
        case StepKind.SET_LABEL:
            return change(**label)
        case StepKind.REBOOT:
            assert state.in_maintenance, "never rebooted with VMs on it"
            pci = tuple(d.model_copy(update={"passthru_active": d.passthru_enabled}) for d in state.pci)
            return state.model_copy(update={"pci": pci})
        case StepKind.SET_GRAPHICS_TYPE:
            raise AssertionError("no GPU of these states is configured for vGPU")


@given(host_states())
def test_carrying_out_first_steps_converges_within_the_approved_plan(state: HostState) -> None:
    approved = {step.id for step in plan_host(state, TRAINING).steps}
    found_in_maintenance, entered = state.in_maintenance, False
    untouched = [d for d in state.pci if d.vendor_device != "10de:20f1"]
    ran: list[str] = []
    while (plan := plan_host(state, TRAINING, entered_maintenance=entered)).steps:
        step = plan.steps[0]
        assert step.id in approved, "nothing that was not approved"
        assert step.id not in ran, "nothing twice"
        ran.append(step.id)
        state = carried_out(state, step)
        entered = entered or step.kind is StepKind.ENTER_MAINTENANCE
    assert all(status.right for status in gpu_statuses(state, TRAINING))
    assert state.in_maintenance == found_in_maintenance
    if not any(kind.startswith("reboot") for kind in ran):
        assert [d for d in state.pci if d.vendor_device != "10de:20f1"] == untouched


@given(host_states())
def test_disruptive_steps_happen_in_maintenance_mode_only(state: HostState) -> None:
    plan = plan_host(state, TRAINING)
    inside = state.in_maintenance
    for step in plan.steps:
        inside = inside or step.kind is StepKind.ENTER_MAINTENANCE
        if step.risk is not Risk.SAFE:
            assert inside


@given(host_states())
def test_a_plan_without_risk_needs_no_approval_and_every_other_does(state: HostState) -> None:
    plan = plan_host(state, TRAINING)
    assert plan.needs_approval == any(step.risk is not Risk.SAFE for step in plan.steps)
    assert plan.done == (all(status.right for status in gpu_statuses(state, TRAINING)))
