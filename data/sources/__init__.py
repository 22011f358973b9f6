"""Readers of public question sets and of embedded sources."""
