"""Large messages as compressed text, so that they stay far below the 2 MiB that Temporal takes for one payload."""

import base64
import zlib
from typing import TypeVar

from contracts.base import Message

__all__ = ["packed", "unpacked"]

_M = TypeVar("_M", bound=Message)


def packed(message: Message) -> str:
    """The message as compressed text: JSON without defaults, deflated, base64."""
    return base64.b64encode(zlib.compress(message.model_dump_json(exclude_defaults=True).encode(), 9)).decode()


def unpacked(kind: type[_M], text: str) -> _M:
    """The inverse of `packed`; raises `ValueError` for text that it did not make."""
    try:
        data = zlib.decompress(base64.b64decode(text, validate=True))
    except zlib.error as error:
        raise ValueError(f"not a packed {kind.__name__}: {error}") from error
    return kind.model_validate_json(data)
