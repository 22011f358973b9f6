"""When two texts are the same answer: case, white space and a final full stop apart, and nothing else."""

from __future__ import annotations

import unicodedata

_FULL_STOPS = (".", "\u3002")


def canonical(text: str) -> str:
    """The text itself, as NFC: what Unicode declares to be the same text is the same.

    NFC is quadratic in a run of combining marks, so callers bound the length first.
    """
    return unicodedata.normalize("NFC", text).strip()


def tidy(text: str) -> str:
    """`canonical`, white space joined and one final full stop off (Chinese has its own)."""
    joined = " ".join(canonical(text).split())
    return joined[:-1].rstrip() if joined.endswith(_FULL_STOPS) else joined


def normal(text: str) -> str:
    """The form in which texts are compared; "" for a text that says nothing, which must then match nothing.

    Lower-casing, not case-folding: folding would make an "s" of a long s. Look-alikes of other alphabets, full-width
    letters and invisible marks stay what they are: other texts.
    """
    return tidy(canonical(text).lower())
