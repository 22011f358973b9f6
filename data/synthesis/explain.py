"""Why the answer is right and every other option wrong, down to the rows of the source files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data.errors import DataError
from data.synthesis.forms import Form, Ruling, Triple, triple
from data.synthesis.rings import Item
from data.synthesis.world import World


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One statement of a source: what it says, and where. ``row`` is the line of ``file``, counted from 1."""

    subject: str
    predicate: str
    object: str
    negated: bool
    source: str
    version: str
    file: str
    row: int
    reference: str
    share: float | None


@dataclass(frozen=True, kw_only=True)
class Reason:
    """What rules one option out: kinds such as "denied", "absent", "another gene" with their evidence."""

    label: str
    node: str
    name: str
    because: tuple[str, ...]
    detail: tuple[str, ...]
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The derivation of a question. ``path``: from the visible through the hidden to the answer, as evidence.

    ``visible`` and ``hidden`` are identifiers; ``similarity`` is the mean similarity (0 to 1) of the disease to those
    of the distractors; ``zone`` is where these were sought: near, middle or far.
    """

    question_id: str
    twin_of: str
    ring: str
    form: str
    hops: int
    band: str
    zone: str
    similarity: float
    disease: str
    answer: str
    visible: tuple[str, ...]
    hidden: tuple[str, ...]
    path: tuple[Evidence, ...]
    reasons: tuple[Reason, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Explanation:
        """Raises `DataError` when the text is no explanation."""
        try:
            raw: dict[str, Any] = json.loads(text)
            raw["path"] = tuple(Evidence(**row) for row in raw["path"])
            raw["reasons"] = tuple(
                Reason(**{**r, "because": tuple(r["because"]), "detail": tuple(r["detail"]),
                          "evidence": tuple(Evidence(**row) for row in r["evidence"])})
                for r in raw["reasons"]
            )  # fmt: skip
            raw["visible"], raw["hidden"] = tuple(raw["visible"]), tuple(raw["hidden"])
            return cls(**raw)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"explanation is damaged: {error}", remedy="make the questions again") from None


def path_of(form: Form, item: Item) -> list[Triple]:
    """The facts of an item: findings of the vignette, the visible gene, the chain."""
    edges = [(item.disease, "has_phenotype", term) for term in item.visible]
    if item.gene is not None:
        edges.append((item.disease, "associated_with_gene", item.gene))
    here = item.disease
    for word, target in zip(form.chain, item.way, strict=True):
        edges.append(triple(here, word, target))
        here = target
    return edges


def evidence(world: World, edges: Sequence[Triple], *, most: int = 2) -> tuple[Evidence, ...]:
    """The statements behind some edges, at most ``most`` rows for each."""
    found: list[Evidence] = []
    for edge in edges:
        for row in world.rows_of(edge)[:most]:
            said = world.graph.statement(row)
            found.append(
                Evidence(
                    subject=said.subject, predicate=said.predicate, object=said.object, negated=bool(said.negated),
                    source=said.source, version=said.source_version, file=said.file, row=int(said.row),
                    reference=said.reference, share=None if said.frequency is None else round(said.frequency, 4),
                )
            )  # fmt: skip
    return tuple(found)


def reason(world: World, label: str, node: int, rulings: Sequence[Ruling]) -> Reason:
    return Reason(
        label=label, node=world.graph.ids[node], name=world.readable(node),
        because=tuple(r.because for r in rulings), detail=tuple(r.detail for r in rulings if r.detail),
        evidence=evidence(world, [edge for r in rulings for edge in r.edges], most=1),
    )  # fmt: skip
