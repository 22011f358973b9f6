"""Names for comparison: letters and digits of any script, Greek spelled out, the signs that tell substances apart."""

from __future__ import annotations

import re
import unicodedata

_GREEK = {
    chr(code): " " + unicodedata.name(chr(code)).split()[-1].lower().replace("lamda", "lambda")
    for code in (*range(0x3B1, 0x3C2), *range(0x3C3, 0x3CA))
} | {"ς": " sigma"}
"""Small letters, each with a space before it: TNFα is TNF-alpha, and β2 is beta2."""
_SIGN = re.compile(r"\((\d*)(\+/-|\+-|[+-])\)")
_SIGNS = {"+": "plus", "-": "minus"}
_PRIME = re.compile(r"(?:(?<=\d)|(?<=\b[a-z]))'+(?=[-,\d])")
_MARKS = re.compile("[\u0300-\u036f]")
_SPELLED = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u2032\u02b9\u02bc\u00b4`", "'"),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-"),
        "\u00b1": "+/-",
        "\u2033": "''",
    }
)
_ASCII_WORD = re.compile(r"[a-z0-9]+")


def normal_name(name: str) -> str:
    """A name for comparison: lower case, words only, without accents.

    Signs in brackets and primes of chemical names are words. Examples: "Crohn's disease" and "Crohns Disease" are the
    same; "α-thalassemia" is "alpha thalassemia", "(+)-limonene" is "plus limonene", "5'-nucleotidase" is "5 prime
    nucleotidase"; "糖尿病" stays.
    """
    text = name.lower()
    if not text.isascii():
        spelled = unicodedata.normalize("NFKD", text.translate(_SPELLED)).casefold()
        text = "".join(_GREEK.get(sign, sign) for sign in _MARKS.sub("", spelled))
    if "(" in text:
        text = _SIGN.sub(lambda found: f" {found[1]}{_SIGNS.get(found[2], 'plusminus')} ", text)
    if "'" in text:
        text = _PRIME.sub(lambda found: " prime" * len(found[0]) + " ", text).replace("'", "")
    if text.isascii():
        return " ".join(_ASCII_WORD.findall(text))
    kept = (sign if unicodedata.category(sign)[0] in "LNM" else " " for sign in text)
    return unicodedata.normalize("NFC", " ".join("".join(kept).split()))
