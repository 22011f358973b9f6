"""The fleming data commands of synthesis: make questions from a graph, and trace one back to the rows it rests on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from data.errors import ConfigError, FlemingError

if TYPE_CHECKING:
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
    try:
        config = _config(graph, overrides or [])
        from data.synthesis.run import synthesize as make
        from data.synthesis.store import write

        made, report = make(config)
        write(made, report, out)
    except FlemingError as error:
        _fail(error)
    console = Console(highlight=False)
    _print_report(console, report)
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
    try:
        from data.synthesis.store import find

        traced = find(questions, question)
    except FlemingError as error:
        _fail(error)
    _print_question(Console(highlight=False), traced)


def _fail(error: FlemingError) -> Any:
    Console(stderr=True, highlight=False).print(f"error: {error}", markup=False, soft_wrap=True)
    raise typer.Exit(1) from None


def _config(graph: str, overrides: list[str]) -> Any:
    import yaml
    from pydantic import ValidationError

    from data.synthesis.config import SynthesisConfig

    values: dict[str, Any] = {"graph": graph}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text!r} has no '='", remedy="write --set KEY=VALUE")
        place = values
        *outer, last = key.split(".")
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = yaml.safe_load(value)
    try:
        return SynthesisConfig.model_validate(values)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"--set: {said}", remedy="see docs/synthesis.md for the settings") from None


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
