"""Settings of question synthesis."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from data.strict import StrictModel

FORM_NAMES = (
    "finding", "diagnosis", "inheritance", "gene", "gene_finding", "discriminate", "drug", "drug_vignette",
    "non_indication", "mechanism", "mechanism_vignette", "allelic", "allelic_finding", "alternative_drug", "next_test",
    "contraindication",
)  # fmt: skip
FormName = Literal[
    "finding", "diagnosis", "inheritance", "gene", "gene_finding", "discriminate", "drug", "drug_vignette",
    "non_indication", "mechanism", "mechanism_vignette", "allelic", "allelic_finding", "alternative_drug", "next_test",
    "contraindication",
]  # fmt: skip
Weight = Annotated[float, Field(ge=0)]


_DEFAULT_FORMS: dict[FormName, float] = {
    "finding": 10, "diagnosis": 19, "inheritance": 6, "gene": 13, "gene_finding": 10, "discriminate": 11, "drug": 3,
    "drug_vignette": 4, "non_indication": 2, "mechanism": 3, "mechanism_vignette": 4, "allelic": 8,
    "allelic_finding": 10, "alternative_drug": 4, "next_test": 2, "contraindication": 2,
}  # fmt: skip


class RewriterConfig(StrictModel):
    """An LLM that words stems anew, over an OpenAI-compatible endpoint; a rewrite that fails a check is dropped."""

    url: Annotated[
        str, Field(description="base address, for instance http://127.0.0.1:8000/v1; empty = no rewriting")
    ] = ""
    model: Annotated[str, Field(description="name of the model at that address")] = ""
    api_key_env: Annotated[str, Field(description="environment variable with the key; empty = none")] = ""
    timeout_s: Annotated[float, Field(gt=0, description="patience per request, seconds")] = 60.0
    temperature: Annotated[float, Field(ge=0, description="sampling temperature of the rewriter")] = 0.7
    attempts: Annotated[int, Field(ge=1, description="tries per stem before the template's wording is kept")] = 2

    @model_validator(mode="after")
    def _model_goes_with_url(self) -> Self:
        if bool(self.url) != bool(self.model):
            raise ValueError(f"url is {self.url!r} and model {self.model!r}: give both or neither")
        return self


class SynthesisConfig(StrictModel):
    """Questions from a graph. Distractors come in rings, so the number made may exceed ``questions`` by a ring."""

    graph: Annotated[str, Field(description="folder or URI of a graph (fleming graph build)")] = "~/fleming-graph"
    questions: Annotated[int, Field(ge=1, description="closed-book questions to make")] = 20_000
    temperature: Annotated[
        float, Field(gt=0, description="rare first: weight exp(rarity / temperature); large = uniform")
    ] = 0.5
    options: Annotated[int, Field(ge=3, le=10, description="options per question (inheritance has three)")] = 4
    forms: Annotated[
        dict[FormName, Weight], Field(description="share of each form, relative; a form left out is not made")
    ] = Field(default_factory=lambda: dict(_DEFAULT_FORMS))
    common_share: Annotated[
        float, Field(ge=0, le=1, description="share of the rings of a form whose first disease is a common one")
    ] = 0.45
    held_out_share: Annotated[
        float, Field(ge=0, lt=1, description="share of disease families kept out of training")
    ] = 0.1
    warm_up_share: Annotated[float, Field(ge=0, lt=1, description="share of disease families for the warm-up")] = 0.0
    open_book_share: Annotated[
        float, Field(ge=0, le=1, description="share of questions that also get a twin with the facts in its context")
    ] = 0.25
    language: Annotated[Literal["en", "zh"], Field(description="en, or zh where the graph has Chinese names")] = "en"
    workers: Annotated[int, Field(ge=0, description="processes; 0 = one per core. The bytes made are the same")] = 0
    seed: Annotated[int, Field(ge=0, description="chooses everything that is chosen")] = 0
    rewriter: RewriterConfig = RewriterConfig()

    @property
    def weights(self) -> dict[str, float]:
        """Share of each form that is asked for."""
        return {name: weight for name, weight in self.forms.items() if weight}

    @model_validator(mode="after")
    def _some_form(self) -> Self:
        if not any(self.forms.values()):
            raise ValueError("forms asks for nothing: give at least one form a weight above 0")
        if self.held_out_share + self.warm_up_share >= 1:
            raise ValueError("held_out_share and warm_up_share leave nothing to train on")
        return self
