"""Pages of events as bytes: where each event begins and ends, and its head, without an XML parser.

For two pages that a parser is no help with: one of which hardly any event is of interest, and one that is not
well-formed, of which the good events are wanted all the same.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Head", "Piece", "head_of", "heads_of", "is_list", "pieces_of"]

_P = rb"(?:[\w.-]+:)?"
"""A namespace prefix: clients must not care which one a server chooses."""
_LIST = re.compile(rb"<" + _P + rb"Read(?:Next|Previous)EventsResponse(?:\s[^<>]*)?>")
_LIST_ENDS = re.compile(rb"</" + _P + rb"(?:\w+Response|Body|Envelope)\b")
_TAG = re.compile(rb"<(/?)" + _P + rb"(returnval|Event|val)(?=[\s/>])([^<>]*)>")
"""Of an element that holds one event; property collectors also use these names for other things."""
_EVENT_TYPE = re.compile(rb"[\s:]type\s*=\s*[\"'](?!(?:[\w.-]+:)?ArrayOf)")
_HEAD = re.compile(
    rb"<[\w:.-]+\s(?:[^<>]*[\s:])?type=[\"']([\w:.-]+)[\"'][^<>]*>"
    rb"<key>([0-9]{1,10})</key>(?:<chainId>[-0-9]*</chainId>)?<createdTime>([^<&]*)</createdTime>"
)
"""How every vCenter, and vcsim, begins an event: the schema fixes the order of fields."""
_TYPE_ID = re.compile(rb"<eventTypeId>([^<&]*)</eventTypeId>")
_OPEN, _CLOSE = b"<returnval", b"</returnval>"
_BLANK = re.compile(rb"\s*")


class Head(NamedTuple):
    """What identifies an event, as it is on the wire."""

    base_type: bytes
    key: bytes
    """1 to 10 digits."""
    created: bytes
    event_type_id: bytes
    """Empty where there is none."""
    start: int
    end: int
    """The event is `answer[start:end]`."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What a page that is not well-formed has in the place of one event, or of several that ran together."""

    raw: bytes
    truncated: bool = False
    """The answer ends in it (or before it: then it is empty), so more events may be missing."""


def is_list(answer: bytes) -> bool:
    """Whether it is an answer of `ReadNextEvents` or `ReadPreviousEvents`, whose items are all events."""
    return _LIST.search(answer) is not None


def head_of(raw: bytes) -> Head | None:
    """The head of one event, which may be broken after it; None where it does not begin as events do."""
    found = _HEAD.match(raw)
    if found is None:
        return None
    type_id = _TYPE_ID.search(raw, found.end())
    return Head(found[1], found[2], found[3], type_id[1] if type_id else b"", 0, len(raw))


def heads_of(answer: bytes) -> list[Head] | None:
    """The heads of all events of a page, in its order, or None where it is not plainly one event after the other.

    Events are told apart by their tags alone, so what is inside one that nobody reads is not looked at.
    """
    begins = _LIST.search(answer)
    # Comments, CDATA and DOCTYPEs could hide tags, or show such as are none; vCenter sends none of them.
    if begins is None or b"<!" in answer:
        return None
    heads, at = [], _after_blanks(answer, begins.end())
    while answer.startswith(_OPEN, at):
        found = _HEAD.match(answer, at)
        if found is None:
            return None
        fields = found.end()
        close = answer.find(_CLOSE, fields)
        if close < 0 or answer.find(_OPEN, fields, close) >= 0:
            return None
        type_id = b""
        if (where := answer.find(b"<eventTypeId", fields, close)) >= 0:
            said = _TYPE_ID.match(answer, where)
            if said is None or answer.find(b"<eventTypeId", said.end(), close) >= 0:
                return None
            type_id = said[1]
        end = close + len(_CLOSE)
        heads.append(Head(found[1], found[2], found[3], type_id, at, end))
        at = _after_blanks(answer, end)
    return heads if _LIST_ENDS.match(answer, at) else None


def pieces_of(answer: bytes) -> Iterator[Piece]:
    """The events of a page that is not well-formed, each by itself, and whatever is between and after them.

    A piece ends where its element does, or where the next event begins: an event without its end takes none along.
    Nothing where there is no trace of events.
    """
    listed = _LIST.search(answer)
    tags = list(_TAG.finditer(answer, listed.end() if listed else 0))
    first = next((tag for tag in tags if not tag[1] and (listed or _is_typed(tag))), None)
    name = first[2] if first else b"returnval"
    opened, depth = -1, 0
    done = listed.end() if listed else first.start() if first else len(answer)
    for tag in tags:
        if tag[2] != name:
            continue
        if not tag[1] and (_is_typed(tag) or (listed and opened < 0)):
            before = answer[done if opened < 0 else opened : tag.start()]
            if opened >= 0 or (listed and before.strip()):
                yield Piece(before)
            opened, depth = tag.start(), 1
        elif opened >= 0:
            depth += -1 if tag[1] else 1
        elif listed and tag[1]:
            # The end of an event whose beginning is damaged.
            yield Piece(answer[done : tag.end()])
            done = tag.end()
        if tag[3].endswith(b"/"):
            depth -= 1
        if opened >= 0 and depth == 0:
            yield Piece(answer[opened : tag.end()])
            opened, done = -1, tag.end()
    if opened >= 0 or listed:
        yield from _tail(answer[opened if opened >= 0 else done :])


def _after_blanks(answer: bytes, at: int) -> int:
    blanks = _BLANK.match(answer, at)
    return blanks.end() if blanks else at


def _is_typed(tag: re.Match[bytes]) -> bool:
    return not tag[1] and _EVENT_TYPE.search(tag[3]) is not None


def _tail(rest: bytes) -> Iterator[Piece]:
    """What follows the last whole event."""
    rest = rest.strip()
    if rest.startswith(b"</"):
        return
    ends = _LIST_ENDS.search(rest)
    yield Piece(rest[: ends.start()]) if ends else Piece(b"" if rest == b"<" else rest, truncated=True)
