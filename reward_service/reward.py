"""The reward of the paper: correctness of the final answer plus adherence to the format, and nothing else.

``reward = correct_weight * correct + format_weight * format`` (paper, section 3). Both parts are 0 or 1. ``correct``
asks for the format first, and a completion that was cut by the token limit earns nothing, even if all tags are there.
"""

from __future__ import annotations

from data.records import Completion, Group, Question, Score, ScoredGroup
from reward_service.config import RewardConfig
from reward_service.extraction import choose, extract

VERIFIER_VERSION = "mcq-strict/1"
_KEPT_ANSWER_CHARS = 200


def score_text(question: Question, text: str, config: RewardConfig) -> Score:
    """Score a finished text. Example: ``<think>long fingers</think><answer>A</answer>`` earns 1.1 when A is right."""
    parts = extract(text, config.max_text_chars)
    if parts.reason != "ok":
        return Score(correct=0.0, format=0.0, reward=0.0, reason=parts.reason)
    choice = choose(parts.answer, question)
    if choice.reason != "ok":
        # The format asks for one option. An answer that hedges keeps no part of the reward.
        answer = parts.answer[:_KEPT_ANSWER_CHARS]
        return Score(correct=0.0, format=0.0, reward=0.0, reason=choice.reason, answer=answer)
    correct = float(choice.label == question.answer_label)
    reward = config.correct_weight * correct + config.format_weight
    return Score(
        correct=correct, format=1.0, reward=reward, reason="correct" if correct else "wrong", answer=choice.label
    )


def score_completion(question: Question, completion: Completion, config: RewardConfig) -> Score:
    """Score one completion; ``completion.text`` is without the end-of-sequence token."""
    if completion.finish_reason != "stop":
        return Score(correct=0.0, format=0.0, reward=0.0, reason="truncated")
    return score_text(question, completion.text, config)


def score_group(group: Group, config: RewardConfig) -> ScoredGroup:
    """Score every completion of a group, in order."""
    scores = tuple(score_completion(group.question, completion, config) for completion in group.completions)
    return ScoredGroup(group=group, scores=scores, verifier_version=VERIFIER_VERSION)
