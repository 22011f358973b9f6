"""The protocol of a verifier, and what it says.

A verifier is told the question and what stands between the answer tags. It never sees the reasoning: nothing that is
said there can earn anything. It must be pure: the same question and answer give the same verdict.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from data.records import Question

KEPT_ANSWER_CHARS = 200
"""Characters of an answer that a score keeps."""
KEPT_REASON_CHARS = 64
"""Characters of a reason that a score keeps: it is a word for counts."""


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
    if len(said.answer) > KEPT_ANSWER_CHARS or len(said.reason) > KEPT_REASON_CHARS:
        # Whoever asks the verifier must not have to hold whatever it returns.
        return replace(said, answer=said.answer[:KEPT_ANSWER_CHARS], reason=said.reason[:KEPT_REASON_CHARS])
    return said
