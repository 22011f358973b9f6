"""Tests of the medical knowledge graph."""
