"""GPU models as people name them."""

from planning.gpu_models import models_named, pair_words


def test_all_pairs_of_a_model_are_told_by_its_name_and_others_one_by_one() -> None:
    assert pair_words(models_named("A100")) == "A100"
    assert pair_words(("10de:20f1",)) == "10de:20f1"
    assert pair_words(models_named("A100")[:2]) == "10de:20b0 or 10de:20b1"
    assert pair_words(("10de:20f1", "10de:2235")) == "10de:20f1 or 10de:2235"
    assert pair_words(("1002:0001", "1002:0002")) == "1002:0001 or 1002:0002"
    assert pair_words(()) == ""
