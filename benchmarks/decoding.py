"""How fast pages of events are decoded, next to pyVmomi's and govmomi's own decoders.

The same page of 1,000 events of nine types, in memory: what the network and the server cost is no decoder's merit.
Twice: as the listener reads where its rules want one event in ten (`decode_vs_…`), and every event in full, which is
what the peers do with any (`decode_all_vs_…`). pyVmomi's peer is the deserializer that its stubs use, govmomi's the
XML decoder of its SOAP client in a Go program (`deploy/tools/cmd/decodeevents`). They are timed in turns, in seconds of
CPU (of all threads: Go collects garbage beside), and the cheapest turn counts, as others use the machine too.
`make bench` runs it.
"""

import io
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyVmomi import vim
from pyVmomi.SoapAdapter import SoapResponseDeserializer, SoapStubAdapter

from benchmarks.results import keep
from simulator.wire.versions import NEWEST
from tests.support.binaries import binary
from tests.support.event_pages import mixed_events, page_of
from vsphere.event_xml import RawEvent, decode_events

EVENTS, TURNS, GO_ROUNDS = 1_000, 9, 5


def main() -> None:
    """Measure, print and keep."""
    answer = page_of(mixed_events(EVENTS))
    reader = vim.event.EventHistoryCollector.ReadNextEvents.info
    stub = SoapStubAdapter(host="not-connected", version=NEWEST)
    ways: dict[str, Callable[[], Any]] = {
        "all": lambda: decode_events(answer),
        "wanted": lambda: decode_events(answer, _wanted),
        "pyVmomi": lambda: SoapResponseDeserializer(stub).Deserialize(io.BytesIO(answer), reader.result),
    }
    for name, decode in ways.items():
        keys = [event.key for event in decode()]
        if keys != list(range(1, EVENTS + 1)):
            raise RuntimeError(f"{name}: {len(keys)} events were decoded, not {EVENTS}")
    best = dict.fromkeys([*ways, "govmomi"], float("inf"))
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.xml"
        page.write_bytes(answer)
        for _ in range(TURNS):
            for name, decode in ways.items():
                started = time.process_time()
                decode()
                best[name] = min(best[name], time.process_time() - started)
            best["govmomi"] = min(best["govmomi"], _govmomi(page))
    print(f"decoding a page of {EVENTS} events, {len(answer) / 1024:.0f} KiB")
    for name, seconds in best.items():
        print(f"  {name:8} {seconds * 1000:6.1f} ms, {EVENTS / seconds:8,.0f} events/CPU s")
    for peer in ("pyVmomi", "govmomi"):
        for way, name in (("wanted", "decode"), ("all", "decode_all")):
            value, other = EVENTS / best[way], EVENTS / best[peer]
            keep(
                f"{name}_vs_{peer.lower()}",
                value=value,
                unit="events/CPU s",
                peer=other,
                against=f"{peer}, which decodes every event in full",
                higher_is_better=True,
            )


def _wanted(event: RawEvent) -> bool:
    return event.base_type == "HostConnectedEvent"


def _govmomi(page: Path) -> float:
    """CPU seconds of the cheapest of a few rounds in one process."""
    command: list[str | Path] = [binary("decodeevents"), "-rounds", str(GO_ROUNDS), page]
    events, seconds = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.split()
    if int(events) != EVENTS:
        raise RuntimeError(f"govmomi: {events} events were decoded, not {EVENTS}")
    return float(seconds)


if __name__ == "__main__":
    main()
