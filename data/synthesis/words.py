"""Words of names: when a text gives an answer away, and when two names say nearly the same."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"[a-z0-9]+")
_CHINESE = re.compile(r"[㐀-鿿]")
_EMPTY_WORDS = """
syndrome disease disorder type form with without and due the deficiency familial congenital hereditary primary
secondary acute chronic early late onset adult infantile juvenile neonatal autosomal dominant recessive linked severe
mild isolated idiopathic nonsyndromic susceptibility related associated multiple abnormal abnormality increased
decreased elevated reduced concentration activity level circulating serum blood human body inheritance
"""
_EMPTY = frozenset(_EMPTY_WORDS.split())
_STEM = 6
"""Letters of a word that tell it from others: "cardiomyopathy" and "cardiomyopathic" are the same."""


def plain(name: str) -> str:
    """A name without white space at its ends or doubled inside."""
    return " ".join(name.split())


@functools.lru_cache(maxsize=300_000)
def stems(name: str) -> frozenset[str]:
    """Beginnings of the telling words of a name. Example: "Infantile hypercalcemia" -> {"hyperc"}."""
    return frozenset(w[:_STEM] for w in _WORD.findall(name.lower()) if len(w) > 3 and w not in _EMPTY)


@functools.lru_cache(maxsize=300_000)
def _lone(name: str) -> str:
    """The only telling word of a short name, "" when there are several. Example: "Zinc level" -> "zinc"."""
    words = [w for w in _WORD.findall(name.lower()) if len(w) > 1 and w not in _EMPTY and not w.isdigit()]
    return words[0] if len(words) == 1 else ""


@functools.lru_cache(maxsize=200_000)
def _all_stems(names: tuple[str, ...]) -> frozenset[frozenset[str]]:
    return frozenset(found for name in names if (found := stems(name)))


def leaks(answer_names: Iterable[str], text: str) -> bool:
    """True when a text holds a telling word of an answer, in whatever form, or its short name as a word."""
    lowered = text.lower()
    words = set(_WORD.findall(lowered))
    for name in answer_names:
        if any(stem in lowered for stem in stems(name)) or (_CHINESE.search(name) and name in text):
            return True
        if _lone(name) in words:
            return True
    return False


def clashes(first: Sequence[str], second: Sequence[str]) -> bool:
    """True when a name of one says nearly what a name of the other says: half of their telling words or more."""
    theirs = _all_stems(tuple(second))
    return any(2 * len(a & b) >= len(a | b) for a in _all_stems(tuple(first)) for b in theirs if not a.isdisjoint(b))


def chinese(names: Iterable[str]) -> str:
    """The first name in Chinese, or ""."""
    return next((plain(name) for name in names if _CHINESE.search(name)), "")


def turned(name: str) -> str:
    """A name of two parts the other way round, "Hearing Loss, High-Frequency"; others as they are."""
    parts = name.split(", ")
    return f"{parts[1]} {parts[0]}" if len(parts) == 2 else name
