"""vCenter's catalogue of event types, read from XML: it names types that pyVmomi does not know."""

import xml.etree.ElementTree as ET

from contracts.errors import Unreachable

__all__ = ["type_ids_in"]

_DYNAMIC = frozenset({"EventEx", "ExtendedEvent"})
"""Their entries carry the `eventTypeId` in the formats, in front of a bar."""


def type_ids_in(answer: bytes) -> frozenset[str]:
    """The types and `eventTypeId`s that `EventManager.description.eventInfo` in a SOAP answer describes.

    Raises `Unreachable` when the answer is not XML.
    """
    try:
        root = ET.fromstring(answer)  # noqa: S314 - no DOCTYPE gets this far
    except ET.ParseError as error:
        raise Unreachable(f"vCenter's catalogue of events is not XML that can be read: {error}") from error
    found = set()
    for element in root.iter():
        parts = {_local(child.tag): (child.text or "").strip() for child in element}
        if "key" not in parts or "fullFormat" not in parts:
            continue
        key = parts["key"].rpartition(".")[2] if parts["key"].startswith("vim.event.") else parts["key"]
        type_id = parts["fullFormat"].partition("|")[0].strip() if key in _DYNAMIC else key
        # What is no identifier is a format without one in front.
        if type_id and not any(character.isspace() for character in type_id):
            found.add(type_id)
    return frozenset(found)


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
