"""The typed records that flow through the system, each with an Arrow schema and a documented example.

Records are frozen dataclasses. The id of a question is a hash of its content, so the same item has the same id in any
run, on any machine, from any source. `data/tables.py` gives each its Arrow schema and puts it on disk.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from data.errors import DataError

DifficultyTier = Literal["easy", "moderate", "difficult", "unrated"]
FinishReason = Literal["stop", "length"]
DIFFICULTY_TIERS: tuple[DifficultyTier, ...] = ("easy", "moderate", "difficult", "unrated")
FINISH_REASONS: tuple[FinishReason, ...] = ("stop", "length")


@dataclass(frozen=True, kw_only=True)
class Option:
    """One choice of a multiple-choice question. Example: ``Option(label="A", text="Arachnodactyly")``."""

    label: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a question comes from: a data set and row, or a graph, a path and the nodes that were masked.

    Example: ``Provenance(dataset="hpo", dataset_version="2025-01-16", row="OMIM:154700", graph="hpo",
    path=("OMIM:154700", "HP:0001166"), masked=("HP:0001166",), generator_version="hpo-one-hop/1")``.
    """

    dataset: str = ""
    dataset_version: str = ""
    row: str = ""
    graph: str = ""
    path: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    generator_version: str = ""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A medical question with its truth.

    Example: ``Question(source="hpo", language="en", stem="Which finding belongs to Marfan syndrome?", options=(
    Option(label="A", text="Arachnodactyly"), Option(label="B", text="Cataplexy")), answer_label="A")``.

    A question with several right options names all of them in ``answer_labels``. A question without options names its
    ``verifier`` ("number", "text", ...; see `docs/rewards.md`) and its truth in ``accepted_answers``, the preferred
    form first.

    Raises:
        DataError: no options, an empty or repeated label or option text, or an answer outside the options.
    """

    source: str
    language: str
    stem: str
    options: tuple[Option, ...]
    answer_label: str
    context: str = ""
    accepted_answers: tuple[str, ...] = ()
    """Synonyms of the right answer that a verifier may accept besides its label and text."""
    difficulty: DifficultyTier = "unrated"
    split: str = "train"
    tags: tuple[str, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)
    answer_labels: tuple[str, ...] = ()
    """All right labels of a question that has several, ``answer_label`` among them; empty when there is one."""
    verifier: str = ""
    """Which verifier judges the answer; empty: multiple choice, or several choices when ``answer_labels`` is set."""

    def __post_init__(self) -> None:
        _check_question(self)

    @cached_property
    def id(self) -> str:
        """16 hex digits over what is asked and what is true; provenance, split and tags do not change it."""
        options = [[o.label, o.text] for o in self.options]
        content: list[object] = [self.language, self.stem, self.context, options, self.answer_label]
        if self.answer_labels or self.verifier:
            content += [self.answer_labels, self.verifier, () if self.options else self.accepted_answers]
        packed = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        return hashlib.blake2b(packed.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    @property
    def answer_text(self) -> str:
        """The text of the right option; the preferred accepted answer of a question without options."""
        if not self.options:
            return self.accepted_answers[0]
        return next(option.text for option in self.options if option.label == self.answer_label)

    @property
    def target(self) -> str:
        """What a right completion writes between the answer tags: the letter or letters, or the accepted answer."""
        return ", ".join(self.answer_labels) or self.answer_label or self.answer_text


def _check_question(question: Question) -> None:
    labels = [option.label for option in question.options]
    where = f"question {question.stem[:60]!r} from {question.source!r}"
    if not question.stem.strip():
        raise DataError(f"stem is empty in a question from {question.source!r}", remedy="give the question a text")
    if not labels and question.verifier:
        _check_open_question(question, where)
        return
    if len(labels) < 2:
        raise DataError(f"options has {len(labels)} entries in {where}", remedy="give at least two options")
    if any(not o.label.strip() or not o.text.strip() for o in question.options) or len(set(labels)) != len(labels):
        raise DataError(
            f"options {labels} of {where} are empty or repeated", remedy="give each option its own label and a text"
        )
    if question.answer_label not in labels:
        raise DataError(
            f"answer_label {question.answer_label!r} is not among the options {labels} of {where}",
            remedy="set answer_label to the label of the right option",
        )
    right = question.answer_labels
    if right and (not set(right) <= set(labels) or len(set(right)) != len(right) or question.answer_label not in right):
        raise DataError(
            f"answer_labels {right} of {where} are repeated, outside {labels} or lack {question.answer_label!r}",
            remedy="name each right option once, answer_label among them",
        )
    _check_tier(question, where)


def _check_open_question(question: Question, where: str) -> None:
    if question.answer_label or question.answer_labels:
        raise DataError(f"{where} has answer labels and no options", remedy="put its truth in accepted_answers")
    if not any(text.strip() for text in question.accepted_answers[:1]):
        raise DataError(f"accepted_answers is empty in {where}, which has no options", remedy="give it its truth")
    _check_tier(question, where)


def _check_tier(question: Question, where: str) -> None:
    if question.difficulty not in DIFFICULTY_TIERS:
        raise DataError(
            f"difficulty {question.difficulty!r} of {where} is unknown", remedy=f"use one of {DIFFICULTY_TIERS}"
        )


@dataclass(frozen=True, kw_only=True)
class VersionSpan:
    """Tokens ``start`` (included) to ``end`` (excluded) of a completion were sampled by policy ``version``."""

    start: int
    end: int
    version: int


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One sampled answer, as token ids: text is derived from them and is never tokenised again.

    Example: ``Completion(question_id="00f1", draw=3, sample_index=0, seed=17, prompt_token_ids=(5, 6),
    token_ids=(7, 2), logprobs=(-0.5, -0.1), version_spans=(VersionSpan(start=0, end=2, version=4),),
    finish_reason="stop", text="B")``

    ``logprobs`` are natural logarithms of the *processed* distribution (temperature applied), one per token id, as
    float32 values. ``finish_reason`` is "length" for a completion cut off by the token limit. ``token_ids`` holds the
    end-of-sequence token when the model emitted it.
    """

    question_id: str
    draw: int
    sample_index: int
    seed: int
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    version_spans: tuple[VersionSpan, ...]
    finish_reason: FinishReason
    text: str

    def __post_init__(self) -> None:
        covered = [index for span in self.version_spans for index in range(span.start, span.end)]
        if len(self.logprobs) != len(self.token_ids) or covered != list(range(len(self.token_ids))):
            raise DataError(
                f"completion {self.sample_index} of question {self.question_id} has {len(self.token_ids)} tokens, "
                f"{len(self.logprobs)} logprobs and version spans {self.version_spans}",
                remedy="give one log-probability and one policy version per token",
            )

    @property
    def oldest_version(self) -> int:
        """The oldest policy version that sampled any token; staleness is counted from it. -1 when there is no token."""
        return min((span.version for span in self.version_spans), default=-1)


