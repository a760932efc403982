"""What the benchmarks measured, in `benchmarks/results.json`."""

import json
from pathlib import Path

__all__ = ["RESULTS", "keep"]

RESULTS = Path(__file__).with_name("results.json")


def keep(name: str, *, value: float, unit: str, peer: float, against: str, higher_is_better: bool) -> None:
    """Print and keep one result, in place of an older one of this name.

    `peer` is what it is held against, in the same unit, and `against` says in words what that is.
    """
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    ratio = value / peer
    print(f"  {name}: {value:,.4g} {unit}; {against}: {peer:,.4g} {unit}; ratio {ratio:.3g}", flush=True)
    results[name] = {
        "value": round(value, 3),
        "unit": unit,
        "peer": round(peer, 3),
        "against": against,
        "ratio": round(ratio, 3),
        "higher_is_better": higher_is_better,
    }
    RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
