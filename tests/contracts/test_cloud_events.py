"""CloudEvents are valid by the specification, and so are their forms on the wire."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.cloud_events import CloudEvent, batch_message, binary_message, structured_message

GIVEN: dict[str, Any] = {"id": "epoch/7", "source": "https://vc.example.com/sdk", "type": "com.example.Thing.v0"}


def event(**more: Any) -> CloudEvent:
    return CloudEvent.model_validate({**GIVEN, **more})


def test_a_structured_message_holds_what_is_set_and_nothing_else() -> None:
    time = datetime(2026, 3, 1, 13, 0, 0, 250000, timezone(timedelta(hours=1)))
    extensions = {"eventclass": "event", "retries": 2, "replayed": True}
    message = structured_message(event(subject="Thing", time=time, extensions=extensions, data={"Key": 7}))
    assert message.headers == {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    assert json.loads(message.body) == GIVEN | extensions | {
        "specversion": "1.0",
        "subject": "Thing",
        "time": "2026-03-01T12:00:00.250000Z",
        "datacontenttype": "application/json",
        "data": {"Key": 7},
    }


def test_a_batch_is_an_array_of_structured_events_and_may_be_empty() -> None:
    message = batch_message([event(data=1), event(id="epoch/8", data=None)])
    assert message.headers == {"Content-Type": "application/cloudevents-batch+json; charset=utf-8"}
    assert [(each["id"], each["data"]) for each in json.loads(message.body)] == [("epoch/7", 1), ("epoch/8", None)]
    assert batch_message([]).body == b"[]"


def test_a_binary_message_percent_encodes_what_headers_cannot_hold() -> None:
    message = binary_message(event(subject='Größe "100 %" of ~a/b', extensions={"on": True, "n": -3}, data={"ü": "ß"}))
    assert message.headers == {
        "Content-Type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": "epoch/7",
        "ce-source": "https://vc.example.com/sdk",
        "ce-type": "com.example.Thing.v0",
        "ce-subject": "Gr%C3%B6%C3%9Fe%20%22100%20%25%22%20of%20~a/b",
        "ce-on": "true",
        "ce-n": "-3",
    }
    assert json.loads(message.body) == {"ü": "ß"}


def test_bodies_are_utf8_whatever_the_text() -> None:
    assert json.loads(structured_message(event(data="\ud800 ☃")).body.decode("utf-8"))["data"] == "\ud800 ☃"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"id": ""}, "at least 1"),
        ({"source": "a\nb"}, "U+000A"),
        ({"type": "a\x85"}, "U+0085"),
        ({"specversion": "0.3"}, "1.0"),
        ({"time": datetime(2026, 1, 1)}, "timezone"),  # noqa: DTZ001
        ({"datacontenttype": "application/xml"}, "application/json"),
        ({"extensions": {"eventClass": "x"}}, "no name for an extension"),
        ({"extensions": {"subject": "x"}}, "no name for an extension"),
        ({"extensions": {"data": "x"}}, "no name for an extension"),
        ({"extensions": {"n": 2**31}}, "32 bits"),
        ({"extensions": {"n": "a\x00"}}, "U+0000"),
        ({"data": datetime.now(UTC)}, "data"),
    ],
)
def test_what_the_specification_forbids_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        event(**wrong)
    assert words in str(caught.value)
