"""The GPU VM that an operator asks for, by file and by options: pure, and everything wrong is told at once."""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from contracts.machine import VmState
from contracts.vms import VmRequest
from workers.vm_requests import Known, name_kinds, unknown_names
from workers.yaml_document import Document, Key, Problem, did_you_mean, problems_of, raise_all

__all__ = ["GpuOptions", "VmOptions", "change_request", "takes", "vm_request"]

_MIB = {"M": 1, "G": 1024, "T": 1024 * 1024}
_SIZE = re.compile(r"(\d+)\s*([MGT])(i?B)?", re.IGNORECASE)
_STAND_IN: dict[str, Any] = {
    "name": "vm",
    "vcenter": "vcenter",
    "cluster": "cluster",
    "source": {"template": "template"},
    "gpus": [{"kind": "vgpu", "profile": "profile"}],
}
"""A right value for each field that a request needs."""

Words = list[str] | None


@dataclass(frozen=True)
class GpuOptions:
    """The GPUs of a VM, as options. Any of them replaces what a file says about GPUs."""

    gpu: Annotated[
        Words,
        typer.Option(
            metavar="MODEL|VENDOR:DEVICE[,label=L][,count=N]",
            help="Any free whole GPU of a kind (Dynamic DirectPath I/O), e.g. A100 or 10de:20f1,label=Training.",
        ),
    ] = None
    vgpu: Annotated[Words, typer.Option(metavar="PROFILE[,count=N]", help="A share of a card (NVIDIA vGPU).")] = None
    static: Annotated[
        Words, typer.Option(metavar="HOST/SBDF", help="That very device of that host (DirectPath I/O).")
    ] = None


@dataclass(frozen=True)
class VmOptions(GpuOptions):
    """A request as options; None is not given, and leaves what the file says."""

    name: Annotated[str | None, typer.Option(help="The VM's name.")] = None
    vcenter: Annotated[str | None, typer.Option(help="The vCenter's name, where several are known.")] = None
    cluster: Annotated[str | None, typer.Option(help="The cluster's name.")] = None
    template: Annotated[str | None, typer.Option(help="Clone this template.")] = None
    library_item: Annotated[
        str | None, typer.Option(metavar="LIBRARY/ITEM", help="Deploy this item of a content library.")
    ] = None
    guest_id: Annotated[str | None, typer.Option(help="Make an empty VM for this guest OS: ubuntu64Guest.")] = None
    disk: Annotated[str | None, typer.Option(metavar="SIZE", help="The disk of an empty VM: 100G.")] = None
    cpus: Annotated[int | None, typer.Option(help="Virtual CPUs.")] = None
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory, all of it reserved: 16G.")] = None
    folder: Annotated[str | None, typer.Option(help="The VM folder.")] = None
    datastore: Annotated[str | None, typer.Option(help="The datastore.")] = None
    network: Annotated[str | None, typer.Option(help="The network of its first adapter.")] = None
    pool: Annotated[str | None, typer.Option(help="The resource pool.")] = None
    keep_on_failure: Annotated[
        bool | None,
        typer.Option(
            "--keep-on-failure/--remove-on-failure", help="Leave a VM that could not be made right, or remove it."
        ),
    ] = None


_PLAIN: dict[str, Key] = {
    "name": ("name",),
    "vcenter": ("vcenter",),
    "cluster": ("cluster",),
    "cpus": ("cpus",),
    "folder": ("folder",),
    "datastore": ("datastore",),
    "network": ("network",),
    "pool": ("resource_pool",),
    "keep_on_failure": ("keep_on_failure",),
}
"""Option → key of the request, where the value stays as it is."""
_SOURCES = ("template", "library_item", "guest_id")
_NEEDED = {
    "name": "--name",
    "cluster": "--cluster",
    "source": "--template, --library-item or --guest-id",
    "gpus": "--gpu, --vgpu or --static",
}
"""What to type for a key that is missing."""


