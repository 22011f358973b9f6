"""Hypothesis strategies for records, shared by the tests of several rooms."""

from __future__ import annotations

from hypothesis import strategies as st

from data.records import (
    DIFFICULTY_TIERS,
    FINISH_REASONS,
    Completion,
    Group,
    Option,
    Provenance,
    Question,
    Score,
    ScoredGroup,
    Trajectory,
    VersionSpan,
)

# Everything but surrogates: NUL, combining marks, right-to-left marks and astral planes included.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FILLED = TEXT.filter(lambda text: bool(text.strip()))
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)
FLOAT64 = st.floats(allow_nan=False)

provenances = st.builds(
    Provenance,
    dataset=TEXT,
    dataset_version=TEXT,
    row=TEXT,
    graph=TEXT,
    path=TEXTS,
    masked=TEXTS,
    generator_version=TEXT,
)


@st.composite
def questions(draw: st.DrawFn) -> Question:
    if draw(st.booleans()) and draw(st.booleans()):
        return draw(open_questions())
    labels = draw(st.lists(FILLED, min_size=2, max_size=5, unique=True))
    answer = draw(st.sampled_from(labels))
    several = draw(st.just(()) | st.sets(st.sampled_from(labels)).map(lambda more: tuple(sorted({answer, *more}))))
    return Question(
        source=draw(TEXT),
        language=draw(TEXT),
        stem=draw(FILLED),
        options=tuple(Option(label=label, text=draw(FILLED)) for label in labels),
        answer_label=answer,
        answer_labels=several,
        context=draw(TEXT),
        accepted_answers=draw(TEXTS),
        difficulty=draw(st.sampled_from(DIFFICULTY_TIERS)),
        split=draw(TEXT),
        tags=draw(TEXTS),
        provenance=draw(provenances),
    )


@st.composite
def open_questions(draw: st.DrawFn) -> Question:
    return Question(
        source=draw(TEXT),
        language=draw(TEXT),
        stem=draw(FILLED),
        options=(),
        answer_label="",
        accepted_answers=(draw(FILLED), *draw(TEXTS)),
        verifier=draw(FILLED),
    )


@st.composite
def completions(draw: st.DrawFn, question_id: str | None = None) -> Completion:
    token_ids = draw(st.lists(INT32, max_size=6))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(token_ids) - 1)), max_size=2)))
    edges = [0, *(cut for cut in cuts if cut < len(token_ids)), len(token_ids)] if token_ids else [0]
    return Completion(
        question_id=draw(TEXT) if question_id is None else question_id,
        draw=draw(INT64),
        sample_index=draw(INT32),
        seed=draw(INT64),
        prompt_token_ids=tuple(draw(st.lists(INT32, max_size=6))),
        token_ids=tuple(token_ids),
        logprobs=tuple(draw(FLOAT32) for _ in token_ids),
        version_spans=tuple(
            VersionSpan(start=a, end=b, version=draw(INT64)) for a, b in zip(edges, edges[1:], strict=False)
        ),
        finish_reason=draw(st.sampled_from(FINISH_REASONS)),
        text=draw(TEXT),
    )


scores = st.builds(Score, correct=FLOAT64, format=FLOAT64, reward=FLOAT64, reason=TEXT, answer=TEXT)


@st.composite
def groups(draw: st.DrawFn) -> Group:
    question = draw(questions())
    return Group(
        question=question, draw=draw(INT64), completions=tuple(draw(st.lists(completions(question.id), max_size=3)))
    )


@st.composite
def scored_groups(draw: st.DrawFn) -> ScoredGroup:
    group = draw(groups())
    return ScoredGroup(group=group, scores=tuple(draw(scores) for _ in group.completions), verifier_version=draw(TEXT))


trajectories = st.builds(
    Trajectory,
    question_id=TEXT,
    teacher=TEXT,
    chain_of_thought=TEXT,
    answer=TEXT,
    attempts=INT32,
    refinements=TEXTS,
    filters_passed=TEXTS,
)
