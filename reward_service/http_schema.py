"""What travels over HTTP: questions and completions in, scores or failures out."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, FailFast, Field, TypeAdapter, ValidationError, create_model, model_validator
from pydantic_core import PydanticCustomError

from data.errors import DataError
from data.records import Option, Question
from reward_service.worker import Failure, Outcome, ScoreItem

NAMED_PROBLEMS = 5
MAX_OPTIONS = 100
_NAME_CHARS = 40

# pydantic keeps half a KiB and more for each error: a small body must not be able to ask for a million of them. So a
# list ends at its first bad element, and unknown fields are one error however many there are.
Texts = Annotated[list[str], FailFast()]


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, json_schema_extra={"additionalProperties": False})

    @model_validator(mode="after")
    def _no_more(self) -> Self:
        if self.model_extra:
            names = ", ".join(name[:_NAME_CHARS] for name in list(self.model_extra)[:NAMED_PROBLEMS])
            raise PydanticCustomError("extra_forbidden", "unknown fields {names}", {"names": names})
        return self


class OptionIn(_Model):
    """One choice."""

    label: str
    text: str


class QuestionIn(_Model):
    """A question with its truth; the fields are those of `data.records.Question`."""

    stem: str
    options: Annotated[list[OptionIn], Field(max_length=MAX_OPTIONS), FailFast()] = []
    answer_label: str = ""
    answer_labels: Texts = []
    accepted_answers: Texts = []
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

    items: Annotated[list[ItemIn], Field(min_length=1), FailFast()]


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


ITEM: TypeAdapter[ItemIn] = TypeAdapter(ItemIn)


@lru_cache(maxsize=16)
def request_adapter(max_items: int) -> TypeAdapter[ItemIn | BatchIn]:
    """Reads a request of one item or at most ``max_items``; more are refused before they are read."""
    items = Annotated[list[ItemIn], Field(min_length=1, max_length=max_items), FailFast()]
    batch = create_model("BatchIn", __base__=BatchIn, __doc__=BatchIn.__doc__, items=(items, ...))
    both: Any = ItemIn | batch
    return TypeAdapter(both)


def parse(adapter: TypeAdapter[Any], body: bytes) -> Any:
    """Read a request.

    Raises:
        DataError: no JSON, or not of the form; names the fields, and never repeats what was sent.
    """
    try:
        return adapter.validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False, include_context=False)[:NAMED_PROBLEMS]
        named = "; ".join(f"{'.'.join(map(_place, p['loc'])) or 'body'}: {p['msg']}" for p in problems)
        raise DataError(named, remedy="see the request body of POST /score in /openapi.json") from None


def _place(part: str | int) -> str:
    """A part of a location; a form with a check of ours goes by the name of the form alone."""
    return str(part).removeprefix("function-after[_no_more(), ").removesuffix("]")


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


def schemas(max_items: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON schema of a request, and the components it refers to, for the OpenAPI page."""
    schema = request_adapter(max_items).json_schema(ref_template="#/components/schemas/{model}")
    components: dict[str, Any] = schema.pop("$defs")
    for model in (ResultOut, BatchOut, ProblemOut):
        said = model.model_json_schema(ref_template="#/components/schemas/{model}")
        components |= said.pop("$defs", {})
        components[model.__name__] = said
    return schema, components
