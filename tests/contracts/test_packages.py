"""Versions, acceptance levels and platforms of ESXi packages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.packages import AcceptanceLevel, acceptance_level, accepts, check_requirement, meets, platform_matches

VIB = "535.129.03-1OEM.800.1.0.20613240"


@pytest.mark.parametrize(
    ("requirement", "holds"),
    [
        ("", True),
        ("535.129.03", True),
        ("==535.129.3", True),
        ("535.*", True),
        ("==535.129.*", True),
        (">=535", True),
        (">=535,<550", True),
        (" >= 535 , < 535.129.03 ", False),
        (">=550", False),
        ("550.*", False),
        ("535", False),
        ("53.*", False),
        (">535.129", True),
        ("<=535.129.03.0", True),
    ],
)
def test_a_requirement_is_about_the_drivers_part(requirement: str, holds: bool) -> None:
    assert meets(VIB, requirement) is holds


@pytest.mark.parametrize("wrong", ["latest", ">=550.*", "~=550", "550,", "550.x", ">= "])
def test_what_is_no_requirement_is_told(wrong: str) -> None:
    with pytest.raises(ValueError, match="is not a version requirement"):
        check_requirement(wrong)
    with pytest.raises(ValueError, match="is not a version requirement"):
        meets(VIB, wrong)


def test_a_version_without_numbers_meets_nothing() -> None:
    assert not meets("trunk-1", ">=1")
    assert meets("trunk-1", "")


@given(st.lists(st.integers(0, 999), min_size=1, max_size=4), st.lists(st.integers(0, 999), min_size=1, max_size=4))
def test_exactly_one_order_holds(left: list[int], right: list[int]) -> None:
    have, wanted = (".".join(map(str, parts)) for parts in (left, right))
    assert [meets(have, f"{sign}{wanted}") for sign in ("<", "==", ">")].count(True) == 1
    assert meets(have, f">={wanted}") is not meets(have, f"<{wanted}")
    assert meets(have, f"<={wanted}") is not meets(have, f">{wanted}")


def test_a_host_takes_packages_at_least_as_trusted_as_its_level() -> None:
    levels = list(AcceptanceLevel)
    taken = {(host, package) for host in levels for package in levels if accepts(host, package)}
    assert taken == {(host, package) for i, host in enumerate(levels) for package in levels[: i + 1]}
    assert not accepts("partner", "unheard-of")


def test_every_spelling_of_a_level_is_one_level() -> None:
    said = ["VMwareAccepted", "vmware_accepted", "accepted", "PartnerSupported", "partner", "CommunitySupported"]
    assert [acceptance_level(one) for one in said] == ["vmware_accepted"] * 3 + ["partner"] * 2 + ["community"]
    assert acceptance_level("VMwareCertified") == "vmware_certified"
    assert acceptance_level("unheard-of") == "unheard-of"


def test_a_package_for_another_release_does_not_match() -> None:
    assert platform_matches("8.0.2", ("8.*",))
    assert platform_matches("8.0.2", ("7.*", "8.0.0"))
    assert platform_matches("8.0.2", ("*",))
    assert platform_matches("8.0.2", ())
    assert not platform_matches("7.0.3", ("8.*",))
    assert not platform_matches("8.0.2", ("8.1.*",))
    assert not platform_matches("9.0.0", ("8.*", "7.0.*"))
