"""Recipes: what is accepted, and how a mistake is answered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.config import differences, dump_recipe, load_recipe, parse_recipe
from data.errors import ConfigError

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_parses_and_survives_a_round_trip(path: Path) -> None:
    recipe = load_recipe(path)
    import yaml

    again = parse_recipe(yaml.safe_load(dump_recipe(recipe)))
    assert again == recipe
    assert differences(recipe, again) == {}


def test_importing_the_configuration_imports_no_heavy_library() -> None:
    code = (
        "import sys, cluster.config; cluster.config.load_recipe('recipes/quickstart.yaml');"
        "print(sorted({'torch', 'ray', 'vllm', 'deepspeed', 'transformers'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=QUICKSTART.parents[1], check=True
    )
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("loop.stepz=3", ["loop.stepz", "did you mean 'steps'"]),
        ("loop.steps=0", ["loop.steps = 0", "correct loop.steps"]),
        ("loop.steps=many", ["loop.steps = 'many'"]),
        ("loop.max_staleness=2", ["loop.max_staleness = 2"]),
        ("model.path=/nowhere", ["exactly one of model.path and model.tiny"]),
        ("learner.max_tokens_per_micro_batch=10", ["learner.max_tokens_per_micro_batch 10 is below"]),
        ("model.tiny.max_positions=64", ["model.tiny.max_positions 64 is below"]),
        ("rewards.length_bonus=1", ["rewards.length_bonus is not a known key"]),
        ("run.name=../up", ["run.name = '../up'"]),
        ("loop.steps.more=1", ["steps is a value, not a section"]),
        ("loop", ["is not of the form a.b=value"]),
    ],
)
def test_a_mistake_is_answered_with_field_value_and_remedy(override: str, expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(QUICKSTART, [override])
    for text in expected:
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "uri", "shown"),
    [
        ("run.storage", "s3://AKIA:hush@bucket/runs", "s3://***@bucket/runs"),
        ("run.storage", "s3://bucket/runs?access_key=A&secret_key=hush", "secret_key=***"),
        ("data.questions.path", "https://hub/x?token=hush", "token=***"),
        ("rewards.judge", "{url: 'http://me:hush@judge/v1', model: m}", "http://***@judge/v1"),
    ],
)
def test_credentials_in_a_recipe_are_refused_and_not_repeated(key: str, uri: str, shown: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(QUICKSTART, [f"{key}={uri}"])
    said = str(caught.value)
    assert said.startswith(key) and shown in said and "AWS_ACCESS_KEY_ID" in said and "hush" not in said


def test_an_adapter_travels_over_the_object_store_only() -> None:
    settings = ["learner.lora={sync: adapter}", "rollouts.weight_transfer=nccl"]
    assert load_recipe(QUICKSTART, settings[:1]).learner.sends_adapter
    assert not load_recipe(QUICKSTART, ["learner.lora={}", settings[1]]).learner.sends_adapter
    with pytest.raises(
        ConfigError, match=r"learner\.lora\.sync is adapter, but rollouts\.weight_transfer=nccl"
    ) as caught:
        load_recipe(QUICKSTART, settings)
    assert "learner.lora.sync=merged" in str(caught.value)


def test_overrides_reach_nested_keys_and_read_yaml_values() -> None:
    recipe = load_recipe(
        QUICKSTART, ["loop.steps=3", "grpo.optimizer.learning_rate=2e-4", "grpo.optimizer.betas=[0.9, 0.99]"]
    )
    assert recipe.loop.steps == 3
    assert recipe.grpo.optimizer.learning_rate == 2e-4
    assert recipe.grpo.optimizer.betas == (0.9, 0.99)


@pytest.mark.parametrize("text", ["- a list", "run: {name: x", ""])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError):
        load_recipe(tmp_path / "r.yaml")


def test_a_missing_file_is_refused_with_the_recipes_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_recipe(tmp_path / "none.yaml")


def test_the_name_of_a_run_defaults_to_the_file(tmp_path: Path) -> None:
    text = QUICKSTART.read_text().replace("name: quickstart\n", "")
    (tmp_path / "mine.yaml").write_text(text)
    assert load_recipe(tmp_path / "mine.yaml").run.name == "mine"
