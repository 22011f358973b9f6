"""Millions of edges in little memory: one array per column, every text kept once."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from data.graph.schema import Edge, SourceInfo

TEXT_COLUMNS = (
    "subject", "predicate", "object", "frequency_text", "onset", "sex", "modifier", "file", "reference", "licence",
    "source", "source_version", "subject_said", "object_said",
)  # fmt: skip
"""``subject_said`` and ``object_said`` are the ends as the source named them, before merging."""


class Interner:
    """Gives every text a number; the same text the same number."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        numbers = self.numbers
        found = numbers.get(text)
        if found is None:
            found = numbers[text] = len(numbers)
        return found

    @property
    def texts(self) -> list[str]:
        return list(self.numbers)


class EdgeColumns:
    """Collects edges. Ends keep the names that the source gave; about 50 bytes an edge besides new texts."""

    def __init__(self) -> None:
        self.ends = Interner()
        self.predicates = Interner()
        self.texts = {
            name: Interner() for name in ("frequency_text", "onset", "sex", "modifier", "file", "reference", "licence")
        }
        self.sources: list[SourceInfo] = []
        self._codes = {name: array("i") for name in ("subject", "predicate", "object", *self.texts, "source", "row")}
        self._negated = array("b")
        self._frequency = array("f")

    def __len__(self) -> int:
        return len(self._negated)

    def begin(self, source: SourceInfo) -> None:
        """The edges that follow are this source's."""
        self.sources.append(source)

    def add(self, edge: Edge) -> None:
        codes = self._codes
        codes["subject"].append(self.ends.number(edge.subject))
        codes["predicate"].append(self.predicates.number(edge.predicate))
        codes["object"].append(self.ends.number(edge.object))
        texts = self.texts
        codes["frequency_text"].append(texts["frequency_text"].number(edge.frequency_text))
        codes["onset"].append(texts["onset"].number(edge.onset))
        codes["sex"].append(texts["sex"].number(edge.sex))
        codes["modifier"].append(texts["modifier"].number(edge.modifier))
        codes["file"].append(texts["file"].number(edge.file))
        codes["reference"].append(texts["reference"].number(edge.reference))
        codes["licence"].append(texts["licence"].number(edge.licence or self.sources[-1].licence))
        codes["source"].append(len(self.sources) - 1)
        codes["row"].append(edge.row)
        self._negated.append(edge.negated)
        self._frequency.append(edge.frequency)

    def arrays(self) -> dict[str, Any]:
        """Every column as a numpy array over the edges, [edges]; texts as codes. Empties the store."""
        arrays: dict[str, Any] = {name: _taken(self._codes, name, np.int32) for name in list(self._codes)}
        arrays["negated"] = np.frombuffer(self._negated, dtype=np.int8).astype(bool)
        arrays["frequency"] = np.frombuffer(self._frequency, dtype=np.float32).copy()
        self._negated, self._frequency = array("b"), array("f")
        return arrays


def _taken(codes: dict[str, Any], name: str, kind: Any) -> Any:
    values = codes.pop(name)
    return np.frombuffer(values, dtype=kind).copy() if len(values) else np.zeros(0, dtype=kind)


def in_order(codes: Any, texts: Sequence[str]) -> tuple[Any, list[str]]:
    """Renumber codes so that they sort as their texts do, and drop texts that no code uses."""
    used = np.unique(codes)
    kept = sorted((texts[i], int(i)) for i in used)
    lookup = np.full(max(len(texts), 1), -1, dtype=np.int32)
    for rank, (_, old) in enumerate(kept):
        lookup[old] = rank
    return lookup[codes] if len(codes) else codes, [text for text, _ in kept]
