"""The sources that a graph can be built from, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from data.errors import ConfigError
from data.graph.build import SourceBatch
from data.graph.importers import disease_ontology, generic, hetionet, hpo, indications, indra, mondo, orphadata, primekg

IMPORTERS: dict[str, Callable[[str], SourceBatch]] = {
    "hpo": hpo.read,
    "disease_ontology": disease_ontology.read,
    "mondo": mondo.read,
    "hetionet": hetionet.read,
    "primekg": primekg.read,
    "indications": indications.read,
    "orphadata": orphadata.read,
    "table": generic.read,
    **indra.READERS,
}
IN_PACKAGES = ("hpo", *indra.READERS)
"""Sources that an installed package carries: they need no location."""
GROUPS = {"indra": tuple(indra.READERS)}


def open_sources(wanted: Sequence[str]) -> list[SourceBatch]:
    """Batches for sources written NAME or NAME=LOCATION; "indra" stands for all its vocabularies.

    Raises:
        ConfigError: an unknown name, or a source that needs a location and has none.
        DataError: see each importer.
    """
    batches = []
    for text in wanted:
        name, equals, location = text.partition("=")
        for one in GROUPS.get(name, (name,)):
            if one not in IMPORTERS:
                raise ConfigError(
                    f"source {one!r} is unknown",
                    remedy=f"use one of {', '.join([*IMPORTERS, *GROUPS])}, as NAME=LOCATION",
                )
            if not (equals and location) and one not in IN_PACKAGES:
                raise ConfigError(f"source {one!r} has no location", remedy=f"write --source {one}=FOLDER_OR_FILE")
            batches.append(IMPORTERS[one](location))
    return batches
