"""Time and memory of a graph build: 130,000 nodes with 1.5 million edges, and with ten times the edges.

python bench/graph.py                   # both sizes, each in a process of its own; prints JSON lines
python bench/graph.py --edges 1500000   # one size
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NODES = 130_000
EDGES = 1_500_000
MAPPING = """name: {name}
version: "1"
licence: CC0-1.0
nodes: [{{file: nodes_{name}.tsv, columns: {{id: id, type: type, name: name, synonyms: synonyms, xrefs: xrefs}}}}]
edges:
  - file: edges_{name}.tsv
    columns: {{subject: subject, predicate: predicate, object: object, negated: negated, frequency: frequency,
              reference: reference}}
"""
PREFIXES = {"one": ("MONDO", "HP", "DRUGBANK", "HGNC"), "two": ("DOID", "SYMP", "CHEBI", "NCBIGENE")}
KINDS = ("disease", "phenotype", "drug", "gene")
RELATIONS = (("has_phenotype", 0, 1), ("treats", 2, 0), ("associated_with_gene", 0, 3), ("binds", 2, 3))


def make(folder: Path, nodes: int, edges: int) -> list[str]:
    """Two sources that overlap by a tenth of their nodes through cross references, so that merging has work to do."""
    for name, others in (("one", "two"), ("two", "one")):
        rng = random.Random(name)
        per_kind = round(nodes / len(KINDS) / 1.8) + 1  # a fifth of each source is in the other too
        (folder / f"{name}.yaml").write_text(MAPPING.format(name=name), encoding="utf-8")
        with (folder / f"nodes_{name}.tsv").open("w", encoding="utf-8") as out:
            out.write("id\ttype\tname\tsynonyms\txrefs\n")
            for kind, prefix, other in zip(KINDS, PREFIXES[name], PREFIXES[others], strict=True):
                for number in range(per_kind):
                    xref = f"{other}:{number:07}" if number < per_kind // 5 else ""
                    names = f"{kind} {prefix} {number}\t{kind[:3]} {number} of {name}|{number} {name}"
                    out.write(f"{prefix}:{number:07}\t{kind}\t{names}\t{xref}\n")
        with (folder / f"edges_{name}.tsv").open("w", encoding="utf-8") as out:
            out.write("subject\tpredicate\tobject\tnegated\tfrequency\treference\n")
            for _ in range(edges // 2):
                relation, a, b = RELATIONS[rng.randrange(len(RELATIONS))]
                ends = [f"{PREFIXES[name][end]}:{int(per_kind * rng.random() ** 2):07}" for end in (a, b)]
                denied = "1" if rng.random() < 0.003 else ""
                frequency = "" if rng.random() < 0.5 or denied else f"{rng.randrange(1, 100) / 100}"
                out.write(f"{ends[0]}\t{relation}\t{ends[1]}\t{denied}\t{frequency}\tPMID:{rng.randrange(20_000)}\n")
    return [f"table={folder / name}.yaml" for name in PREFIXES]


def run(folder: Path, sources: list[str]) -> None:
    """Build and write; print seconds, CPU seconds and peak memory of this process."""
    from data.graph.build import build
    from data.graph.importers.registry import open_sources
    from data.graph.store import write

    started = time.perf_counter()
    graph = build(open_sources(sources))
    built = time.perf_counter()
    manifest = write(graph, str(folder / "graph"))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "nodes": manifest["counts"]["nodes"],
                "edges_given": graph.report["edges"]["given"],
                "edges": manifest["counts"]["edges"],
                "build_s": round(built - started, 1),
                "write_s": round(time.perf_counter() - built, 1),
                "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
                "peak_gib": round(usage.ru_maxrss / 2**20, 2),
                "disk_mib": round(sum(f.stat().st_size for f in (folder / "graph").iterdir()) / 2**20, 1),
            }
        ),
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edges", type=int, action="append", help=f"default: {EDGES} and {10 * EDGES}")
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run(Path(arguments.run[0]), arguments.run[1:])
        return 0
    for edges in arguments.edges or [EDGES, 10 * EDGES]:
        with tempfile.TemporaryDirectory() as folder:
            sources = make(Path(folder), arguments.nodes, edges)
            # A process of its own: its peak memory is the build's alone.
            subprocess.run([sys.executable, __file__, "--run", folder, *sources], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
