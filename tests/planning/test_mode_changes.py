"""docs/modes.md tells each change of mode with its steps, and the planner agrees with it."""

import re
from pathlib import Path

import pytest

from contracts.profiles import GpuMode, GpuWanted, Profile
from planning.host import plan_host
from tests.planning.test_host_plan_properties import MANAGER, SHARED, Card, Server

TABLE = Path(__file__).parents[2] / "docs" / "modes.md"
SBDF = "0000:81:00.0"


def in_mode(mode: GpuMode) -> Server:
    """A host whose one card has been in a mode for long."""
    shared = mode in SHARED
    whole = mode is GpuMode.PASSTHROUGH
    kind = "sharedDirect" if shared else "shared"
    card = Card(SBDF, "10de:20f1", whole, whole, None, configured=kind, booted=kind, mig=mode is GpuMode.VGPU_MIG)
    version = "550.54.16" if shared else None
    return Server(cards=(card,), installed=version, running=version, default_type=kind)


def steps(old: GpuMode, new: GpuMode) -> str:
    wanted = Profile(
        name="p", gpus=(GpuWanted(match="10de:20f1", mode=new),), vgpu_manager=MANAGER if new in SHARED else None
    )
    plan = plan_host(in_mode(old).seen(), wanted)
    return " · ".join(step.kind for step in plan.steps) or "nothing"


def told() -> dict[tuple[str, str], str]:
    rows = re.findall(r"^\| (\S+) \| (\S+) \| (.+) \|$", TABLE.read_text(), re.M)
    return {(old, new): text for old, new, text in rows}


@pytest.mark.parametrize("old", list(GpuMode))
@pytest.mark.parametrize("new", list(GpuMode))
def test_the_documented_steps_of_a_change_are_the_planned_ones(old: GpuMode, new: GpuMode) -> None:
    assert told()[old, new] == steps(old, new)
