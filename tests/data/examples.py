"""Plain example records for tests."""

from __future__ import annotations

from data.records import Completion, FinishReason, Group, Option, Question, VersionSpan

MARFAN = Question(
    source="hpo",
    language="en",
    stem="Which finding belongs to Marfan syndrome?",
    options=(
        Option(label="A", text="Cataplexy"),
        Option(label="B", text="Arachnodactyly"),
        Option(label="C", text="Type A behaviour"),
        Option(label="D", text="β-cell failure"),
    ),
    answer_label="B",
    accepted_answers=("Spider fingers",),
)


def completion(text: str, *, question: Question = MARFAN, index: int = 0, finish: FinishReason = "stop") -> Completion:
    """A completion of three tokens with this text."""
    return Completion(
        question_id=question.id,
        draw=0,
        sample_index=index,
        seed=17,
        prompt_token_ids=(5, 6),
        token_ids=(7, 8, 2),
        logprobs=(-0.5, -0.25, -0.125),
        version_spans=(VersionSpan(start=0, end=3, version=4),),
        finish_reason=finish,
        text=text,
    )


def group(*texts: str, question: Question = MARFAN) -> Group:
    """A group with one completion per text."""
    made = tuple(completion(text, question=question, index=i) for i, text in enumerate(texts))
    return Group(question=question, draw=0, completions=made)
