"""What is checked of questions before engines start."""

from __future__ import annotations

import dataclasses

import pytest

from cluster.config import parse_recipe
from cluster.preparing import check_prompts
from data.errors import DataError
from data.prompts import encode_prompt
from data.sources.hpo import QuestionSplits
from learner.config import TinyPolicyConfig
from learner.tiny_policy import build_tokenizer
from tests.data.examples import MARFAN


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
