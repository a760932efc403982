"""Load the rules, profiles and GPU VMs that people write, and say everything that is wrong with them at once."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from contracts.incidents import meaning_of
from contracts.reconcile import ANSWERS, FindingKind
from contracts.rules import STARTS, RulesFile
from planning.windows import covered_until
from workers.vm_requests import Known, name_kinds, unknown_names
from workers.yaml_document import Document, Key, Problem, did_you_mean, problems_of, raise_all

__all__ = ["load_rules"]

EVENT = re.compile(r"[A-Z][A-Za-z0-9]*Event(Ex)?|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")
"""A class name of the vSphere API, or an `EventEx.eventTypeId`. `VmFailoverFailed` and the like are known besides."""
_OURS = "gpuwright."
_THROTTLES = ("once_within", "max_concurrent", "quiet", "group_by")


def load_rules(path: Path, known: Known | None = None) -> RulesFile:
    """The rules, profiles and GPU VMs in `path`; raises `BadRequest` that names line, key and fix of each problem.

    With `known`, what VMs name of the configuration has to be there.
    """
    document = Document(path)
    problems = [*_meaning(document), *_vms_meaning(document, known)]
    try:
        rules = RulesFile.model_validate(document.data)
    except ValidationError as error:
        # What the model finds about the file as a whole is found above too, with lines.
        problems += [each for each in problems_of(error, RulesFile, document) if each.key]
        raise_all(sorted(problems, key=_line))
        raise
    raise_all([*problems, *_never_starts(rules, document)])
    return rules


def _meaning(document: Document) -> Iterator[Problem]:
    """What no field can tell alone. Works on raw data, because other fields may be wrong at the same time."""
    there = {
        argument: (section, [str(name) for name in _mapping(document.data.get(section))])
        for argument, section in (("profile", "profiles"), ("request", "vms"))
    }
    seen: dict[str, str] = {}
    for index, rule in enumerate(_list(document.data.get("rules"))):
        body = _mapping(rule)
        name = body.get("name")
        if isinstance(name, str):
            if name in seen:
                first = seen[name].rpartition(":")[2]
                yield document.problem(("rules", index, "name"), f"{name!r} is used in line {first} too; rename one")
            seen.setdefault(name, document.where(("rules", index, "name")))
        for position, event in enumerate(_list(body.get("on"))):
            if isinstance(event, str) and (wrong := _event_wrong(event, body.get("start"))):
                yield document.problem(("rules", index, "on", position), wrong)
        if (throttles := [name for name in _THROTTLES if name in body]) and _only_findings(body.get("on")):
            yield document.problem(
                ("rules", index, throttles[0]),
                "throttles what vCenter's events start; what gpuwright finds by looking it acts on once anyway, so "
                f"leave {' and '.join(map(repr, throttles))} out",
            )
        for argument, (section, names) in there.items():
            named = _mapping(body.get("with")).get(argument)
            if isinstance(named, str) and named not in names:
                listed = ", ".join(sorted(names)) or f"none is defined yet, add it under {section!r}"
                yield document.problem(
                    ("rules", index, "with", argument),
                    f"there is no {argument} {named!r}; {did_you_mean(named, names)}{section}: {listed}",
                )


def _only_findings(on: object) -> bool:
    events = _list(on)
    return bool(events) and all(isinstance(event, str) and event.casefold().startswith(_OURS) for event in events)


def _never_starts(rules: RulesFile, document: Document) -> Iterator[Problem]:
    now = datetime.now(UTC)
    for index, rule in enumerate(rules.rules):
        over = covered_until(rule.quiet, now)
        if over is not None and over >= now + timedelta(days=7):
            yield document.problem(
                ("rules", index, "quiet"), "these times leave no pause, so the rule would never start anything"
            )


def _event_wrong(event: str, start: object) -> str:
    """What is wrong with a name in `on`; empty where nothing is."""
    if not event.casefold().startswith(_OURS):
        if EVENT.fullmatch(event) or meaning_of(event):
            return ""
        return (
            f"{event!r} names no event; write a class like 'HostAddedEvent' or an eventTypeId like "
            "'com.vmware.vc.HA.DasHostFailedEvent'"
        )
    kinds = {kind.value.casefold(): kind for kind in FindingKind}
    kind = kinds.get(event.casefold())
    if kind is None:
        known = [each.value for each in FindingKind]
        return f"{event!r} is nothing that gpuwright finds; {did_you_mean(event, known)}it finds: {', '.join(known)}"
    if kind not in ANSWERS:
        acts = " and ".join(each.value for each in ANSWERS)
        return f"no rule can act on {kind.value}, a person has to judge it; rules can on {acts}. Leave it out"
    if start != ANSWERS[kind] and start in STARTS:
        return f"{kind.value} can start {ANSWERS[kind]} only; give it a rule of its own with 'start: {ANSWERS[kind]}'"
    return ""


def _vms_meaning(document: Document, known: Known | None) -> Iterator[Problem]:
    """The same for the VMs; says too what kind each of their GPUs is."""
    for name, vm in _mapping(document.data.get("vms")).items():
        body = _mapping(vm)
        name_kinds(body)

        def problem(key: Key, message: str, above: Key = ("vms", str(name))) -> Problem:
            return document.problem((*above, *key), message)

        yield from unknown_names(body, problem, known)


def _mapping(value: object) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _line(problem: Problem) -> int:
    return int(problem.where.rpartition(":")[2])