@dataclass(frozen=True, kw_only=True)
class Group:
    """A question and its k completions, all sampled in the same draw."""

    question: Question
    draw: int
    completions: tuple[Completion, ...]

    def __post_init__(self) -> None:
        strangers = {c.question_id for c in self.completions} - {self.question.id}
        if strangers:
            raise DataError(
                f"group of question {self.question.id} holds completions of {sorted(strangers)}",
                remedy="group completions by question id",
            )


@dataclass(frozen=True, kw_only=True)
class Score:
    """What the verifier says of one completion. ``reward`` is the weighted sum of the two parts of the paper.

    Example: ``Score(correct=1.0, format=1.0, reward=1.1, reason="correct")``. ``answer`` is what was extracted.
    """

    correct: float
    format: float
    reward: float
    reason: str
    answer: str = ""


@dataclass(frozen=True, kw_only=True)
class ScoredGroup:
    """A group with one score per completion, in the order of the completions."""

    group: Group
    scores: tuple[Score, ...]
    verifier_version: str

    def __post_init__(self) -> None:
        if len(self.scores) != len(self.group.completions):
            raise DataError(
                f"group of question {self.group.question.id} has {len(self.group.completions)} completions "
                f"and {len(self.scores)} scores",
                remedy="score every completion once",
            )

    @property
    def rewards(self) -> tuple[float, ...]:
        return tuple(score.reward for score in self.scores)

    @property
    def has_signal(self) -> bool:
        """True when the rewards differ: otherwise every centred advantage is zero and the group teaches nothing."""
        return len(set(self.rewards)) > 1


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """A teacher's reasoning from a question to its true answer, for the cold start (paper, section on CoT cold start).

    Example: ``Trajectory(question_id="00f1", teacher="gpt-oss-120b", chain_of_thought="Long fingers ...", answer="A",
    attempts=2, refinements=("self-correction",), filters_passed=("answer", "length"))``.
    """

    question_id: str
    teacher: str
    chain_of_thought: str
    answer: str
    attempts: int = 1
    refinements: tuple[str, ...] = ()
    filters_passed: tuple[str, ...] = ()
