"""The one small tree of errors that a person is meant to read.

Every error names the field or thing at fault, its value, and the remedy; the command line prints it as one line and
exits non-zero. Anything else that escapes is a defect and keeps its traceback.
"""

from __future__ import annotations


class FlemingError(Exception):
    """A problem that the user can mend.

    Example: ``FlemingError("run directory exists: runs/a", remedy="pass --resume, or another --set run.name=...")``.
    """

    def __init__(self, problem: str, *, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}. Remedy: {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default exception pickling, and errors cross Ray actors.
        return (_rebuild, (type(self), self.problem, self.remedy))


def _rebuild(kind: type[FlemingError], problem: str, remedy: str) -> FlemingError:
    return kind(problem, remedy=remedy)


RESUMABLE = "resumable"
"""A note (`BaseException.add_note`) on an error that ended a run which can be resumed."""


class ConfigError(FlemingError):
    """A recipe, an override or a combination of settings that cannot be run."""


class DataError(FlemingError):
    """A record or a source file that does not say what it must say."""


class SetupError(FlemingError):
    """Something this machine or cluster lacks."""


class RunStateError(FlemingError):
    """A run directory that cannot be started, resumed or read as asked."""


class EngineError(FlemingError):
    """A rollout engine or learner that could not start or has failed."""


class NoSignalError(FlemingError):
    """No group of rollouts carried a learning signal within the refill bound."""
