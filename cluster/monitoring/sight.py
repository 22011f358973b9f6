"""What can be seen of a run: its stage, numbers, actors, completions and events, read from its run directory.

Nothing of the run is changed, and nothing in it is trusted: what a policy wrote, and any file that somebody else may
have written, can hold escape sequences, be huge or be damaged. `plain` is the only way of a text to a terminal.
"""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.monitoring.catalogue import STAGES
from cluster.monitoring.pulse import LIVE
from data.errors import FlemingError, RunStateError
from data.storage import Storage

MAX_SEGMENT_BYTES = 1 << 20
MAX_TRAJECTORY_BYTES = 64 << 20
MAX_TEXT = 240
MAX_NAME = 60
MAX_NUMBER = 1e100
"""Larger ones are damage; sums and squares of those below stay finite."""
SHOWN_COMPLETIONS = 4
SHOWN_EVENTS = 6
SHOWN_REFUSALS = 3
SILENT_S = 60.0
"""A run that said nothing for so long is called silent."""


@dataclass(frozen=True, kw_only=True)
class ActorSeen:
    """An actor by its name in the run, such as ``rollout-0``, and its state as Ray says it."""

    name: str
    state: str


@dataclass(frozen=True, kw_only=True)
class CompletionSeen:
    reward: float
    reason: str
    fate: str
    text: str


