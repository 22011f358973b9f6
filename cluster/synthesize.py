"""The fleming data commands: questions from a graph, one traced to the rows it rests on, the questions of a recipe."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cluster.plain_errors import plain_errors

if TYPE_CHECKING:
    from data.synthesis.config import SynthesisConfig
    from data.synthesis.explain import Evidence, Explanation
    from data.synthesis.store import Traced

data_app = typer.Typer(
    name="data",
    no_args_is_help=True,
    help="Questions from sources and from the graph. Start with: fleming graph build; fleming data synthesize",
)
DEFAULT = "~/fleming-questions"


@data_app.command()
def synthesize(
    graph: Annotated[str, typer.Option("--graph", help="folder or URI of the graph")] = "~/fleming-graph",
    out: Annotated[str, typer.Option("--out", help="folder or URI for the questions")] = DEFAULT,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="a setting, for instance --set questions=5000 (repeat as needed)"
        ),
    ] = None,
) -> None:
    """Make questions from a graph, rare diseases first. docs/synthesis.md explains forms and settings."""
    started = time.monotonic()
    with plain_errors():
        config = _config(graph, overrides or [])
        from data.synthesis.run import synthesize as make
        from data.synthesis.store import require_writable, write

        require_writable(out)
        made, report = make(config)
        write(made, report, out)
    console = Console(highlight=False)
    _print_report(console, report)
    if report["questions"] < config.questions:
        said = f"note: {config.questions:,} questions were asked for; this graph gives no more with these settings"
        console.print(said, markup=False, soft_wrap=True)
    console.print(
        f"written to {out} in {time.monotonic() - started:.0f} s; trace one: fleming data show ID", soft_wrap=True
    )


@data_app.command()
def show(
    question: Annotated[str, typer.Argument(help="identifier of a question, or its beginning", show_default=False)],
    questions: Annotated[
        str, typer.Option("--questions", help="folder or URI made by fleming data synthesize")
    ] = DEFAULT,
) -> None:
    """A question, why its answer is right and the others wrong, and the rows of the source files that say so."""
    with plain_errors():
        from data.synthesis.store import find

        traced = find(questions, question)
    _print_question(Console(highlight=False), traced)


@data_app.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="a recipe; its data.questions say what to build", show_default=False)],
    out: Annotated[str, typer.Option("--out", help="folder or URI for questions.parquet")] = DEFAULT,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="override one key of the recipe (repeat as needed)"),
    ] = None,
) -> None:
    """Build the questions of a recipe once, as a run would, for many runs to read (data.questions.source: parquet)."""
    from cluster.config import load_recipe
    from data.build import build_questions

    with plain_errors():
        splits = build_questions(load_recipe(recipe, overrides).data.questions, out)
    place = f"{out.rstrip('/')}/questions.parquet"
    said = ", ".join(f"{split} {len(getattr(splits, split)):,}" for split in ("train", "held_out", "warm_up"))
    console = Console(highlight=False)
    console.print(f"questions by split: {said}", markup=False, soft_wrap=True)
    if splits.left_out:
        console.print(f"rows left out: {splits.left_out}", markup=False, soft_wrap=True)
    console.print(f"written to {place}; in a recipe: data.questions: {{source: parquet, path: {place}}}",
                  markup=False, soft_wrap=True)  # fmt: skip


def _config(graph: str, overrides: list[str]) -> SynthesisConfig:
    from cluster.config import apply_override, validate
    from data.synthesis.config import SynthesisConfig

    values: dict[str, Any] = {"graph": graph}
    for override in overrides:
        apply_override(values, override)
    return validate(SynthesisConfig, values, origin="--set")


def _print_report(console: Console, report: dict[str, Any]) -> None:
    table = Table("form", "hops", "rare", "common", "unrated", "all", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for form, row in report["forms"].items():
        bands = [row[band] for band in ("rare", "common", "unrated")]
        table.add_row(form, str(row["hops"]), *(f"{n:,}" for n in bands), f"{sum(bands):,}")
    bands = list(report["bands"].values())
    table.add_row("all", f"{report['mean_hops']:.2f}", *(f"{n:,}" for n in bands), f"{sum(bands):,}", style="bold")
    console.print(table)
    console.print(
        f"{report['questions']:,} questions on {report['diseases']:,} diseases ({report['rare_diseases']:,} rare), "
        f"{report['drug_questions']:,} about drugs, and {report['twins']:,} open-book twins; splits {report['splits']}",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    for name, row in report["coverage"].items():
        said = f"{row['diseases']:,} diseases, {row['rare_diseases']:,} rare, of {row['anchors']:,} anchors"
        console.print(f"  {name.replace('_', ' ')}: {said}", markup=False)
    if "rewrites" in report:
        console.print(f"rewrites: {report['rewrites']}", markup=False)


def _print_question(console: Console, traced: Traced) -> None:
    question, why = traced.question, traced.explanation
    console.print(f"{question.id}  {', '.join(question.tags)}  split {question.split}", style="bold", markup=False)
    for text in (question.context, question.stem):
        if text:
            console.print(text, markup=False)
    for option in question.options:
        mark = "*" if option.label == question.answer_label else " "
        console.print(f"  {mark} {option.label}  {option.text}", markup=False)
    console.print(
        f"{why.form}, {why.hops} hops; disease {why.disease} ({why.band}); hidden: {', '.join(why.hidden)}",
        markup=False,
    )
    console.print("The answer rests on", style="bold")
    _print_evidence(console, why.path)
    _print_reasons(console, why)


def _print_reasons(console: Console, why: Explanation) -> None:
    for reason in why.reasons:
        console.print(
            f"Not {reason.label} ({reason.name}, {reason.node}): {'; '.join(reason.because)}",
            style="bold",
            markup=False,
        )
        for detail in reason.detail:
            console.print(f"  {detail}", markup=False)
        _print_evidence(console, reason.evidence)


def _print_evidence(console: Console, rows: tuple[Evidence, ...]) -> None:
    for row in rows:
        share = "" if row.share is None else f", {row.share:.0%} of patients"
        said = f"{row.subject} {'NOT ' if row.negated else ''}{row.predicate.replace('_', ' ')} {row.object}{share}"
        where = f"{row.source} {row.version}: {row.file} line {row.row}"
        console.print(
            f"  {said}  [{'; '.join(part for part in (where, row.reference) if part)}]", markup=False, soft_wrap=True
        )
