"""Events that break readers: each wrong in one way, and about a host that somebody waits for."""

from __future__ import annotations

from collections.abc import Callable

from simulator.wire.soap_write import escape

__all__ = ["POISONS", "poison"]

_KEY, _CHAIN = "<key>{key}</key>", "<chainId>{key}</chainId>"
_CREATED, _USER = "<createdTime>{created}</createdTime>", "<userName>VSPHERE.LOCAL\\Administrator</userName>"
_RINGING = "It rings: \x07, and \x00 ends it."
_HEAD = _KEY + _CHAIN + _CREATED + _USER


def _message(text: str) -> str:
    return f"<fullFormattedMessage>{text}</fullFormattedMessage>"


_SHAPES: dict[str, Callable[[str, int], str]] = {
    "unknown_type": lambda host, size: f"{_HEAD}{host}<song><verses>3</verses></song>",
    "unknown_field": lambda host, size: f"{_HEAD}{host}<mood><colour>blue</colour></mood>",
    "unknown_nested_type": lambda host, size: f'{_HEAD}{host}<arguments xsi:type="Verse"><line>3</line></arguments>',
    "empty_int": lambda host, size: f"{_KEY}<chainId></chainId>{_CREATED}{_USER}{host}",
    "empty_key": lambda host, size: f"<key></key>{_CHAIN}{_CREATED}{_USER}{host}",
    "key_beyond_int": lambda host, size: f"<key>99999999999</key>{_CHAIN}{_CREATED}{_USER}{host}",
    "no_key": lambda host, size: f"{_CHAIN}{_CREATED}{_USER}{host}",
    "bad_time": lambda host, size: f"{_KEY}{_CHAIN}<createdTime>yesterday</createdTime>{_USER}{host}",
    "bad_character": lambda host, size: f"{_HEAD}{_message(_RINGING)}{host}",
    "oversized": lambda host, size: f"{_HEAD}{_message('x' * size)}{host}",
}
POISONS = tuple(_SHAPES)
"""In which ways an event can be wrong. With `empty_key`, `key_beyond_int` and `no_key` its key cannot be read."""


def poison(kind: str, event_type: str, name: str, moid: str, size: int) -> tuple[str, str]:
    """The type and the fields, as `EventLog.post_raw` takes them, of an event of `event_type` about a host.

    `size` is how many characters an oversized message has. Raises `ValueError` for an unknown kind.
    """
    if kind not in _SHAPES:
        raise ValueError(f"kinds: {kind!r} is none of {', '.join(POISONS)}")
    host = f'<host><name>{escape(name)}</name><host type="HostSystem">{escape(moid)}</host></host>'
    return "HostSangEvent" if kind == "unknown_type" else event_type, _SHAPES[kind](host, size)
