"""The MMIO space of VMs with whole GPUs: domain.md's table, and the properties of its rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planning.gpu_models import GPU_MODELS, model_names, models_named
from planning.mmio import MMIO_SIZE, USE_MMIO, framebuffer_gib, mmio_settings, mmio_size_gib, mmio_too_small
from simulator.hardware import GPU_MODELS as SIMULATED
from simulator.laws.power import mmio_gib_needed

framebuffers = st.lists(st.integers(1, 192), min_size=1, max_size=16)


@pytest.mark.parametrize(
    ("gpus", "size"),
    [([16] * 2, 64), ([24] * 2, 128), ([16] * 8, 256), ([16] * 10, 512), ([40] * 2, 256), ([40], 128), ([], 0)],
)
def test_sizes_verified_on_hardware(gpus: list[int], size: int) -> None:
    assert mmio_size_gib(gpus) == size


@given(framebuffers)
def test_a_size_is_a_power_of_two_of_more_than_the_sum_and_at_most_four_times_it(gpus: list[int]) -> None:
    size, total = mmio_size_gib(gpus), sum(gpus)
    assert size & (size - 1) == 0
    assert 2 * total <= size <= 4 * total
    assert (size == 2 * total) == (total & (total - 1) == 0)


@given(framebuffers, st.integers(1, 192))
def test_another_gpu_never_needs_less(gpus: list[int], one_more: int) -> None:
    assert mmio_size_gib([*gpus, one_more]) >= mmio_size_gib(gpus)


@given(framebuffers)
def test_the_simulated_vcenter_was_written_apart_and_agrees(gpus: list[int]) -> None:
    assert mmio_gib_needed([size * 1024 for size in gpus]) == mmio_size_gib(gpus)


@given(framebuffers)
def test_settings_are_enough_for_the_gpus_they_are_made_for(gpus: list[int]) -> None:
    assert mmio_too_small(mmio_settings(gpus), gpus) == ""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, f"{USE_MMIO} is not TRUE"),
        ({USE_MMIO: "FALSE", MMIO_SIZE: "256"}, f"{USE_MMIO} is not TRUE"),
        ({USE_MMIO: "TRUE"}, f"{MMIO_SIZE} is not set"),
        ({USE_MMIO: "TRUE", MMIO_SIZE: "128"}, f"{MMIO_SIZE} is 128, and 256 is needed"),
        ({USE_MMIO.upper(): "true", MMIO_SIZE.lower(): " 256 "}, ""),
    ],
)
def test_what_keeps_a_vm_with_two_a100_from_booting_is_named(settings: dict[str, str], words: str) -> None:
    found = mmio_too_small(settings, [40, 40])
    assert found.startswith(words) if words else not found


def test_small_cards_need_no_64_bit_space() -> None:
    assert mmio_settings([8, 8]) == {}
    assert mmio_too_small({}, [8, 8]) == ""


def test_the_larger_of_table_and_report_counts() -> None:
    assert framebuffer_gib("10de:20f1", 40536) == 40
    assert framebuffer_gib("10de:20f1", 81920) == 80
    assert framebuffer_gib("10de:ffff", 24258) == 24
    assert framebuffer_gib("10de:ffff") == 0


def test_models_are_found_by_the_name_people_use() -> None:
    assert set(models_named("a100")) == {"10de:20b0", "10de:20b1", "10de:20b2", "10de:20b5", "10de:20f1"}
    assert models_named("NVIDIA L40S") == ("10de:26b9",)
    assert models_named("Voodoo") == ()
    assert "A30" in model_names()


def test_the_table_agrees_with_the_cards_of_the_simulated_hosts() -> None:
    for pair, card in SIMULATED.items():
        assert GPU_MODELS[pair].framebuffer_gib * 1024 == card.framebuffer_mib, pair
