"""What is checked of questions before engines start."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from cluster.config import parse_recipe
from cluster.preparing import check_prompts
from cluster.starting import check_model
from data.errors import ConfigError, DataError
from data.prompts import encode_prompt
from data.sources.hpo import QuestionSplits
from learner.config import TinyPolicyConfig
from learner.tiny_policy import build_tokenizer
from tests.data.examples import MARFAN
from tests.tiny_model import build_model, save_model


def test_questions_that_do_not_fit_are_named_before_one_is_drawn() -> None:
    tokenizer = build_tokenizer(TinyPolicyConfig(vocab_size=300), [MARFAN.stem])
    long = dataclasses.replace(MARFAN, context="A tall boy. " * 20)
    longest = dataclasses.replace(MARFAN, context="A tall boy. " * 30)
    sizes = [len(encode_prompt(question, tokenizer)) for question in (MARFAN, long, longest)]
    splits = QuestionSplits(train=(MARFAN, long), held_out=(longest,))

    def check(limit: int) -> None:
        rollouts = {"max_prompt_tokens": limit, "max_completion_tokens": 8}
        base = {"run": {"name": "t"}, "model": {"path": "m"}, "data": {}, "rollouts": rollouts}
        check_prompts(parse_recipe(base), splits, tokenizer)

    check(sizes[2])
    with pytest.raises(DataError, match=r"1 of 3 questions have prompts above rollouts\.max_prompt_tokens") as refused:
        check(sizes[2] - 1)
    assert f"set rollouts.max_prompt_tokens to {sizes[2]}" in str(refused.value.remedy)
    with pytest.raises(DataError, match="2 of 3 questions"):
        check(sizes[0])


def test_layers_that_an_adapter_names_must_be_there(tmp_path: Path) -> None:
    save_model(build_model(0, tied=False), tmp_path)
    models: tuple[dict[str, Any], ...] = ({"path": str(tmp_path)}, {"tiny": {"max_positions": 2048}})
    base = {"run": {"name": "t"}, "data": {}, "rollouts": {"max_prompt_tokens": 64, "max_completion_tokens": 8}}

    def check(model: dict[str, Any], *targets: str) -> None:
        check_model(parse_recipe(base | {"model": model, "learner": {"lora": {"targets": list(targets)}}}))

    for model in models:
        check(model, "q_proj", "down_proj")
        check(model, "all-linear")
        for wrong in ("query", "lm_head", "embed_tokens"):
            with pytest.raises(ConfigError, match=f"names {wrong}, which is no linear layer"):
                check(model, "q_proj", wrong)
