"""Events as JSON are what govmomi's structs become in Go: functions behind event routers were written for that."""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies
from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import F_OPTIONAL, Enum, GuessWsdlType, ManagedMethod, ManagedObject, _wsdlDefMap, binary

from contracts.errors import BadRequest, Unreachable
from tests.support.binaries import binary as command
from tests.support.event_pages import mixed_events, page_of, read_next_answer
from vsphere.event_json import event_json
from vsphere.event_xml import decode_events

HOST = {"Name": "h", "Host": {"Type": "HostSystem", "Value": "host-1"}}


def ours(page: bytes) -> list[Any]:
    return [event_json(event.raw) for event in decode_events(page, lambda _: True)]


def govmomis(page: bytes, folder: Path) -> list[Any]:
    file = folder / "page.xml"
    file.write_bytes(page)
    done = subprocess.run(
        [str(command("decodeevents")), "-json", str(file)], capture_output=True, check=True, timeout=60
    )
    events: list[Any] = json.loads(done.stdout)
    return events


def alike(mine: Any, witness: Any) -> Any:
    """`mine` without absent fields that only pyVmomi knows, because they are of releases after govmomi's."""
    if isinstance(mine, dict) and isinstance(witness, dict):
        return {name: alike(each, witness.get(name)) for name, each in mine.items() if each or name in witness}
    if isinstance(mine, list) and isinstance(witness, list) and len(mine) == len(witness):
        return [alike(*each) for each in zip(mine, witness, strict=True)]
    return mine


def event_types() -> list[Any]:
    found = []
    for _, name in sorted(_wsdlDefMap):
        try:
            known = GuessWsdlType(name)
        except KeyError:
            continue
        if isinstance(known, type) and issubclass(known, vim.event.Event) and known not in found:
            found.append(known)
    return found


def filled(of: Any, optional: int, key: int = 7) -> Any:
    """A data object with all that is required, and so many levels of what is optional."""
    made = of()
    for each in of._GetPropertyList():
        unused = each.name in ("dynamicType", "dynamicProperty") or each.version.startswith("vim.version.v9_1")
        if unused or (each.flags & F_OPTIONAL and not optional):
            continue
        is_list = issubclass(each.type, list)
        value = _value(each.type.Item if is_list else each.type, each.name, optional, key)
        setattr(made, each.name, [value, value] if is_list else value)
    return made


def _value(of: Any, name: str, optional: int, key: int) -> Any:
    if of is object:
        return f"any {name}"
    if issubclass(of, vmodl.DynamicData):
        return filled(of, max(optional - 1, 0), key)
    if issubclass(of, ManagedObject):
        return of(f"{name}-{key}")
    if issubclass(of, Enum):
        return str(of.values[0])
    if issubclass(of, bool):
        return True
    if issubclass(of, int | float):
        return of(key)
    if issubclass(of, datetime):
        return datetime(2026, 3, 1, 12, 30, 1, 500000, tzinfo=UTC)
    if issubclass(of, binary):
        return of(b"bytes")
    if of is type:
        return vim.HostSystem
    if of is ManagedMethod:
        return vim.VirtualMachine.PowerOn
    return of(f"a {name} <&> ü")


def test_a_busy_days_events_are_what_govmomi_makes_of_them(tmp_path: Path) -> None:
    page = page_of(mixed_events(200))
    witness = govmomis(page, tmp_path)
    assert alike(ours(page), witness) == witness


@pytest.mark.parametrize("optional", [0, 1, 2])
def test_events_of_every_type_are_what_govmomi_makes_of_them(tmp_path: Path, optional: int) -> None:
    events = [filled(each, optional) for each in event_types()]
    assert len(events) > 400
    page = page_of(events)
    for event, mine, witness in zip(events, ours(page), govmomis(page, tmp_path), strict=True):
        assert alike(mine, witness) == witness, type(event).__name__


def one(fields: str, event_type: str = "VmPoweredOnEvent") -> dict[str, Any]:
    begin = f"<key>7</key><chainId>7</chainId><createdTime>2026-03-01T12:00:00.120Z</createdTime>{fields}"
    [event] = ours(read_next_answer([f'<returnval xsi:type="{event_type}">{begin}</returnval>']))
    found: dict[str, Any] = event
    return found


def test_fields_that_nobody_knows_are_written_by_their_shape() -> None:
    event = one(
        "<mood>fine</mood><tag>a</tag><tag>b</tag><what><colour>red</colour><n xsi:type='xsd:int'>3</n></what>"
        '<ref type="Widget">widget-1</ref><deep xsi:type="VmEventArgument"><name>v</name></deep>'
    )
    assert event["Mood"] == "fine"
    assert event["Tag"] == ["a", "b"]
    assert event["What"] == {"Colour": "red", "N": 3}
    assert event["Ref"] == {"Type": "Widget", "Value": "widget-1"}
    assert event["Deep"] == {"Name": "v", "Vm": None}
    assert (event["Key"], event["CreatedTime"]) == (7, "2026-03-01T12:00:00.12Z")


