"""Configuration files as people write them: YAML with positions, and every problem at once with file, key and fix."""

import difflib
import os
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from contracts.errors import BadRequest

__all__ = ["Document", "Key", "Problem", "did_you_mean", "dotted", "problems_of", "raise_all"]

Key = tuple[str | int, ...]
"""The path to a value: `("vcenters", 0, "url")`."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: `where` is `file:line` or an environment variable."""

    where: str
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.key}: {self.message}" if self.key else f"{self.where}: {self.message}"


def raise_all(problems: Sequence[Problem]) -> None:
    """Raise one `BadRequest` that lists every problem; nothing if there is none."""
    if problems:
        raise BadRequest("\n".join(str(problem) for problem in problems))


def dotted(key: Key) -> str:
    """A key as messages show it: `vcenters[0].url`."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def did_you_mean(value: str, known: Sequence[str]) -> str:
    """` (did you mean 'x'?)` or nothing."""
    close = difflib.get_close_matches(value, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}? " if close else ""


class _Loader(yaml.SafeLoader):
    """YAML where only true and false are booleans, as in YAML 1.2: a rule's key `on` must stay a word."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, Any]]] = {  # noqa: RUF012 - PyYAML's own attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class Document:
    """A YAML file whose top level is a mapping, with the line of each key. Raises `BadRequest` when it is not."""

    def __init__(self, path: Path, text: str | None = None) -> None:
        """Read `path`, unless its `text` was read already."""
        self.path = path
        self.data: dict[str, Any] = {}
        self._lines: dict[Key, int] = {}
        try:
            text = path.read_text(encoding="utf-8") if text is None else text
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise BadRequest(f"{path}: cannot be read: {reason}; name a readable YAML file") from error
        try:
            self._load(_Loader(text))
        except yaml.MarkedYAMLError as error:
            line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
            raise BadRequest(f"{path}{line}: this is not YAML: {error.problem or error.context}") from error
        except yaml.YAMLError as error:
            raise BadRequest(f"{path}: this is not YAML: {error}") from error

    def _load(self, loader: _Loader) -> None:
        try:
            root = loader.get_single_node()
            if root is None:
                return
            if not isinstance(root, yaml.MappingNode):
                raise BadRequest(f"{self.path}:1: the file must be a mapping of keys to values")
            raise_all(list(self._walk(root, ())))
            self.data = loader.construct_document(root)
        finally:
            loader.dispose()

    def where(self, key: Key) -> str:
        """`file:line` of the key, or of the nearest one above it that is in the file."""
        while key and key not in self._lines:
            key = key[:-1]
        return f"{self.path}:{self._lines.get(key, 1)}"

    def problem(self, key: Key, message: str) -> Problem:
        """A problem of the value at `key`."""
        return Problem(self.where(key), dotted(key), message)

    def _walk(self, node: yaml.Node, key: Key) -> Iterator[Problem]:
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                below = (*key, str(name.value))
                line = name.start_mark.line + 1
                if below in self._lines:
                    first = self._lines[below]
                    yield Problem(f"{self.path}:{line}", dotted(below), f"written twice; remove this or line {first}")
                self._lines[below] = line
                yield from self._walk(value, below)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._lines[(*key, index)] = item.start_mark.line + 1
                yield from self._walk(item, (*key, index))


def problems_of(
    error: ValidationError, model: type[BaseModel], document: Document, variable_prefix: str | None = None
) -> list[Problem]:
    """pydantic's findings in the words of who wrote the file.

    With `variable_prefix`, a value that an environment variable set is blamed on the variable.
    """
    found = []
    places = [tuple(details["loc"]) for details in error.errors()]
    keys = [_untagged(place, model) for place in places]
    for details, place, key in zip(error.errors(), places, keys, strict=True):
        if details["type"] == "too_short" and any(len(other) > len(key) and other[: len(key)] == key for other in keys):
            continue  # pydantic counts right entries only; there are entries, and their problems are listed
        variable = _variable(key, variable_prefix) if variable_prefix else None
        where = f"environment variable {variable}" if variable else document.where(key)
        found.append(Problem(where, dotted(key), _message(details, place, model)))
    return found


