"""The ``fleming`` command."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster.graph import graph_app
from cluster.score import score
from cluster.serve import serve_app
from cluster.synthesize import data_app
from data.errors import RESUMABLE, FlemingError

app = typer.Typer(
    name="fleming",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train a medical reasoning model with verifiable rewards.\n\n"
    "Start with `fleming doctor`, then `fleming run recipes/quickstart.yaml`.",
)

app.add_typer(graph_app)

app.command()(score)
app.add_typer(serve_app)
app.add_typer(data_app)

RecipeArgument = Annotated[
    Path, typer.Argument(help="a recipe, for instance recipes/quickstart.yaml", show_default=False)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="override one key, for instance --set loop.steps=20 (repeat as needed)"
    ),
]


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the last commit of this run")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the resolved recipe and the plan; start nothing")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="show the logs of Ray's workers")] = False,
) -> None:
    """Run a recipe: build its questions, warm the policy up, train it with GRPO, and say what was learned.

    Everything lands in <run.storage>/<run.name>. A run that died goes on with the same command and --resume.
    """
    from cluster.config import load_recipe

    with plain_errors():
        resolved = load_recipe(recipe, overrides)
        if dry_run:
            from cluster.plan import describe

            typer.echo(describe(resolved))
            return
        from cluster.pipeline import run_recipe

        run_recipe(resolved, resume=resume, verbose=verbose)


@app.command()
def doctor() -> None:
    """Say in plain words what this machine lacks to run Fleming, and how to mend it."""
    from cluster.doctor import exit_code, render, run_checks

    checks = run_checks()
    render(checks)
    raise typer.Exit(exit_code(checks))


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Print a `FlemingError` as one line and exit with 1; an interrupt exits with 130; anything else is a defect."""
    console = Console(stderr=True, highlight=False)
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        known = find_known(error)
        interrupted = isinstance(error, KeyboardInterrupt)
        if known is None and not interrupted:
            raise
        console.print("interrupted" if interrupted else f"error: {known}", markup=False, soft_wrap=True)
        if RESUMABLE in getattr(error, "__notes__", ()):
            # Spelt out, since the name of the run may stand in no file (`make demo` makes one up).
            words = ["fleming", *(word for word in sys.argv[1:] if word != "--resume"), "--resume"]
            console.print(f"to go on from the last commit: {shlex.join(words)}", markup=False, soft_wrap=True)
        raise typer.Exit(130 if interrupted else 1) from None


def find_known(error: BaseException | None) -> FlemingError | None:
    """The `FlemingError` in an exception, in a group of them, or behind one that crossed a Ray actor."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for inner in error.exceptions if (found := find_known(inner))), None)
    # What crossed an actor is of our class *and* of Ray's, and reads as a traceback: what was raised is in `cause`.
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return find_known(cause)
    return error if isinstance(error, FlemingError) else None


def main() -> None:
    app(prog_name="fleming")
