"""The ``fleming`` command."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.arguments import RecipeArgument, SetOption, amount, refuse_ignored
from cluster.graph import graph_app
from cluster.monitoring.commands import dashboards_app, watch
from cluster.plain_errors import plain_errors
from cluster.score import score
from cluster.serve import serve_app
from cluster.submit import jobs, logs, resume, stop, submit
from cluster.synthesize import data_app

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
app.add_typer(dashboards_app)
app.command()(watch)
for command in (submit, jobs, logs, stop, resume):
    app.command()(command)


@app.command()
def run(
    context: typer.Context,
    recipe: RecipeArgument,
    overrides: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the last commit of this run")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the resolved recipe and the plan; start nothing")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="show the logs of Ray's workers")] = False,
    gpu_memory_gib: Annotated[
        float,
        typer.Option(callback=amount, help="with --dry-run: memory of one GPU; 0 = this machine's GPUs, or its CPU"),
    ] = 0.0,
    tokens_per_second: Annotated[
        float,
        typer.Option(
            callback=amount, help="with --dry-run: completion tokens that all engines sample; 0 = as measured"
        ),
    ] = 0.0,
    learner_tokens_per_second: Annotated[
        float,
        typer.Option(
            callback=amount, help="with --dry-run: completion tokens that the learner trains on; 0 = not known"
        ),
    ] = 0.0,
) -> None:
    """Run a recipe: build its questions, warm the policy up, train it with GRPO, and say what was learned.

    Everything lands in <run.storage>/<run.name>. A run that died goes on with the same command and --resume.
    """
    from cluster.config import load_recipe

    with plain_errors():
        figures = ("--gpu-memory-gib", "--tokens-per-second", "--learner-tokens-per-second")
        refuse_ignored(context, not dry_run, "without --dry-run", *figures)
        refuse_ignored(context, dry_run, "with --dry-run", "--resume", "--verbose")
        resolved = load_recipe(recipe, overrides)
        if dry_run:
            from cluster.plan import dry_run_of

            text, refused = dry_run_of(
                resolved,
                gpu_gib=gpu_memory_gib,
                tokens_per_second=tokens_per_second,
                learner_tokens_per_second=learner_tokens_per_second,
            )
            typer.echo(text)
            if refused:
                raise refused
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


def main() -> None:
    app(prog_name="fleming")
