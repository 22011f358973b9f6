"""The verifier of a question: the recipe's for its source, the question's own, or multiple choice.

A recipe may give a source another verifier, and add its own under a name of its own (``rewards.user_verifiers``). Code
is only ever imported on the word of the recipe: a data file or an HTTP request can choose among the names, and no more.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from functools import lru_cache

from data.errors import ConfigError, DataError
from data.records import Question
from reward_service.config import RewardConfig
from reward_service.verdict import KEPT_ANSWER_CHARS, Verdict, Verifier
from reward_service.verifiers import (
    ChoiceVerifier,
    NumberVerifier,
    SeveralVerifier,
    TextVerifier,
    YesNoMaybeVerifier,
    judged,
)

ENTRY_POINTS = "fleming.verifiers"
"""The entry-point group in which an installed package offers verifiers."""


class FunctionVerifier:
    """A plain function as a verifier; its answer must be a `Verdict` or a bool."""

    def __init__(self, function: Callable[[Question, str], object], name: str) -> None:
        self._function = function
        self.version = str(getattr(function, "version", f"{name}/unversioned"))

    def verify(self, question: Question, answer: str) -> Verdict:
        said = self._function(question, answer)
        if isinstance(said, bool):
            return judged(said, answer[:KEPT_ANSWER_CHARS])
        return said  # type: ignore[return-value]  # `judge` refuses what is no verdict


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
