"""Questions without options and completions in the strict format, for the tests of the verifiers."""

from __future__ import annotations

from data.records import Question


def open_question(verifier: str, *accepted: str, source: str = "t") -> Question:
    return Question(
        source=source,
        language="en",
        stem="What?",
        options=(),
        answer_label="",
        accepted_answers=accepted,
        verifier=verifier,
    )


def answered(answer: str) -> str:
    return f"<think>because</think><answer>{answer}</answer>"
