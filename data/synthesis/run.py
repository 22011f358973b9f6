"""From settings to questions: load the graph, generate, rewrite where asked, report."""

from __future__ import annotations

from typing import Any

from data.errors import DataError
from data.graph.queries import KnowledgeGraph
from data.sources.hpo import QuestionSplits
from data.synthesis.compose import Made
from data.synthesis.config import SynthesisConfig
from data.synthesis.generate import generate, prepare
from data.synthesis.report import report_of
from data.synthesis.rewriter import EndpointRewriter, rewrite


def synthesize(config: SynthesisConfig) -> tuple[list[Made], dict[str, Any]]:
    """Questions with explanations, and the report on them.

    Raises:
        DataError: there is no graph, it gives no question, or the rewriter does not answer.
    """
    plan = prepare(KnowledgeGraph.load(config.graph), config)
    made = generate(plan)
    report = report_of(plan, made)
    if config.rewriter.url:
        made, report["rewrites"] = rewrite(
            made, EndpointRewriter(config.rewriter), attempts=config.rewriter.attempts, seed=config.seed
        )
    return made, report


def synthesis_splits(config: SynthesisConfig) -> QuestionSplits:
    """The questions of a recipe, by split, in the order of their identifiers.

    Raises:
        DataError: see `synthesize`; or there is nothing to train on.
    """
    questions = sorted((one.question for one in synthesize(config)[0]), key=lambda q: q.id)
    splits = QuestionSplits.of(questions)
    if not splits.train:
        raise DataError(
            f"synthesis from {config.graph} gave no question to train on",
            remedy="raise data.questions.synthesis.questions, or build a graph of more sources",
        )
    return splits