@dataclass(frozen=True, kw_only=True)
class EventSeen:
    """``clock`` is the time of day, UTC."""

    clock: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Sight:
    """A run at one moment. Every text in it has been through `plain`.

    ``age_s``: seconds since the run last said that it lives; None when it never did. ``rows``: the numbers of every
    step so far, oldest first, committed or not. ``figures``: what is under way, by key of the catalogue.
    """

    run: str
    where: str
    age_s: float | None
    rows: tuple[Mapping[str, float], ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    actors: tuple[ActorSeen, ...] = ()
    completions: tuple[CompletionSeen, ...] = ()
    events: tuple[EventSeen, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def stage(self) -> str:
        return self._labelled("loop/stage") or STAGES[0]

    @property
    def phase(self) -> str:
        return self._labelled("loop/phase")

    @property
    def state(self) -> str:
        """In a word: finished, live, silent, or not started."""
        if self.stage == "finished":
            return "finished"
        if self.age_s is None:
            return "not started"
        return "live" if self.age_s < SILENT_S else "silent"

    def under(self, name: str) -> dict[str, float]:
        """Values of a labelled metric by label."""
        return {key.removeprefix(name + "/"): v for key, v in self.figures.items() if key.startswith(name + "/")}

    def _labelled(self, name: str) -> str:
        return next((label for label, value in self.under(name).items() if value == 1.0), "")


def plain(text: object, limit: int = MAX_TEXT) -> str:
    """One line of at most ``limit`` characters that a terminal only prints.

    Controls, escapes, bidirectional overrides and whatever else has no shape are dropped; white space becomes a space.
    """
    words = str(text)[: 8 * limit].split()
    line = " ".join("".join(char for char in word if unicodedata.category(char)[0] != "C") for word in words)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def numbers(row: object) -> dict[str, float]:
    """The entries of a mapping that are finite numbers."""
    if not isinstance(row, dict):
        return {}
    return {
        plain(key, MAX_NAME): float(value)
        for key, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER
    }


class RunReader:
    """Looks at one run directory again and again; segments never change, so each is read once."""

    def __init__(self, storage: Storage) -> None:
        """
        Raises:
            RunStateError: there is no run.
        """
        if not storage.exists("run.yaml"):
            raise RunStateError(
                f"there is no run at {storage.uri}",
                remedy="give the folder of a run (<run.storage>/<run.name>), a URI, or the address of Ray's dashboard",
            )
        self._storage = storage
        self._segments: dict[str, Any] = {}
        self._refused: dict[str, str] = {}
        self._shown: tuple[str, tuple[CompletionSeen, ...]] = ("", ())

    def look(self) -> Sight:
        live = self._json(LIVE)
        files = self._storage.list("segments")
        notes: list[str] = []
        return Sight(
            run=plain(live.get("run", self._storage.root.rpartition("/")[2]), MAX_NAME),
            where=plain(self._storage.uri),
            age_s=_age(live.get("time")),
            rows=self._rows(files),
            figures=numbers(live.get("figures")),
            completions=self._completions(notes),
            events=tuple(_event(self._segment(file)) for file in _newest_events(files)),
            notes=(*notes, *self._refusals()),
        )

    def _rows(self, files: Iterable[str]) -> tuple[Mapping[str, float], ...]:
        """One row per step: that of the newest attempt, since older ones of the same step were rolled back."""
        newest = {file.partition(".")[0]: file for file in sorted(files) if file.startswith("step-")}
        return tuple(numbers(self._segment(file)) for _, file in sorted(newest.items()))

    def _segment(self, file: str) -> dict[str, Any]:
        if file not in self._segments:
            self._segments[file] = self._json(f"segments/{file}")
        found: dict[str, Any] = self._segments[file]
        return found

    def _json(self, key: str) -> dict[str, Any]:
        """A JSON object; empty when it is missing, and when it is refused, which is noted."""
        self._refused.pop(key, None)
        try:
            found = json.loads(self._storage.read_bounded(key, MAX_SEGMENT_BYTES))
        except (ValueError, RecursionError):
            self._refused[key] = f"{key} is no JSON"
            return {}
        except FlemingError as error:
            if self._storage.exists(key):
                self._refused[key] = error.problem.replace(f"{self._storage.root}/", "")
            return {}
        return found if isinstance(found, dict) else {}

    def _refusals(self) -> list[str]:
        """A note per file that could not be read, the first few."""
        said = [plain(problem) for _, problem in sorted(self._refused.items())]
        more = len(said) - SHOWN_REFUSALS
        return said if more <= 0 else [*said[:SHOWN_REFUSALS], f"and {more} other files"]

    def _completions(self, notes: list[str]) -> tuple[CompletionSeen, ...]:
        """Some completions of the newest step, of as many kinds as there are."""
        files = [file for file in self._storage.list("trajectories") if file.endswith(".parquet")]
        if not files:
            return ()
        if self._shown[0] != files[-1]:
            try:
                content = self._storage.read_bounded(f"trajectories/{files[-1]}", MAX_TRAJECTORY_BYTES)
                table = pq.read_table(pa.BufferReader(content), columns=["reward", "reason", "fate", "text"])
                self._shown = (files[-1], _choose(table.to_pylist()))
            except (FlemingError, pa.ArrowException, OSError, TypeError, ValueError) as error:
                notes.append(plain(f"completions of {files[-1]} cannot be read: {error}"))
                return ()
        return self._shown[1]


def _choose(rows: list[dict[str, Any]]) -> tuple[CompletionSeen, ...]:
    """The first completion of every kind of verdict and fate, then others, best reward first."""
    kinds: dict[tuple[Any, Any], dict[str, Any]] = {}
    for row in rows:
        kinds.setdefault((row["reason"], row["fate"]), row)
    rest = [row for row in rows if row not in list(kinds.values())] if len(kinds) < SHOWN_COMPLETIONS else []
    chosen = [*kinds.values(), *rest][:SHOWN_COMPLETIONS]
    chosen.sort(key=lambda row: -float(row["reward"] or 0.0))
    return tuple(
        CompletionSeen(
            reward=float(row["reward"] or 0.0),
            reason=plain(row["reason"] or "no verdict", MAX_NAME),
            fate=plain(row["fate"], MAX_NAME),
            text=plain(row["text"]),
        )
        for row in chosen
    )


def _newest_events(files: Iterable[str]) -> list[str]:
    """Events are numbered within an attempt: ``event-00003.attempt-02.json``."""
    events = [file for file in files if file.startswith("event-")]
    return sorted(events, key=lambda file: (file.partition(".")[2], file))[-SHOWN_EVENTS:]


def _event(event: Mapping[str, Any]) -> EventSeen:
    said = {key: value for key, value in event.items() if key not in ("time", "event", "attempt") and "/" not in key}
    details = ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in said.items()
    )
    clock = plain(event.get("time", ""), MAX_NAME)[11:19]
    return EventSeen(clock=clock, text=plain(f"{event.get('event', '?')}  {details}", 160))


def _age(said: object) -> float | None:
    try:
        return max(0.0, time.time() - datetime.fromisoformat(str(said)).timestamp())
    except (ValueError, OverflowError):
        return None
