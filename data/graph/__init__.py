"""The medical knowledge graph: schema, importers, merging, store and queries."""