def test_an_event_of_an_unknown_type_has_the_fields_of_all_events_and_its_own() -> None:
    event = one("<userName>u</userName><sparks>many</sparks>", "GpuOnFireEvent")
    assert {**event} == {**dict.fromkeys(event), "Key": 7, "ChainId": 7, "CreatedTime": "2026-03-01T12:00:00.12Z"} | {
        "UserName": "u",
        "FullFormattedMessage": "",
        "ChangeTag": "",
        "AuditId": "",
        "Sparks": "many",
    }


@pytest.mark.parametrize(
    ("sent", "written"),
    [
        ("<template>maybe</template>", {"Template": "maybe"}),
        ("<template> 1 </template>", {"Template": True}),
        ("<template/>", {"Template": ""}),
        ("<chainId>8</chainId>", {"ChainId": 7}),
        ("<userName>a &amp; b  </userName>", {"UserName": "a & b  "}),
        ("<host><name>h</name><host type='HostSystem'>host-1</host></host>", {"Host": HOST}),
        ("<host><name>h</name><host type='HostSystem'>host-1</host><more/></host>", {"Host": {**HOST, "More": ""}}),
    ],
)
def test_what_is_not_as_it_should_be_stays_as_it_is(sent: str, written: dict[str, Any]) -> None:
    assert written.items() <= one(sent).items()


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("xsd:string", "7", "7"),
        ("xsd:int", "7", 7),
        ("xsd:long", "9223372036854775807", 2**63 - 1),
        ("xsd:int", "seven", "seven"),
        ("xsd:boolean", "true", True),
        ("xsd:double", "1.5e3", 1500.0),
        ("xsd:double", "NaN", "NaN"),
        ("xsd:double", "1e999", "1e999"),
        ("xsd:dateTime", "2026-03-01T12:00:00.000+01:00", "2026-03-01T12:00:00+01:00"),
        ("xsd:dateTime", "2026-03-01T12:00:00+00:00", "2026-03-01T12:00:00Z"),
        ("xsd:dateTime", "yesterday", "yesterday"),
        ("HostEventArgument", "<name>h</name>", {"Name": "h", "Host": None}),
        ("ArrayOfString", "<string>a</string>", {"String": ["a"]}),
        ("ArrayOfInt", "<int>1</int><int>2</int>", {"Int": [1, 2]}),
    ],
)
def test_values_of_any_type_are_what_they_say_they_are(kind: str, text: str, value: Any) -> None:
    argument = f'<arguments><key>1</key><value xsi:type="{kind}">{text}</value></arguments>'
    [pair] = one(f"<eventTypeId>esx.x</eventTypeId>{argument}", "EventEx")["Arguments"]
    if isinstance(pair["Value"], dict):
        assert value.items() <= pair["Value"].items()
    else:
        assert pair == {"Key": "1", "Value": value}


def test_characters_that_xml_cannot_carry_cost_nothing_else() -> None:
    assert one("<userName>a&#1;b & c</userName>")["UserName"] == "a\ufffdb & c"


def test_the_rest_of_a_damaged_page_is_written_whole() -> None:
    page = page_of(mixed_events(20))
    whole = ours(page)
    broken = page.replace(b"<key>5</key>", b"<key>5</kez>", 1)
    kept = [event for event in decode_events(broken, lambda _: True) if not event.problem]
    assert [event_json(event.raw) for event in kept] == [event for event in whole if event["Key"] != 5]
    prefixed = page.replace(b"<returnval", b"<!-- x --><returnval")
    assert ours(prefixed) == whole


def test_what_is_not_wanted_is_not_kept() -> None:
    events = decode_events(page_of(mixed_events(20)), lambda event: event.key == 7)
    assert [event.key for event in events if event.raw] == [7]


def test_an_event_without_end_inside_is_refused() -> None:
    with pytest.raises(BadRequest, match="inside each other"):
        event_json(b"<e>" + b"<x>" * 5000 + b"</x>" * 5000 + b"</e>")
    with pytest.raises(BadRequest, match="not XML"):
        event_json(b"<e><x></e>")


@settings(max_examples=300, deadline=None)
@given(data=strategies.data())
def test_whatever_is_damaged_what_is_written_is_json(data: strategies.DataObject) -> None:
    page = bytearray(page_of(mixed_events(10)))
    for _ in range(data.draw(strategies.integers(1, 5))):
        page[data.draw(strategies.integers(600, len(page) - 1))] = data.draw(
            strategies.sampled_from(b'<>&/x0 \x00\xff"=')
        )
    try:
        events = decode_events(bytes(page), lambda _: True)
    except Unreachable:
        return
    for event in events:
        if event.raw:
            with suppress(BadRequest):
                json.dumps(event_json(event.raw), allow_nan=False).encode()
