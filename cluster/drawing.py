"""Which questions come next: shuffled epochs over the training questions, resumable to the question."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any

from data.errors import DataError, RunStateError
from data.records import Question


class QuestionDrawer:
    """Draws questions without replacement within an epoch; the number of an epoch is the ``draw`` of its questions.

    The order of an epoch depends only on (seed, epoch, the questions), so that ``state_dict`` is two numbers and a
    fingerprint of the question set.
    """

    def __init__(self, questions: Sequence[Question], *, seed: int) -> None:
        if not questions:
            raise DataError("there are no training questions", remedy="check the data section of the recipe")
        self._questions = sorted(questions, key=lambda question: question.id)
        self._seed = seed
        self._epoch = 0
        self._position = 0
        self._order = self._shuffled(0)

    @property
    def fingerprint(self) -> str:
        """Hash of the ids of all questions."""
        ids = ",".join(question.id for question in self._questions)
        return hashlib.blake2b(ids.encode(), digest_size=8).hexdigest()

    @property
    def epochs(self) -> float:
        """Epochs drawn so far, with the fraction of the current one."""
        return self._epoch + self._position / len(self._order)

    def draw(self, count: int) -> list[tuple[Question, int]]:
        """The next ``count`` questions, each with its draw number."""
        drawn = []
        for _ in range(count):
            if self._position == len(self._order):
                self._epoch, self._position = self._epoch + 1, 0
                self._order = self._shuffled(self._epoch)
            drawn.append((self._order[self._position], self._epoch))
            self._position += 1
        return drawn

    def reset(self) -> None:
        """Back to the first question of the first epoch."""
        self._epoch = self._position = 0
        self._order = self._shuffled(0)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "position": self._position, "fingerprint": self.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken.

        Raises:
            RunStateError: the question set is another one.
        """
        if state["fingerprint"] != self.fingerprint:
            raise RunStateError(
                f"the training questions have changed since the commit: fingerprint {state['fingerprint']}, "
                f"now {self.fingerprint}",
                remedy="restore data/questions.parquet of the run, or start a new run with --set run.name=NAME",
            )
        self._epoch, self._position = state["epoch"], state["position"]
        self._order = self._shuffled(self._epoch)

    def _shuffled(self, epoch: int) -> list[Question]:
        digest = hashlib.blake2b(f"{self._seed}/{epoch}".encode(), digest_size=8).digest()
        order = list(self._questions)
        random.Random(int.from_bytes(digest, "big")).shuffle(order)
        return order
