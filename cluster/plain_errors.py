"""How an error reaches a person: one line, and the command that goes on when there is something to go on with."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator

import typer
from rich.console import Console

from data.errors import RESUMABLE, FlemingError


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
            command = shlex.join(going_on(sys.argv[1:], in_job="RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ))
            console.print(f"to go on from the last commit: {command}", markup=False, soft_wrap=True)
        raise typer.Exit(130 if interrupted else 1) from None


def going_on(words: list[str], *, in_job: bool) -> list[str]:
    """The command that goes on with a run, out of the words after ``fleming`` that started it.

    Spelt out, since the name of the run may stand in no file (`make demo` makes one up). What ran in a job was sent by
    a user who sends it again.
    """
    verb, *rest = [word for word in words if word != "--resume"]
    if verb != "run":  # `fleming resume` goes on as it is
        return ["fleming", verb, *rest]
    return ["fleming", "submit" if in_job else "run", *rest, "--resume"]


def find_known(error: BaseException | None) -> FlemingError | None:
    """The `FlemingError` in an exception, in a group of them, or behind one that crossed a Ray actor."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for inner in error.exceptions if (found := find_known(inner))), None)
    # What crossed an actor is of our class *and* of Ray's, and reads as a traceback: what was raised is in `cause`.
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return find_known(cause)
    return error if isinstance(error, FlemingError) else None
