"""Numbers that no run could use are refused when the recipe is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from actors.config import RolloutConfig
from cluster.config import Recipe, load_recipe
from data.errors import ConfigError
from learner.config import OptimizerConfig

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


def numbers(tree: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every floating-point number in a recipe."""
    items: list[tuple[str | int, object]] = []
    if isinstance(tree, dict):
        items = list(tree.items())
    elif isinstance(tree, list):
        items = list(enumerate(tree))
    elif isinstance(tree, float):
        yield path
    for key, value in items:
        yield from numbers(value, (*path, key))


def test_infinities_and_nan_are_refused_everywhere() -> None:
    resolved = json.loads(load_recipe(QUICKSTART).model_dump_json())
    paths = list(numbers(resolved))
    assert len(paths) > 20
    for path in paths:
        for bad in (float("inf"), float("-inf"), float("nan")):
            changed = json.loads(json.dumps(resolved))
            node = changed
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = bad
            with pytest.raises(ValidationError, match="finite number"):
                Recipe.model_validate_json(json.dumps(changed))


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("grpo.optimizer.learning_rate=.inf", "grpo.optimizer.learning_rate = inf"),
        ("grpo.max_importance_weight=.nan", "grpo.max_importance_weight = nan"),
        ("grpo.optimizer.betas=[1.0, 0.95]", "grpo.optimizer.betas.0 = 1.0"),
        ("grpo.optimizer.betas=[0.9, 1.5]", "grpo.optimizer.betas.1 = 1.5"),
        ("warm_up.optimizer.betas=[-0.1, 0.95]", "warm_up.optimizer.betas.0 = -0.1"),
        ("grpo.optimizer.eps=0.0", "grpo.optimizer.eps = 0.0"),
        ("rollouts.temperature=0.001", "rollouts.temperature = 0.001"),
        ("model.tiny.seed=9223372036854775808", "model.tiny.seed = 9223372036854775808"),
    ],
)
def test_bounds_are_answered_with_field_and_value(override: str, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(QUICKSTART, [override])
    assert field in str(caught.value) and "\n" not in str(caught.value)


def test_the_bounds_themselves_are_allowed() -> None:
    assert OptimizerConfig(betas=(0.0, 0.0)).betas == (0.0, 0.0)
    assert RolloutConfig(temperature=0.01).temperature == 0.01
    recipe = load_recipe(QUICKSTART, ["grpo.optimizer.betas=[0.0, 0.999]"])
    assert recipe.grpo.optimizer.betas == (0.0, 0.999)
