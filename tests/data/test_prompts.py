"""A question becomes messages in one place, with or without a chat template."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from data.errors import DataError
from data.prompts import encode_prompt, encode_target, messages_of, render_prompt, target_text
from data.records import Question
from learner.config import TinyPolicyConfig
from learner.tiny_policy import build_tokenizer
from reward_service.config import RewardConfig
from reward_service.reward import score_text
from tests.data.examples import MARFAN

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def tokenizer() -> Any:
    return build_tokenizer(TinyPolicyConfig(vocab_size=300), [MARFAN.stem])


def test_messages_hold_everything_that_is_asked() -> None:
    question = dataclasses.replace(MARFAN, context="A tall boy.")
    (message,) = messages_of(question)
    assert message["role"] == "user"
    wanted = [
        "<think></think>",
        "<answer></answer>",
        "A tall boy.",
        question.stem,
        "B: Arachnodactyly",
        "D: β-cell failure",
    ]
    positions = [message["content"].index(part) for part in wanted]
    assert positions == sorted(positions)


def test_the_prompt_does_not_give_the_answer_away() -> None:
    moved: Question = dataclasses.replace(MARFAN, answer_label="A", accepted_answers=("Zebra",))
    assert messages_of(moved) == messages_of(MARFAN)


def test_plain_template(tokenizer: Any) -> None:
    assert tokenizer.decode(encode_prompt(MARFAN, tokenizer)) == (
        "Which finding belongs to Marfan syndrome?\nA: Cataplexy\nB: Arachnodactyly\nC: Type A behaviour\n"
        "D: β-cell failure\nAnswer:\n"
    )


def test_chat_template_is_used_and_ends_where_the_model_goes_on(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML
    text = tokenizer.decode(encode_prompt(MARFAN, tokenizer))
    assert text == render_prompt(MARFAN, tokenizer)
    assert text.startswith("<|im_start|>user\nAnswer the medical question.")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_that_opens_the_reasoning_leaves_the_tag_to_the_model(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML + "<think>\n"
    assert render_prompt(MARFAN, tokenizer).endswith("<|im_start|>assistant\n")


def test_targets_end_with_eos_and_earn_the_full_reward(tokenizer: Any) -> None:
    ids = encode_target(MARFAN, tokenizer, "long fingers")
    assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id
    score = score_text(MARFAN, tokenizer.decode(ids, skip_special_tokens=True), RewardConfig())
    assert score.reason == "correct"


def test_unfit_reasoning_is_refused(tokenizer: Any) -> None:
    for reasoning in ("", "  ", "so <answer>B</answer>"):
        with pytest.raises(DataError, match="reasoning"):
            encode_target(MARFAN, tokenizer, reasoning)
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="eos_token_id"):
        encode_target(MARFAN, tokenizer, "x")


@pytest.mark.parametrize(
    ("verifier", "truth", "asked"),
    [
        ("number", "5.2 mmol/L", "only the number with its unit inside"),
        ("yes_no_maybe", "maybe", "only yes, no or maybe inside"),
        ("text", "Marfan syndrome", "only the answer itself, in as few words as possible, inside <answer></answer>. "),
    ],
)
def test_open_questions_are_asked_in_the_form_their_verifier_reads(verifier: str, truth: str, asked: str) -> None:
    question = Question(
        source="t",
        language="en",
        stem="Which?",
        options=(),
        answer_label="",
        accepted_answers=(truth,),
        verifier=verifier,
    )
    assert asked in messages_of(question)[0]["content"]
    assert f"<answer>{truth}</answer>" in target_text(question, "because")


def test_several_right_options_are_asked_for_and_shown_as_letters() -> None:
    question = dataclasses.replace(MARFAN, answer_labels=("B", "D"))
    assert "the letters of all right options" in messages_of(question)[0]["content"]
    assert target_text(question, "because").endswith("<answer>B, D</answer>")
    assert question.id != MARFAN.id
