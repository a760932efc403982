"""The base of every message that travels through Temporal."""

from pydantic import BaseModel, ConfigDict

__all__ = ["Message"]


class Message(BaseModel):
    """A frozen message. Unknown fields are ignored and new fields get defaults, so that old histories replay."""

    model_config = ConfigDict(frozen=True, extra="ignore")
