"""The reward of the paper: correctness of the final answer plus adherence to the format, and nothing else.

``reward = correct_weight * correct + format_weight * format`` (paper, section 3). Both parts are 0 or 1. ``correct``
asks for the format first, and a completion that was cut by the token limit earns nothing, even if all tags are there.
"""

from __future__ import annotations

from data.records import Completion, Group, Question, Score, ScoredGroup
from reward_service.config import RewardConfig
from reward_service.extraction import extract
from reward_service.registry import verifier_for
from reward_service.verdict import judge
from reward_service.verifiers import ChoiceVerifier

VERIFIER_VERSION = ChoiceVerifier.version
"""The version that judges plain multiple choice; `verifier_version` tells that of any question."""


def score_text(question: Question, text: str, config: RewardConfig, *, finished: bool = True) -> Score:
    """Score a text. Example: ``<think>long fingers</think><answer>A</answer>`` earns 1.1 when A is right.

    Raises:
        VerificationError: the verifier gave no verdict. That is an outcome of its own, not a score.
        DataError, ConfigError: the question has no verifier that could judge it.
    """
    verifier = verifier_for(question, config)
    parts = extract(text, config.max_text_chars, finished=finished)
    if parts.reason != "ok":
        return Score(correct=0.0, format=0.0, reward=0.0, reason=parts.reason)
    verdict = judge(verifier, question, parts.answer)
    if not verdict.readable:
        # The format asks for one answer of this kind. One that hedges keeps no part of the reward.
        return Score(correct=0.0, format=0.0, reward=0.0, reason=verdict.reason, answer=verdict.answer)
    correct = float(verdict.correct)
    reward = config.correct_weight * correct + config.format_weight
    return Score(correct=correct, format=1.0, reward=reward, reason=verdict.reason, answer=verdict.answer)


def score_completion(question: Question, completion: Completion, config: RewardConfig) -> Score:
    """Score one completion; ``completion.text`` is without the end-of-sequence token."""
    return score_text(question, completion.text, config, finished=completion.finish_reason == "stop")


def score_group(group: Group, config: RewardConfig) -> ScoredGroup:
    """Score every completion of a group, in order, in this process."""
    scores = tuple(score_completion(group.question, completion, config) for completion in group.completions)
    return ScoredGroup(group=group, scores=scores, verifier_version=verifier_version(group.question, config))


def verifier_version(question: Question, config: RewardConfig) -> str:
    """The version of the verifier that judges a question, for the record beside its scores."""
    return verifier_for(question, config).version
