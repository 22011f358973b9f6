"""What travels over HTTP: questions and completions in, scores or failures out."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from data.errors import DataError
from data.records import Option, Question
from reward_service.worker import Failure, Outcome, ScoreItem

NAMED_PROBLEMS = 5


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OptionIn(_Model):
    """One choice."""

    label: str
    text: str


class QuestionIn(_Model):
    """A question with its truth; the fields are those of `data.records.Question`."""

    stem: str
    options: list[OptionIn] = []
    answer_label: str = ""
    answer_labels: list[str] = []
    accepted_answers: list[str] = []
    context: str = ""
    verifier: Annotated[
        str, Field(description="choice, several, yes_no_maybe, number, text, or one that the server names")
    ] = ""
    source: str = ""
    language: str = ""

    def record(self) -> Question:
        """The record. Raises `DataError` when it is no question."""
        return Question(
            stem=self.stem,
            options=tuple(Option(label=option.label, text=option.text) for option in self.options),
            answer_label=self.answer_label,
            answer_labels=tuple(self.answer_labels),
            accepted_answers=tuple(self.accepted_answers),
            context=self.context,
            verifier=self.verifier,
            source=self.source,
            language=self.language,
        )


class ItemIn(_Model):
    """One completion to judge. ``finished`` is false when the token limit cut it."""

    question: QuestionIn
    text: str
    finished: bool = True

    def item(self) -> ScoreItem:
        return ScoreItem(question=self.question.record(), text=self.text, finished=self.finished)


class BatchIn(_Model):
    """Several completions."""

    items: Annotated[list[ItemIn], Field(min_length=1)]


class FailureOut(_Model):
    """Why there is no score."""

    kind: str
    detail: str
    attempts: int


class ResultOut(_Model):
    """A score with its parts, or a failure and no numbers: a failed verification is never a reward of 0."""

    reward: float | None = None
    correct: float | None = None
    format: float | None = None
    reason: str | None = None
    answer: str | None = None
    verifier_version: str | None = None
    failure: FailureOut | None = None


class BatchOut(_Model):
    """One result per item, in order."""

    results: list[ResultOut]


class ProblemOut(_Model):
    """What is wrong with a request, and the remedy."""

    problem: str
    remedy: str
    request_id: str = ""


REQUEST: TypeAdapter[ItemIn | BatchIn] = TypeAdapter(ItemIn | BatchIn)
ITEM: TypeAdapter[ItemIn] = TypeAdapter(ItemIn)


def parse(adapter: TypeAdapter[Any], body: bytes) -> Any:
    """Read a request.

    Raises:
        DataError: no JSON, or not of the form; names the fields, and never repeats what was sent.
    """
    try:
        return adapter.validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False, include_context=False)[:NAMED_PROBLEMS]
        named = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'body'}: {p['msg']}" for p in problems)
        raise DataError(named, remedy="see the request body of POST /score in /openapi.json") from None


def result_of(outcome: Outcome) -> ResultOut:
    """An outcome as it is sent."""
    if isinstance(outcome, Failure):
        return ResultOut(failure=FailureOut(kind=outcome.kind, detail=outcome.detail, attempts=outcome.attempts))
    score = outcome.score
    return ResultOut(
        reward=score.reward,
        correct=score.correct,
        format=score.format,
        reason=score.reason,
        answer=score.answer,
        verifier_version=outcome.verifier_version,
    )


def dump(model: BaseModel) -> bytes:
    """JSON in ASCII: lone surrogates and other marks of an answer survive any client."""
    return json.dumps(model.model_dump(), ensure_ascii=True, separators=(",", ":")).encode("ascii")


def schemas() -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON schema of a request, and the components it refers to, for the OpenAPI page."""
    schema = REQUEST.json_schema(ref_template="#/components/schemas/{model}")
    components: dict[str, Any] = schema.pop("$defs")
    for model in (ResultOut, BatchOut, ProblemOut):
        said = model.model_json_schema(ref_template="#/components/schemas/{model}")
        components |= said.pop("$defs", {})
        components[model.__name__] = said
    return schema, components
