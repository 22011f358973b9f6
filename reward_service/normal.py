"""When two texts are the same answer: case, white space and a final full stop apart, and nothing else."""

from __future__ import annotations

import unicodedata


def normal(text: str) -> str:
    """The form in which texts are compared; "" for a text that says nothing, which must then match nothing.

    NFC joins what Unicode declares to be the same text. Lower-casing, not case-folding: folding would make an "s" of a
    long s. Look-alikes of other alphabets, full-width letters and invisible marks stay what they are: other texts.

    NFC is quadratic in a run of combining marks, so callers bound the length first.
    """
    return " ".join(unicodedata.normalize("NFC", text).lower().split()).removesuffix(".").rstrip()
