"""Any nodes and edges as TSV, CSV or Parquet, with a YAML file that says which column is what."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from data.errors import ConfigError, DataError
from data.graph.build import SourceBatch
from data.graph.reading import fail, identifier_at, name_at, rows
from data.graph.schema import ENTITY_TYPES, RELATIONS, Edge, Entity, SourceInfo
from data.strict import StrictModel

_TRUE, _FALSE = ("1", "true", "yes", "not"), ("", "0", "false", "no")


class NodeTable(StrictModel):
    """A table of entities. ``columns``: our field -> its column; fields: id, type, name, synonyms, xrefs, alt_ids,
    definition, tags, prevalence."""

    file: str
    columns: dict[str, str]
    prefix: Annotated[str, Field(description="put before ids that have no prefix")] = ""
    type: Annotated[str, Field(description="the type of all rows, when there is no column type")] = ""
    types: dict[str, str] = Field(default_factory=dict, description="their word for a type -> ours")
    list_separator: Annotated[str, Field(min_length=1)] = "|"


class EdgeTable(StrictModel):
    """A table of edges. Fields: subject, predicate, object, negated, frequency, onset, sex, modifier, reference."""

    file: str
    columns: dict[str, str]
    subject_prefix: str = ""
    object_prefix: str = ""
    predicate: Annotated[str, Field(description="the relation of all rows, when there is no column predicate")] = ""
    predicates: dict[str, str] = Field(default_factory=dict, description="their word for a relation -> ours")


class Mapping(StrictModel):
    """The YAML file of a source; files are named relative to it."""

    name: Annotated[str, Field(min_length=1)]
    version: Annotated[str, Field(min_length=1)]
    licence: Annotated[str, Field(min_length=1)]
    citation: str = ""
    url: str = ""
    nodes: list[NodeTable] = Field(default_factory=list)
    edges: list[EdgeTable] = Field(default_factory=list)


_NODE_FIELDS = ("id", "type", "name", "synonyms", "xrefs", "alt_ids", "definition", "tags", "prevalence")
_EDGE_FIELDS = ("subject", "predicate", "object", "negated", "frequency", "onset", "sex", "modifier", "reference")


def read(location: str) -> SourceBatch:
    """The source that a YAML mapping describes.

    Raises:
        ConfigError: the mapping is no valid YAML, lacks a key, or names an unknown field, type or relation.
        DataError: a table is missing or cut, lacks a column, or a row cannot be read, with its line.
    """
    path = Path(location)
    if not path.is_file():
        raise ConfigError(f"{location} is missing", remedy="name the YAML mapping: --source table=MAPPING.yaml")
    try:
        mapping = Mapping.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")), strict=True)
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError) as error:
        where = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()) if isinstance(
            error, ValidationError) else str(error).replace("\n", " ")  # fmt: skip
        raise ConfigError(f"{path.name}: {where}", remedy="see docs/graph.md for the keys") from None
    _check(mapping, path.name)
    info = SourceInfo(
        name=mapping.name, version=mapping.version, licence=mapping.licence, citation=mapping.citation, url=mapping.url
    )
    return SourceBatch(info=info, records=_records(mapping, path.parent))


def _check(mapping: Mapping, name: str) -> None:
    for kind, tables, fields, needed, words, known in (
        ("nodes", mapping.nodes, _NODE_FIELDS, ("id", "name"), "type", ENTITY_TYPES),
        ("edges", mapping.edges, _EDGE_FIELDS, ("subject", "object"), "predicate", RELATIONS),
    ):
        for table in tables:
            strange = sorted(set(table.columns) - set(fields))
            lacking = [field for field in needed if field not in table.columns]
            constant, translated = getattr(table, words), list(getattr(table, f"{words}s").values())
            if words not in table.columns and not constant:
                lacking.append(words)
            unknown = [word for word in [*translated, *([constant] if constant else [])] if word not in known]
            if strange or lacking or unknown:
                raise ConfigError(
                    f"{name}, {kind} of {table.file}: unknown fields {strange}, missing {lacking}, "
                    f"unknown {words} {unknown}",
                    remedy=f"fields are {', '.join(fields)}; {words} is one of {', '.join(known)}",
                )


def _records(mapping: Mapping, folder: Path) -> Iterator[Entity | Edge]:
    for nodes in mapping.nodes:
        yield from _nodes(nodes, folder / nodes.file)
    for edges in mapping.edges:
        yield from _edges(edges, folder / edges.file)


def _cells(path: Path, columns: dict[str, str]) -> Iterator[tuple[int, list[str]]]:
    """Line and the mapped cells of every row, in the order of ``columns``."""
    wanted = list(columns.values())
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind == "parquet":
        yield from _parquet(path, wanted)
        return
    if kind not in ("tsv", "csv", "txt"):
        raise ConfigError(f"{path.name} is no .tsv, .csv or .parquet", remedy="convert it, or rename it by what it is")
    lines = rows(path, None, delimiter="," if kind == "csv" else "\t", quoted=kind == "csv", ends_with_newline=False)
    line, header = next(lines)
    header = [cell.lstrip("\ufeff").strip() for cell in header]
    missing = [name for name in wanted if name not in header]
    if missing:
        raise fail(path, line, f"the columns {missing} are missing in {header}", "change the mapping")
    places = [header.index(name) for name in wanted]
    for line, cells in lines:
        yield line, [cells[place] for place in places]


def _parquet(path: Path, wanted: list[str]) -> Iterator[tuple[int, list[str]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file: Any = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path.name} cannot be read ({str(error)[:120]})", remedy="check that it is whole") from None
    missing = [name for name in wanted if name not in file.schema_arrow.names]
    if missing:
        raise fail(path, 1, f"the columns {missing} are missing in {file.schema_arrow.names}", "change the mapping")
    line = 0
    for batch in file.iter_batches(columns=wanted):
        texts = [["" if v is None else str(v) for v in batch.column(name).to_pylist()] for name in wanted]
        for cells in zip(*texts, strict=True):
            line += 1
            yield line, list(cells)


def _identifier(path: Path, line: int, text: str, prefix: str) -> str:
    if not text.strip():
        raise fail(path, line, f"{text!r} is no identifier", "fill the cell, or give the table a prefix")
    return identifier_at(path, line, text, "" if ":" in text else prefix)


def _nodes(table: NodeTable, path: Path) -> Iterator[Entity]:
    names = list(table.columns)
    for line, cells in _cells(path, table.columns):
        row = dict(zip(names, cells, strict=True))
        said = row.get("type", "")
        kind = table.types.get(said, said) if said else table.type
        if kind not in ENTITY_TYPES:
            raise fail(path, line, f"type {kind!r} is unknown", "map it under types: in the mapping")
        lists = {
            name: tuple(part.strip() for part in row.get(name, "").split(table.list_separator) if part.strip())
            for name in ("synonyms", "xrefs", "alt_ids", "tags")
        }
        yield Entity(
            id=_identifier(path, line, row["id"], table.prefix), type=kind,
            name=name_at(path, line, row["id"], row["name"]).strip(),
            synonyms=lists["synonyms"], xrefs=tuple(identifier_at(path, line, x) for x in lists["xrefs"]),
            alt_ids=tuple(_identifier(path, line, a, table.prefix) for a in lists["alt_ids"]), tags=lists["tags"],
            definition=row.get("definition", ""), prevalence=_number(path, line, row.get("prevalence", "")),
        )  # fmt: skip


def _edges(table: EdgeTable, path: Path) -> Iterator[Edge]:
    names = list(table.columns)
    known: dict[tuple[str, str], str] = {}

    def end(line: int, text: str, prefix: str) -> str:
        found = known.get((text, prefix))
        if found is None:
            found = known[(text, prefix)] = _identifier(path, line, text, prefix)
        return found

    for line, cells in _cells(path, table.columns):
        row = dict(zip(names, cells, strict=True))
        said = row.get("predicate", "")
        predicate = table.predicates.get(said, said) if said else table.predicate
        if predicate not in RELATIONS:
            raise fail(path, line, f"relation {predicate!r} is unknown", "map it under predicates: in the mapping")
        negated = row.get("negated", "").strip().lower()
        if negated not in _TRUE and negated not in _FALSE:
            raise fail(path, line, f"negated is {negated!r}", f"write one of {_TRUE + _FALSE}")
        frequency = _number(path, line, row.get("frequency", ""))
        yield Edge(
            subject=end(line, row["subject"], table.subject_prefix), predicate=predicate,
            object=end(line, row["object"], table.object_prefix), negated=negated in _TRUE or frequency == 0.0,
            frequency=float("nan") if frequency is None else frequency, frequency_text=row.get("frequency", ""),
            onset=row.get("onset", ""), sex=row.get("sex", ""), modifier=row.get("modifier", ""), file=path.name,
            row=line, reference=row.get("reference", ""),
        )  # fmt: skip


def _number(path: Path, line: int, text: str) -> float | None:
    """A share from 0 to 1, None for an empty cell."""
    if not text.strip():
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise fail(path, line, f"{text!r} is no share", "write a number from 0 to 1")
    return number
