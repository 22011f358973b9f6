"""What a person sees while a run goes on: a live bar in a terminal, plain lines in a log."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SHOWN = {
    "rollout/accuracy": "accuracy",
    "rollout/format_rate": "format",
    "rollout/reward_mean": "reward",
    "learner/entropy": "entropy",
    "learner/loss": "loss",
    "loss": "loss",
    "seconds/step": "s/step",
}


class Reporter:
    """Prints stages and steps. Lines are the record; the bar is only for terminals."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def line(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, markup=False, soft_wrap=True)

    def step(self, stage: str, step: int, total: int, metrics: Mapping[str, float], *, every: int = 1) -> None:
        """Progress of a stage; in a log every ``every``-th step and the last one make a line."""
        numbers = "  ".join(f"{label} {metrics[name]:.3g}" for name, label in SHOWN.items() if name in metrics)
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage, total=total, numbers="")
        self._bar.update(self._tasks[stage], completed=step, numbers=numbers)
        if not self.console.is_terminal and (step % every == 0 or step == total):
            self.line(f"{stage} {step}/{total}  {numbers}")
