"""HA in the simulator, read over SOAP and judged, against a model of HA that knows neither: 1,000 random clusters."""

import gc
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from contracts.verdicts import Reason, Recovery, VmVerdict
from tests.support.ha_lab import Found, carried_out

SEEDS, CLUSTERS = range(4), 250

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def found() -> list[Found]:
    # A million small objects are read in each worker, and nothing of it is garbage.
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=gc.disable) as workers:
        parts = [workers.submit(carried_out, seed, CLUSTERS) for seed in SEEDS]
        return [each for part in parts for each in part.result()]


def story(found: Found, name: str, predicted: object, verdict: VmVerdict | None) -> str:
    told = verdict.model_dump_json(indent=1) if verdict is not None else "no verdict"
    return f"{found.case!r}\n{name}: predicted {predicted}, found {told}"


def disagreements(found: Found) -> Iterator[str]:
    for name, error in found.refused.items():
        yield story(found, name, f"that people can do {found.case.after}, and vCenter refused: {error}", None)
    outcomes = found.model.outcomes()
    for name in sorted(outcomes.keys() | found.late.keys()):
        outcome = outcomes.get(name)
        for expected, verdicts in (
            (outcome and outcome.early, found.early),
            (outcome and outcome.late, found.late),
        ):
            verdict = verdicts.get(name)
            if outcome is None or verdict is None:
                yield story(found, name, outcome, verdict)
            elif ((verdict.recovery, verdict.reason), verdict.now_on) != (expected, outcome.host):
                yield story(found, name, (expected, outcome.host), verdict)


def test_each_gpu_vm_gets_the_verdict_and_the_reason_that_the_model_predicts(found: list[Found]) -> None:
    assert len(found) == len(SEEDS) * CLUSTERS
    wrong = [each for one in found for each in disagreements(one)]
    assert not wrong, f"{len(wrong)} disagree, the first:\n" + "\n\n".join(wrong[:3])


def test_every_verdict_and_every_reason_is_among_them(found: list[Found]) -> None:
    outcomes = [outcome for one in found for outcome in one.model.outcomes().values()]
    recoveries = Counter(recovery for each in outcomes for recovery in {each.early[0], each.late[0]})
    reasons = Counter(each.late[1] for each in outcomes)
    assert {kind: recoveries[kind] for kind in Recovery if recoveries[kind] < 10} == {}
    assert {reason: reasons[reason] for reason in Reason if reasons[reason] < 10} == {}


def foreseeable(found: Found) -> bool:
    """One host lost its power for good, nobody did anything, and nothing else than GPU VMs wanted its room.

    What a forecast cannot see counts too: which release names too little MMIO space.
    """
    case = found.case
    lost = {host for _, host in case.failures}
    plain = any(not vm.gpus and vm.host in lost for vm in case.cluster.vms)
    refused = any(state.small_mmio for state in found.model.states.values())
    alone = len(lost) == 1 and case.failures[0][0] == "power"
    return alone and not (case.early or case.before or case.after or plain or refused)


def test_a_forecast_from_before_tells_who_comes_back_and_where(found: list[Found]) -> None:
    cases = [one for one in found if foreseeable(one)]
    assert len(cases) >= 100
    wrong, back = [], Counter[bool]()
    for one in cases:
        (forecast,) = one.forecasts.values()
        assert {vm.name for vm in forecast.vms} == one.late.keys()
        for vm in forecast.vms:
            now_on = one.early[vm.name].now_on
            back[vm.comes_back] += 1
            if (vm.comes_back, vm.host) != (now_on != "", now_on):
                wrong.append(story(one, vm.name, vm, one.early[vm.name]))
    assert not wrong, f"{len(wrong)} of {back} came out otherwise, the first:\n" + "\n\n".join(wrong[:3])
    assert min(back[True], back[False]) >= 50