def _untagged(place: Key, model: type[BaseModel]) -> Key:
    """The key as the file has it: pydantic's place also names the member of a tagged union that was chosen."""
    return tuple(part for index, part in enumerate(place) if _member(_annotation(model, place[:index]), part) is None)


def _variable(key: Key, prefix: str) -> str | None:
    names = {name.upper(): name for name in os.environ}
    for length in range(len(key), 0, -1):
        if name := names.get(prefix.upper() + "__".join(str(part) for part in key[:length]).upper()):
            return name
    return None


def _message(details: ErrorDetails, key: Key, model: type[BaseModel]) -> str:
    kind, value = details["type"], details["input"]
    if kind == "missing":
        return "is missing; add it"
    if kind == "too_short":
        return f"is empty; give at least {details['ctx']['min_length']}"
    if kind == "extra_forbidden":
        known = _known_keys(model, key[:-1])
        return f"is not a known key; {did_you_mean(str(key[-1]), known)}the keys here are: {', '.join(known)}"
    if kind in ("value_error", "assertion_error"):
        return str(details.get("ctx", {}).get("error", details["msg"]))
    if kind == "union_tag_invalid":
        tags = details["ctx"]["expected_tags"].replace("'", "").split(", ")
        tag, name = details["ctx"]["tag"], details["ctx"]["discriminator"].strip("'")
        return f"{name} {tag!r} is not possible; {did_you_mean(tag, tags)}possible: {', '.join(tags)}"
    if kind in ("literal_error", "enum"):
        known = _choices(_annotation(model, key))
        choices = ", ".join(known) or details.get("ctx", {}).get("expected", "")
        return f"{value!r} is not possible; {did_you_mean(str(value), known)}possible: {choices}"
    message = details["msg"][:1].lower() + details["msg"][1:]
    # A mapping or list is too much to quote, and may hold somebody's secret.
    return message if isinstance(value, Mapping | list | tuple) else f"{message}, not {value!r}"


def _known_keys(model: type[BaseModel], key: Key) -> list[str]:
    for annotation in _alternatives(_annotation(model, key)):
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return [field.alias or name for name, field in annotation.model_fields.items()]
    return []


def _choices(annotation: Any) -> list[str]:
    for each in _alternatives(annotation):
        if get_origin(each) is Literal:
            return [str(value) for value in get_args(each)]
        if isinstance(each, type) and hasattr(each, "__members__"):
            return [str(member.value) for member in each]  # type: ignore[attr-defined]
    return []


def _annotation(model: type[BaseModel], key: Key) -> Any:
    """The type annotation of the value at `key` below `model`, or None."""
    annotation: Any = model
    for part in key:
        annotation = _member(annotation, part) or next(
            (step for each in _alternatives(annotation) if (step := _below(each, part)) is not None), None
        )
    return annotation


def _member(annotation: Any, part: str | int) -> Any:
    """The member of a tagged union that `part` names; None where the annotation is no such union."""
    for info in get_args(annotation)[1:] if get_origin(annotation) is Annotated else ():
        name = getattr(info, "discriminator", None)
        for each in _alternatives(annotation) if isinstance(name, str) else ():
            if part in _choices(each.model_fields[name].annotation):
                return each
    return None


def _below(annotation: Any, part: str | int) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            if part in (name, field.alias):
                return field.annotation
        return None
    arguments = get_args(annotation)
    if isinstance(part, int) and get_origin(annotation) in (list, tuple):
        return arguments[0]
    if isinstance(part, str) and get_origin(annotation) is dict:
        return arguments[1]
    return None


def _alternatives(annotation: Any) -> list[Any]:
    """The members of a union, without `Annotated`; the annotation itself otherwise."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [each for member in get_args(annotation) for each in _alternatives(member)]
    return [annotation]
