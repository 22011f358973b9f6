"""Ontologies in the OBO format, read by fastobo; a damaged or cyclic file is named with its line."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import DataError

_SCOPES = {"EXACT": 0, "NARROW": 1, "BROAD": 2, "RELATED": 3}
_INEXACT = frozenset(
    f"MONDO:{kind}"
    for kind in ("relatedTo", "mondoIsNarrowerThanSource", "mondoIsBroaderThanSource", "narrowerThanSource",
                 "broaderThanSource", "equivalentObsolete", "obsoleteEquivalent", "obsoleteEquivalentObsolete")
)  # fmt: skip
"""MONDO says in a qualifier how a cross reference is meant; these do not name the same disease."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OboTerm:
    """A current term. ``synonyms`` are in order of preference, exact ones first; ``line`` is that of its stanza."""

    id: str
    name: str
    line: int
    parents: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    xrefs: tuple[str, ...] = ()
    alt_ids: tuple[str, ...] = ()
    definition: str = ""
    subsets: tuple[str, ...] = ()
    relations: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ontology:
    """The current terms of a file; obsolete ones are gone. ``version`` is its data-version."""

    name: str
    version: str
    terms: Mapping[str, OboTerm]
    obsolete: frozenset[str]


def read_obo(path: Path, *, closed: bool = False) -> Ontology:
    """Read an ontology, packed with gzip or not.

    Args:
        closed: every parent must be a term of the file too; not so for subsets such as slims.

    Raises:
        DataError: missing, cut or malformed file, a term without a name, an unknown parent, or a cycle of is-a.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing", remedy="see docs/graph.md for where the source publishes it")
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{path.name} is cut off or damaged ({error})", remedy="download it again") from None
    return parse_obo_bytes(content, path.name, closed=closed)


def parse_obo_bytes(content: bytes, name: str, *, closed: bool = False) -> Ontology:
    """As `read_obo`, from memory; ``name`` stands in the errors."""
    import fastobo

    try:
        document = fastobo.load(io.BytesIO(content))
    except SyntaxError as error:
        raise DataError(
            f"{name} line {error.lineno}: {error.msg}, found {str(error.text)[:60]!r}",
            remedy="download it again, whole",
        ) from None
    except (ValueError, OSError) as error:  # OSError: no UTF-8
        raise DataError(f"{name} is no OBO file ({error})", remedy="download it again, whole") from None
    lines = _stanza_lines(content)
    version = next((clause.raw_value() for clause in document.header if clause.raw_tag() == "data-version"), "")
    terms: dict[str, OboTerm] = {}
    obsolete: set[str] = set()
    for frame in document:
        if not isinstance(frame, fastobo.term.TermFrame):
            continue
        term, is_obsolete = _term(frame, name, lines.get(str(frame.id), 0))
        if is_obsolete:
            obsolete.add(term.id)
        else:
            terms[term.id] = term
    if not terms:
        raise DataError(f"{name} holds no current term", remedy="download it again, whole")
    if closed:
        _check_closed(terms, name)
    refuse_cycles(((t.id, parent, t.line) for t in terms.values() for parent in t.parents), name)
    return Ontology(name=name, version=version, terms=terms, obsolete=frozenset(obsolete))


def _stanza_lines(content: bytes) -> dict[str, int]:
    lines: dict[str, int] = {}
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.startswith(b"id: "):
            lines.setdefault(line[4:].split(b" !")[0].strip().decode("utf-8", "replace"), number)
    return lines


def _term(frame: Any, file: str, line: int) -> tuple[OboTerm, bool]:
    values: dict[str, list[str]] = {}
    synonyms: list[tuple[int, int, str]] = []
    relations: list[tuple[str, str]] = []
    definition = ""
    for clause in frame:
        tag = clause.raw_tag()
        if tag == "synonym":
            synonyms.append((_SCOPES.get(clause.synonym.scope, 3), len(synonyms), clause.synonym.desc))
        elif tag == "def":
            definition = clause.definition
        elif tag == "relationship":
            relations.append((str(clause.typedef), str(clause.term)))
        elif tag == "xref":
            if not any(str(qualifier.value) in _INEXACT for qualifier in clause.qualifiers or ()):
                values.setdefault(tag, []).append(str(clause.xref.id))
        elif tag == "name":
            values[tag] = [clause.name]
        else:
            values.setdefault(tag, []).append(clause.raw_value().split(" ! ")[0])
    identifier = str(frame.id)
    is_obsolete = values.get("is_obsolete") == ["true"]
    name = values.get("name", [""])[0]
    if not name and not is_obsolete:
        raise DataError(f"{file} line {line}: {identifier} has no name", remedy="download the file again, whole")
    term = OboTerm(
        id=identifier,
        name=name,
        line=line,
        parents=tuple(dict.fromkeys(values.get("is_a", ()))),
        synonyms=tuple(dict.fromkeys(text for _, _, text in sorted(synonyms))),
        xrefs=tuple(dict.fromkeys(values.get("xref", ()))),
        alt_ids=tuple(dict.fromkeys(values.get("alt_id", ()))),
        definition=definition,
        subsets=tuple(values.get("subset", ())),
        relations=tuple(relations),
    )
    return term, is_obsolete


def _check_closed(terms: Mapping[str, OboTerm], file: str) -> None:
    for term in terms.values():
        for parent in term.parents:
            if parent not in terms:
                raise DataError(
                    f"{file} line {term.line}: {term.id} is a {parent}, which is no current term of the file",
                    remedy="the file was cut or mixed from releases: download it again, whole",
                )


def refuse_cycles(edges: Iterable[tuple[str, str, int]], file: str) -> None:
    """Refuse is-a edges (child, parent, line) that lead back to where they began.

    Raises:
        DataError: with the cycle and the line of one of its edges.
    """
    parents: dict[str, list[str]] = {}
    waiting: dict[str, int] = {}
    children: dict[str, list[str]] = {}
    line_of: dict[tuple[str, str], int] = {}
    for child, parent, line in edges:
        parents.setdefault(child, []).append(parent)
        children.setdefault(parent, []).append(child)
        waiting[child] = waiting.get(child, 0) + 1
        waiting.setdefault(parent, 0)
        line_of[(child, parent)] = line
    free = [node for node, count in waiting.items() if count == 0]
    while free:
        for child in children.get(free.pop(), ()):
            waiting[child] -= 1
            if waiting[child] == 0:
                free.append(child)
    stuck = sorted(node for node, count in waiting.items() if count)
    if not stuck:
        return
    walk = [stuck[0]]
    while walk[-1] not in walk[:-1]:
        walk.append(min(parent for parent in parents[walk[-1]] if waiting[parent]))
    cycle = walk[walk.index(walk[-1]) :]
    raise DataError(
        f"{file} line {line_of[(cycle[0], cycle[1])]}: is-a goes in a circle: {' -> '.join(cycle)}",
        remedy="take a release of the ontology without the cycle, or drop one of these rows",
    )
