"""docs/recovery.md tells every verdict, every reason, every finding and every setting, and the code agrees."""

import re
from pathlib import Path

from contracts.audit import AuditLimits, RemedyPolicy
from contracts.reconcile import FindingKind
from contracts.verdicts import Reason, Recovery

TEXT = (Path(__file__).parents[2] / "docs" / "recovery.md").read_text()


def first_cells(section: str, table: int = 0) -> set[str]:
    """The words in code style of the first column of a section's table."""
    found = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)
    assert found is not None
    tables = re.findall(r"(?:^\|.*\n)+", found[1], re.M)
    rows = tables[table].splitlines()[2:]
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row.split("|")[1])}


def test_every_verdict_and_every_reason_is_told() -> None:
    assert first_cells("Verdicts") == {str(each) for each in Recovery}
    assert first_cells("Verdicts", 1) == {str(each) for each in Reason if each is not Reason.NONE}


def test_every_finding_is_told() -> None:
    assert first_cells("Between failures") == {str(each) for each in FindingKind}


def test_settings_are_told_with_their_defaults() -> None:
    told = dict(re.findall(r"^  (\w+): ([\w.]+)", TEXT[TEXT.index("## Settings") :], re.M))
    known = {name: field.default for model in (AuditLimits, RemedyPolicy) for name, field in model.model_fields.items()}
    assert told
    for name, value in told.items():
        default = known[name]
        assert value == (str(default).lower() if isinstance(default, bool) else str(default)), name
