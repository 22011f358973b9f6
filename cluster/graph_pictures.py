"""Pictures of a medical graph: what it holds, the surroundings of an entity, the chain that joins two."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from data.graph.paths import GraphPath
    from data.graph.queries import KnowledgeGraph

COLORS = {
    "disease": "#c8553d", "phenotype": "#e9a03b", "imaging_finding": "#b8860b", "drug": "#1b6ca8",
    "chemical": "#7fb2d9", "drug_class": "#4a6fa5", "gene": "#588157", "mechanism": "#8a9a5b", "anatomy": "#8d6a9f",
    "inheritance": "#6d6875",
}  # fmt: skip
_OTHER = "#9aa5b1"
_PER_RELATION = 9
"""At most so many neighbours per relation are drawn; the rest is counted."""


def _figure(width: float, height: float, columns: int = 1, ratios: Sequence[float] = (1,)) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, columns, figsize=(width, height), width_ratios=ratios, layout="constrained", squeeze=False
    )
    return figure, axes


def _png(figure: Any) -> bytes:
    import matplotlib.pyplot as plt

    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    plt.close(figure)
    return picture.getvalue()


def _color(kind: str) -> str:
    return COLORS.get(kind, _OTHER)


def _box(color: str, pad: float, alpha: float = 1.0) -> dict[str, Any]:
    return {"boxstyle": f"round,pad={pad}", "facecolor": color, "edgecolor": "none", "alpha": alpha}


def draw_stats(counts: Mapping[str, Any], degrees: Any) -> bytes:
    """A PNG: entities per type with and without a telling relation; statements per relation; how degrees are spread.

    Args:
        counts: the counts of a manifest.
        degrees: facts per entity, [nodes].
    """
    figure, axes = _figure(15, 6.2, 3, (1.15, 1.15, 1))
    left, middle, right = axes[0]
    kinds = sorted(counts["nodes_by_type"], key=lambda kind: counts["nodes_by_type"][kind])
    total = [counts["nodes_by_type"][kind] for kind in kinds]
    related = [counts["related_by_type"][kind] for kind in kinds]
    names = [kind.replace("_", " ") for kind in kinds]
    left.barh(names, total, color=[_color(kind) for kind in kinds], alpha=0.3, label="all")
    left.barh(names, related, color=[_color(kind) for kind in kinds], label="with a relation other than is-a")
    for place, (whole, part) in enumerate(zip(total, related, strict=True)):
        left.text(whole, place, f" {part:,} of {whole:,}", va="center", fontsize=8)
    left.set(title=f"{counts['nodes']:,} entities, solid: with a telling relation", xlim=(0, 1.45 * max(total)))
    relations = sorted(counts["edges_by_relation"].items(), key=lambda pair: pair[1])
    middle.barh([name.replace("_", " ") for name, _ in relations], [count for _, count in relations], color="#1b6ca8")
    middle.set(xscale="log", title=f"{counts['edges']:,} statements by relation")
    middle.tick_params(axis="y", labelsize=8)
    values, times = np.unique(degrees[degrees > 0], return_counts=True)
    right.loglog(values, times[::-1].cumsum()[::-1], color="#c8553d", linewidth=1.6)
    right.set(title="Degrees", xlabel="at least so many facts", ylabel="entities")
    for axis in (left, middle, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, axis="both" if axis is right else "x")
    return _png(figure)


def _wheel(graph: KnowledgeGraph, number: int) -> list[tuple[str, list[int], int]]:
    """Relation, neighbours drawn, neighbours in all; frequent findings and specific entities first."""
    found: dict[str, dict[int, tuple[float, int]]] = {}
    for step in graph.steps(number):
        target = graph.find(step.target)
        rank = (-(graph.statement(step.edge).frequency or 0.0), int(graph.degrees[target]))
        known = found.setdefault(step.relation, {})
        known[target] = min(rank, known.get(target, rank))
    ordered = sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return [(name, sorted(t, key=lambda n: (t[n], n))[:_PER_RELATION], len(t)) for name, t in ordered]


def draw_neighbourhood(graph: KnowledgeGraph, number: int) -> bytes:
    """A PNG: an entity in the middle, its facts around it, one sector per relation; denied ones in grey and dashed."""
    sectors = _wheel(graph, number)
    denied = graph.denials(number, "has_phenotype")[:_PER_RELATION]
    if denied:
        sectors.append(("does not have", denied, len(graph.denials(number, "has_phenotype"))))
    figure, axes = _figure(11, 9.5)
    axis = axes[0][0]
    slots = sum(len(targets) + 1 for _, targets, _ in sectors) or 1
    angle = np.pi / 2
    for relation, targets, total in sectors:
        angles = [angle - 2 * np.pi * (place + 0.5) / slots for place in range(len(targets))]
        angle -= 2 * np.pi * (len(targets) + 1) / slots
        negated = relation == "does not have"
        for where, target in zip(angles, targets, strict=True):
            color = _OTHER if negated else _color(graph.types[target])
            x, y = np.cos(where), np.sin(where)
            axis.plot(
                [0, x], [0, y], color=color, linewidth=1.1, alpha=0.65, linestyle="--" if negated else "-", zorder=1
            )
            axis.scatter([x], [y], s=58, color=color, edgecolor="white", zorder=3)
            flip = x < 0
            turn = np.degrees(where) + (180 if flip else 0)
            name = textwrap.shorten(graph.names[target], 38, placeholder=" ...")
            axis.text(1.05 * x, 1.05 * y, name, rotation=turn, rotation_mode="anchor", fontsize=8.5,
                      ha="right" if flip else "left", va="center")  # fmt: skip
        middle = float(np.mean(angles))
        shown = relation.replace("_", " ") + (f"\n{len(targets)} of {total}" if total > len(targets) else "")
        axis.text(0.6 * np.cos(middle), 0.6 * np.sin(middle), shown, ha="center", va="center", fontsize=8, zorder=4,
                  bbox=_box("white", 0.25, alpha=0.85))  # fmt: skip
    center = textwrap.fill(graph.names[number], 18)
    axis.text(0, 0, center, ha="center", va="center", fontsize=11, fontweight="bold", color="white", zorder=5,
              bbox=_box(_color(graph.types[number]), 0.6))  # fmt: skip
    axis.set(xlim=(-2.0, 2.0), ylim=(-1.75, 1.75), aspect="equal")
    axis.axis("off")
    return _png(figure)


def draw_path(graph: KnowledgeGraph, path: GraphPath) -> bytes:
    """A PNG: the entities of a path from left to right, each arrow with its relation and source."""
    numbers = [graph.find(identifier) for identifier in path.ids]
    figure, axes = _figure(2.9 * len(numbers) + 0.4, 2.6)
    axis = axes[0][0]
    for place, number in enumerate(numbers):
        text = f"{textwrap.fill(graph.names[number], 18)}\n{graph.ids[number]}"
        axis.text(place, 0, text, ha="center", va="center", fontsize=10, color="white", zorder=3,
                  bbox=_box(_color(graph.types[number]), 0.55))  # fmt: skip
        axis.text(place, -0.42, graph.types[number].replace("_", " "), ha="center", fontsize=8, color="#555555")
    for place, step in enumerate(path.steps):
        axis.annotate(
            "", xy=(place + 0.7, 0), xytext=(place + 0.3, 0), arrowprops={"arrowstyle": "-|>", "color": "#333333"}
        )
        statement = graph.statement(step.edge)
        axis.text(place + 0.5, 0.3, textwrap.fill(step.relation.replace("_", " "), 16), ha="center", fontsize=9)
        axis.text(place + 0.5, -0.2, statement.source, ha="center", fontsize=7, color="#777777")
    axis.set(xlim=(-0.5, len(numbers) - 0.5), ylim=(-0.6, 0.6))
    axis.axis("off")
    return _png(figure)
