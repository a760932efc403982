"""What the benchmarks keep, and how they judge it."""

import json
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.sustained import is_sustained, lags

PROMISED = {
    "decode_vs_pyvmomi": True,
    "decode_vs_govmomi": True,
    "backlog_events_per_s": True,
    "sustained_vs_100_per_s": True,
    "event_to_first_workflow_code_p50_ms": False,
    "event_to_first_workflow_code_p99_ms": False,
    "sandbox_cpu_vs_none": False,
    "duplicates_dropped_per_s": True,
    "idle_rss_mb": False,
}
"""Name, and whether higher is better."""


def test_every_promised_figure_is_kept_with_its_peer() -> None:
    kept = json.loads(results.RESULTS.read_text())
    assert kept.keys() >= PROMISED.keys()
    for name, figure in kept.items():
        assert figure.keys() == {"value", "unit", "peer", "against", "ratio", "higher_is_better"}, name
        assert figure["value"] > 0, name
        assert figure["against"], name
        assert figure["ratio"] == pytest.approx(figure["value"] / figure["peer"], rel=0.02, abs=0.001), name
    assert {name: kept[name]["higher_is_better"] for name in PROMISED} == PROMISED


def test_a_figure_replaces_the_one_of_its_name_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.json")
    for name, value in (("a", 1.0), ("b", 2.0), ("a", 30.0)):
        results.keep(name, value=value, unit="s", peer=10.0, against="a stopwatch", higher_is_better=False)
    kept = json.loads(results.RESULTS.read_text())
    assert {name: figure["ratio"] for name, figure in kept.items()} == {"a": 3.0, "b": 0.2}
    assert kept["a"] == {
        "value": 30.0,
        "unit": "s",
        "peer": 10.0,
        "against": "a stopwatch",
        "ratio": 3.0,
        "higher_is_better": False,
    }


def test_the_lag_is_the_age_of_the_oldest_event_that_waits() -> None:
    posted = [(10.0, 20), (10.1, 40), (10.2, 60)]
    assert lags(posted, [(10.05, 20), (10.3, 39), (10.4, 40), (10.5, 60)]) == pytest.approx([0.0, 0.2, 0.2, 0.0])


@pytest.mark.parametrize(
    ("lags_s", "sustained"),
    [
        ([0.0] * 9, True),
        ([0.5] * 9, True),
        ([0.1 * n for n in range(9)], False),
        ([0.5, 0.0, 0.05] * 3, True),
        ([], False),
    ],
)
def test_a_rate_is_sustained_where_the_lag_does_not_grow(lags_s: list[float], sustained: bool) -> None:
    assert is_sustained(lags_s) is sustained
