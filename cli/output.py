"""What commands print: Rich on a terminal, plain text elsewhere, JSON on request. Errors go to stderr."""

import json
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console

__all__ = ["Json", "fail", "print_json", "say"]

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def print_json(value: Any) -> None:
    """One JSON document on stdout; pydantic models, also within lists and mappings, as their fields."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=_jsonable))


def say(text: str, style: str = "") -> None:
    """A line for people on stdout, in a Rich style on a terminal. The text itself is taken as it is."""
    Console(soft_wrap=True, highlight=False).print(text, style=style or None, markup=False)


def fail(text: str) -> None:
    """An error message on stderr."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {text}", style="red", markup=False)


def _jsonable(value: object) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no JSON form")
