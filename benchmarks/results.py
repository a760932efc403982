"""What the benchmarks measured, in `benchmarks/results.json`."""

import json
from pathlib import Path

__all__ = ["keep"]

_FILE = Path(__file__).with_name("results.json")


def keep(name: str, *, value: float, unit: str, peer: float, higher_is_better: bool) -> None:
    """Keep one result, in place of an older one of this name; `peer` is what it is held against, in the same unit."""
    results = json.loads(_FILE.read_text()) if _FILE.exists() else {}
    results[name] = {
        "value": round(value, 3),
        "unit": unit,
        "peer": round(peer, 3),
        "ratio": round(value / peer, 3),
        "higher_is_better": higher_is_better,
    }
    _FILE.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
