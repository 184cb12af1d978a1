"""A recipe for a training set refuses what makes no sense, and lists its choices."""

from pathlib import Path
from typing import Any

import pytest

from memaudit.data.selection import Selection
from memaudit.data.set_recipe import SetRecipe
from memaudit.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.5}, "mix and share go together"),
        ({"mix": Path("a"), "share": 0.5}, "mix needs size"),
        (
            {
                "mix": Path("a"),
                "share": 0.5,
                "selection": Selection(size=6, subset="random"),
            },
            "Published mixtures have the first images",
        ),
        ({"labels": "random"}, "Random labels and num_classes go together"),
        ({"labels": "real"}, "labels is 'real'; one of true, random, unique, none is needed"),
        ({"repeat": 0}, "repeat is 0; at least 1 is needed"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SetRecipe(**options)


def test_the_choices_of_a_recipe_do_not_name_its_sources() -> None:
    recipe = SetRecipe(Selection(size=6), mix=Path("other"), share=0.5)
    assert "mix" not in recipe.choices and "selection" not in recipe.choices
    assert (recipe.choices["size"], recipe.choices["share"]) == (6, 0.5)
