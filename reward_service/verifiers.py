"""The protocol of a verifier, what it says, and how the right one is found for a question.

A verifier is told the question and what stands between the answer tags. It never sees the reasoning: nothing that is
said there can earn anything. It must be pure: the same question and answer give the same verdict.

Which one judges is the question's ``verifier``, or multiple choice. A recipe may give a source another one, and add its
own under a name of its own (``rewards.user_verifiers``). Code is only ever imported on the word of the recipe: a data
file or an HTTP request can choose among the names, and no more.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

from data.errors import ConfigError, DataError
from data.records import Question
from reward_service.choices import choose, choose_several
from reward_service.config import RewardConfig
from reward_service.normal import normal
from reward_service.quantities import judge_quantity

ENTRY_POINTS = "fleming.verifiers"
"""The entry-point group in which an installed package offers verifiers."""

KEPT_ANSWER_CHARS = 200


class VerificationError(Exception):
    """A verifier gave no verdict: it raised, was unreachable, or said something that is none. Never a score of 0."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a verifier says of one answer.

    ``readable``: the answer has the form that was asked for. An answer that has not (a hedge, no option) also loses the
    format's part of the reward. ``reason``: one word for counts. ``answer``: what was understood.

    Example: ``Verdict(correct=False, reason="wrong", answer="C")``.
    """

    correct: bool
    reason: str
    answer: str = ""
    readable: bool = True


@runtime_checkable
class Verifier(Protocol):
    """Judges the answers to one kind of question. ``version`` changes whenever a verdict could.

    Any object with these will do; a plain function ``(Question, str) -> Verdict | bool`` is wrapped.
    """

    version: str

    def verify(self, question: Question, answer: str) -> Verdict:
        """Judge ``answer``: what stands between the answer tags, stripped and not empty.

        Whatever it raises is a failed verification: retried, then reported, never a score.
        """
        ...


def _unreadable(reason: str, answer: str) -> Verdict:
    return Verdict(correct=False, reason=reason, answer=answer[:KEPT_ANSWER_CHARS], readable=False)


def _judged(correct: bool, answer: str) -> Verdict:
    return Verdict(correct=correct, reason="correct" if correct else "wrong", answer=answer)


class ChoiceVerifier:
    """Multiple choice with one right option, 2 to 26 of them (`reward_service/choices.py`)."""

    version = "mcq-strict/2"

    def verify(self, question: Question, answer: str) -> Verdict:
        choice = choose(answer, question)
        if choice.reason != "ok":
            return _unreadable(choice.reason, answer)
        return _judged(choice.label == question.answer_label, choice.label)


class SeveralVerifier:
    """Multiple choice with several right options: exactly this set, in any order. No credit for a part of it."""

    version = "several-strict/1"

    def verify(self, question: Question, answer: str) -> Verdict:
        choice = choose_several(answer, question)
        if choice.reason != "ok":
            return _unreadable(choice.reason, answer)
        return _judged(
            set(choice.labels) == set(question.answer_labels or (question.answer_label,)), ", ".join(choice.labels)
        )


class YesNoMaybeVerifier:
    """ "yes", "no" or "maybe", one of them (PubMedQA). With options, their letters do as well."""

    version = "yes-no-maybe/1"

    def verify(self, question: Question, answer: str) -> Verdict:
        if question.options:
            return ChoiceVerifier().verify(question, answer)
        true = normal(question.answer_text)
        if true not in ("yes", "no", "maybe"):  # otherwise every completion would be wrong
            raise DataError(
                f"the accepted answer {question.answer_text[:80]!r} is not yes, no or maybe", remedy="write one of them"
            )
        if len(answer) > KEPT_ANSWER_CHARS:
            return _unreadable("not_an_option", answer)
        said = normal(answer)
        if said not in ("yes", "no", "maybe"):
            words = set("".join(c if c.isalnum() else " " for c in said).split())
            return _unreadable("hedged" if len(words & {"yes", "no", "maybe"}) > 1 else "not_an_option", answer)
        return _judged(said == true, said)


@lru_cache(maxsize=4096)
def _accepted(truths: tuple[str, ...]) -> frozenset[str]:
    return frozenset(normal(truth) for truth in truths) - {""}


class TextVerifier:
    """Free text: exactly one of the accepted answers that travel in the question, case and white space apart."""

    version = "text-exact/1"

    def verify(self, question: Question, answer: str) -> Verdict:
        truths = (question.answer_text, *question.accepted_answers)
        accepted = _accepted(truths)
        if not accepted:
            raise DataError(
                f"the accepted answers {truths!r:.80} say nothing once normalised",
                remedy="give a text with a word in it",
            )
        if len(answer) > 2 * max(len(truth) for truth in truths) + 64:
            return _judged(False, answer[:KEPT_ANSWER_CHARS])
        return _judged(normal(answer) in accepted, answer[:KEPT_ANSWER_CHARS])


class NumberVerifier:
    """A number with its unit, converted and compared within a tolerance (`reward_service/quantities.py`)."""

    version = "number-pint/2"

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance

    def verify(self, question: Question, answer: str) -> Verdict:
        judged = judge_quantity(answer, question.answer_text, self._tolerance)
        if judged.reason in ("correct", "wrong"):
            return _judged(judged.reason == "correct", judged.answer)
        return _unreadable(judged.reason, answer)


class FunctionVerifier:
    """A plain function as a verifier; its answer must be a `Verdict` or a bool."""

    def __init__(self, function: Callable[[Question, str], object], name: str) -> None:
        self._function = function
        self.version = str(getattr(function, "version", f"{name}/unversioned"))

    def verify(self, question: Question, answer: str) -> Verdict:
        said = self._function(question, answer)
        if isinstance(said, bool):
            return _judged(said, answer[:KEPT_ANSWER_CHARS])
        return said  # type: ignore[return-value]  # `judge` refuses what is no verdict


def judge(verifier: Verifier, question: Question, answer: str) -> Verdict:
    """Ask a verifier and hold it to its protocol.

    Raises:
        VerificationError: it raised, or what it said is no verdict (a number, NaN, None ...).
    """
    try:
        said: object = verifier.verify(question, answer)
    except (VerificationError, MemoryError):
        raise
    except Exception as error:
        raise VerificationError(f"{type(error).__name__}: {str(error)[:200]}") from error
    if not isinstance(said, Verdict):
        raise VerificationError(f"the verifier said {said!r:.80}, which is no Verdict")
    if not isinstance(said.correct, bool) or not isinstance(said.readable, bool):
        number = said.correct if isinstance(said.correct, float) else math.nan
        what = "NaN" if math.isnan(number) else repr(said.correct)[:80]
        raise VerificationError(
            f"the verifier said correct = {what}, readable = {said.readable!r:.20}: both must be bool"
        )
    if not isinstance(said.reason, str) or not isinstance(said.answer, str):
        raise VerificationError("the verifier gave a reason or answer that is no text")
    if said.correct and not said.readable:
        raise VerificationError("the verifier called an unreadable answer correct")
    return said


@lru_cache(maxsize=64)
def _build(name: str, fingerprint: str) -> Verifier:
    config = RewardConfig.model_validate_json(fingerprint)
    if name in config.user_verifiers:
        return load_verifier(config.user_verifiers[name], name)
    if name == "judge":
        if config.judge is None:
            raise ConfigError(
                "a question asks for the judge and rewards.judge is not set", remedy="set rewards.judge.url"
            )
        from reward_service.judge import JudgeVerifier  # brings an HTTP client that nothing else needs

        return JudgeVerifier(config.judge)
    builtin: dict[str, Callable[[], Verifier]] = {
        "choice": ChoiceVerifier,
        "several": SeveralVerifier,
        "yes_no_maybe": YesNoMaybeVerifier,
        "text": TextVerifier,
        "number": lambda: NumberVerifier(config.number_tolerance),
    }
    if name not in builtin:
        known = sorted([*builtin, "judge", *config.user_verifiers])
        raise DataError(
            f"verifier {name!r} is unknown", remedy=f"use one of {known}, or name it in rewards.user_verifiers"
        )
    return builtin[name]()


def verifier_for(question: Question, config: RewardConfig) -> Verifier:
    """The verifier of a question: the recipe's for its source, the question's own, or multiple choice.

    Raises:
        ConfigError: a user verifier cannot be imported, or the judge has no settings.
        DataError: the question names no known verifier, or one that needs options and it has none.
    """
    name = config.verifier_by_source.get(question.source) or question.verifier
    name = name or ("several" if question.answer_labels else "choice")
    if not question.options and name in ("choice", "several"):
        raise DataError(f"question {question.id} has no options for verifier {name!r}", remedy="use text or number")
    return _build(name, config.fingerprint)


def load_verifier(target: str, name: str) -> Verifier:
    """Import ``module:function`` (a function, a class or an object), or the entry point of that name.

    Raises:
        ConfigError: nothing of this name can be imported.
    """
    try:
        if ":" in target:
            module, _, attribute = target.partition(":")
            found: object = getattr(importlib.import_module(module), attribute)
        else:
            (entry,) = importlib.metadata.entry_points(group=ENTRY_POINTS, name=target)
            found = entry.load()
        if isinstance(found, type):
            found = found()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError(
            f"rewards.user_verifiers[{name!r}] = {target!r} cannot be loaded ({str(error)[:120]})",
            remedy=f"name an importable module:function, or an entry point in the group {ENTRY_POINTS}",
        ) from error
    if isinstance(found, Verifier):
        return found
    if callable(found):
        return FunctionVerifier(found, name)
    raise ConfigError(
        f"rewards.user_verifiers[{name!r}] = {target!r} is no verifier",
        remedy="give it verify(question, answer) and version",
    )