def takes(options: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator for commands: their parameter `options` becomes an option for each field of that class."""
    named = inspect.signature(options).parameters

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def typed(**given: Any) -> None:
            chosen = options(**{name: given.pop(name) for name in named})
            command(**given, options=chosen)

        own = [each for name, each in inspect.signature(command).parameters.items() if name != "options"]
        every = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *named.values())]
        typed.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        return typed

    return decorate


class _Asked(Document):
    """A request as it was given: the file's keys by line, the others by their option."""

    def __init__(self, path: Path | None, text: str | None) -> None:
        self._by_option: dict[Key, str] = {}
        self._is_file = path is not None
        super().__init__(path or Path("options"), text if path else "")

    def put(self, key: Key, value: Any, option: str) -> None:
        """Set a value that an option gave, in place of the file's."""
        below: Any = self.data
        for part in key[:-1]:
            below = below.setdefault(part, {})
        below[key[-1]] = value
        self._by_option[key] = option

    def where(self, key: Key) -> str:
        """`file:line`, or the option."""
        for length in range(len(key), 0, -1):
            if option := self._by_option.get(key[:length]):
                return option
        return super().where(key) if self._is_file else "options"


def vm_request(path: Path | None, text: str | None, options: VmOptions, known: Known) -> VmRequest:
    """The request in `text` of `path` (None: it is read from there; both None: options only), `options` first.

    A vCenter that is the only one needs no naming. Raises `BadRequest` that lists every problem with its line or
    option, its key and the fix.
    """
    asked = _Asked(path, text)
    if len(known.vcenters) == 1:
        asked.data.setdefault("vcenter", known.vcenters[0])
    return _checked(asked, options, known)


def change_request(state: VmState, options: GpuOptions, folder: str | None = None) -> VmRequest:
    """Other GPUs for a VM that is there, with everything else as it is. Raises `BadRequest` as `vm_request` does."""
    plain = VmOptions(gpu=options.gpu, vgpu=options.vgpu, static=options.static)
    asked = _Asked(None, None)
    asked.data |= {
        "name": state.ref.name,
        "vcenter": state.ref.vcenter,
        "cluster": state.cluster_moid,
        "folder": folder,
        # Nothing is copied: a source says here only whether there is a guest that has to come up again.
        "source": {"template": state.ref.name}
        if state.tools_running
        else {"guest_id": state.guest_id or "otherGuest64"},
        "cpus": state.cpus,
        "memory_mib": state.memory_mib,
    }
    return _checked(asked, plain, Known([state.ref.vcenter]))


def _checked(asked: _Asked, options: VmOptions, known: Known) -> VmRequest:
    problems = list(_apply(options, asked))
    name_kinds(asked.data)
    problems += unknown_names(asked.data, asked.problem, known)
    try:
        request = VmRequest.model_validate(asked.data)
    except ValidationError as error:
        problems += _told(error, asked)
        wrong = {str(each["loc"][0]) for each in error.errors() if each["loc"]}
        problems += _across(asked, wrong) if wrong else []
        raise_all(list(dict.fromkeys(problems)))
        raise
    raise_all(problems)
    return request


def _apply(options: VmOptions, asked: _Asked) -> Iterator[Problem]:
    for name, key in _PLAIN.items():
        if (value := getattr(options, name)) is not None:
            asked.put(key, value, _option(name))
    sources = [name for name in _SOURCES if getattr(options, name) is not None]
    if sources:
        asked.data["source"] = {}
    for name in sources:
        asked.put(("source", name), getattr(options, name), _option(name))
    if not isinstance(asked.data.get("source", {}), dict):
        # What the file says there is told by its own rule.
        options = VmOptions(memory=options.memory, gpu=options.gpu, vgpu=options.vgpu, static=options.static)
    for name, key, unit in (("memory", ("memory_mib",), "M"), ("disk", ("source", "disk_gib"), "G")):
        if (size := getattr(options, name)) is not None:
            number = _size(size, unit)
            if number is None:
                yield Problem(f"{_option(name)} {size}", "", f"is no size in whole {unit}iB; write it like '16G'")
            # A wrong size leaves a right one, so that nothing else is told about it.
            asked.put(key, number or 16384, _option(name))
    found: list[Problem] = []
    if entries := _gpus(options, found):
        asked.data["gpus"] = [entry for entry, _ in entries]
        for index, (_, option) in enumerate(entries):
            asked._by_option["gpus", index] = option
    yield from found


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _size(text: str, unit: str) -> int | None:
    """A size like `16G` in units of MiB (`M`) or GiB (`G`); None where it is none, or not a whole number of them."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    number, rest = divmod(int(found[1]) * _MIB[found[2].upper()], _MIB[unit])
    return None if rest else number


def _gpus(options: GpuOptions, problems: list[Problem]) -> list[tuple[dict[str, Any], str]]:
    """The entries with the option that each is from."""
    found = []
    for text in options.gpu or ():
        option = f"--gpu {text}"
        head, more = _parts(text, ("label", "count"), option, problems)
        found.append(({"kind": "dynamic", "match" if ":" in head else "model": head} | more, option))
    for text in options.vgpu or ():
        option = f"--vgpu {text}"
        head, more = _parts(text, ("count",), option, problems)
        found.append(({"kind": "vgpu", "profile": head} | more, option))
    for text in options.static or ():
        host, _, sbdf = text.rpartition("/")
        option = f"--static {text}"
        if host and sbdf:
            found.append(({"kind": "static", "host": host, "sbdf": sbdf}, option))
        else:
            problems.append(Problem(option, "", "names no device; write it like 'esx-01/0000:81:00.0'"))
    return found


def _parts(text: str, keys: Sequence[str], option: str, problems: list[Problem]) -> tuple[str, dict[str, Any]]:
    """`A100,label=Training,count=2` as its first part and the others by key."""
    head, *rest = [part.strip() for part in text.split(",")]
    more: dict[str, Any] = {}
    for part in rest:
        key, equals, value = (each.strip() for each in part.partition("="))
        if key not in keys or not equals:
            hint = did_you_mean(key, keys)
            problems.append(Problem(option, "", f"{part!r} is not known; {hint}write {' or '.join(keys)} with '='"))
        elif key in more:
            problems.append(Problem(option, "", f"{key!r} is written twice; remove one"))
        else:
            more[key] = int(value) if key == "count" and value.isdecimal() else value
    return head, more


def _across(asked: _Asked, wrong: set[str]) -> list[Problem]:
    """What is wrong between fields, although the `wrong` ones are: right ones stand in for them."""
    data = {key: value for key, value in asked.data.items() if key not in wrong}
    try:
        VmRequest.model_validate({key: value for key, value in _STAND_IN.items() if key not in data} | data)
    except ValidationError as error:
        return _told(error, asked)
    return []


def _told(error: ValidationError, asked: _Asked) -> list[Problem]:
    return [_at_field(each, asked) for each in problems_of(error, VmRequest, asked)]


def _at_field(problem: Problem, asked: _Asked) -> Problem:
    """A problem with what to type for a key that is missing, and at the field that a rule between fields is about."""
    if problem.key in _NEEDED and problem.message == "is missing; add it":
        return Problem(problem.where, problem.key, f"is missing; add it, or give {_NEEDED[problem.key]}")
    field, _, rest = problem.message.partition(": ")
    if not problem.key and field in VmRequest.model_fields:
        return Problem(asked.where((field,)), field, rest)
    return problem
