"""Numbers with units: "5.5 mmol/L" is "0.0055 mol/L", and "5" is not "5 mg".

An answer is one decimal number and a unit of at most a few words, read by a grammar of our own; only the unit goes to
pint, and only in plain form. pint's own expression parser would compute whatever it is handed ("9**9**9").
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from data.errors import DataError

QuantityReason = Literal[
    "correct", "wrong", "not_a_number", "several_numbers", "unknown_unit", "other_dimension", "no_unit"
]

_MAX_CHARS = 80
_NUMBER = r"[+\-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+\-]?\d{1,3}|\s?[x×]\s?10\^?[+\-−]?\d{1,3})?"
_QUANTITY = re.compile(rf"({_NUMBER})\s*([^\d\s].*)?", re.ASCII)
_TOLERANCE = re.compile(rf"(.*?)\s*(?:±|\+/-)\s*({_NUMBER})\s*(%)?\s*", re.ASCII)
_UNIT = re.compile(r"[A-Za-zµμΩ°%/·*^()\-−0-9.₂ ²³]{1,40}")
_POWER = re.compile(r"\^?\s*([\-−]?\d+)")
_COUNTED = (("beat", "beats"), ("breath", "breaths"), ("cell", "cells"), ("copy", "copies"), ("drop", "drops"))
_DEFINITIONS = (
    "international_unit = [biological_activity] = IU",
    "osmole = [osmotic_amount] = Osm = osm",
    "equivalent = [charge_amount] = Eq = eq",
    "standard_body_surface = [body_surface] = bsa",
    *(f"{one} = [] = _ = {many}" for one, many in _COUNTED),
    "beats_per_minute = beat / minute = bpm",
)
# What pint takes for the same because the dimension is: a heart rate is no breathing rate, a percentage no angle.
_KINDS = {
    **dict.fromkeys(("percent", "permille", "ppm", "ppb"), "fraction"),
    **dict.fromkeys(("radian", "degree", "arcminute", "arcsecond", "turn", "grade", "steradian"), "angle"),
    **dict.fromkeys(("revolutions_per_minute", "revolutions_per_second", "revolutions_per_hour"), "angle"),
    **dict.fromkeys(("becquerel", "curie", "rutherford"), "activity"),
    **dict.fromkeys(("gray", "rads"), "absorbed dose"),
    **dict.fromkeys(("sievert", "rem"), "equivalent dose"),
    "hertz": "frequency",
    "lumen": "luminous flux",
    "beats_per_minute": "beat",
}
_FLOAT_SLACK = 1e-9
_MOST_RELATIVE = 0.01
_ALIASES = {
    "mmhg": "mmHg",
    "cmh2o": "cmH2O",
    "cm h2o": "cmH2O",
    "percent": "%",
    "mcg": "µg",
    "ui": "IU",
    "iu": "IU",
    "mm hg": "mmHg",
}
# A unit of insulin, heparin or an enzyme is the international one. pint reads "units" as micro-nits, a luminance.
_PLAIN_UNIT = re.compile(r"(?<![A-Za-z])(?:units?|([mkµμ]?)U)(?![A-Za-z])")
_SIGNS = str.maketrans({"℃": "°C", "℉": "°F"})
# A filtration rate is given for a body surface of 1.73 m2: no number of its own, and not the rate without it.
_BODY_SURFACE = re.compile(r"(?:/|\bper\b)\s*\(?1\.73\s*m\s?\^?2\)?|[*\s]\s*1\.73\s*m\s?\^-2")
_RAISED = re.compile("[⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_LOWERED = str.maketrans("⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹", "-+0123456789")


@dataclass(frozen=True, kw_only=True)
class QuantityVerdict:
    """``answer`` is the quantity as understood, "" when it is none."""

    reason: QuantityReason
    answer: str = ""


@dataclass(frozen=True)
class _Unit:
    """pint's unit, and the kinds of quantity that its dimension does not tell, each with its exponent."""

    pint: Any
    kinds: frozenset[tuple[str, float]]

    def agrees(self, other: _Unit) -> bool:
        """False for another kind of quantity. A rate "/min" may be one of anything; a bare ratio may not."""
        if self.pint.dimensionless:
            return self.kinds == other.kinds
        return self.kinds == other.kinds or not self.kinds or not other.kinds


def judge_quantity(answer: str, truth: str, tolerance: float | None = None) -> QuantityVerdict:
    """Compare two quantities.

    A truth may state its tolerance: "5.5 mmol/L ± 0.1", "70 kg ± 5%"; a plain "±" is in its unit. Otherwise
    ``tolerance`` is relative, and None means the precision of the truth: half a unit in its last place, and never more
    than 1 %. An integer without a unit (a year, a count) is exact.

    A number without a unit answers a truth without one, and no other.

    Example: ``judge_quantity("0.0055 mol/L", "5.5 mmol/L").reason == "correct"``.

    Raises:
        DataError: the truth itself cannot be read.
    """
    true_number, true_unit, allowed = _read_truth(truth, tolerance)
    read = _read(answer)
    if isinstance(read, str):
        return QuantityVerdict(reason=read)
    text, unit = read
    number = _number(text)
    said = f"{number:g} {unit}".strip()
    if bool(unit) != bool(true_unit):
        return QuantityVerdict(reason="no_unit" if true_unit else "other_dimension", answer=said)
    span = abs(number)
    if unit:
        converted = _convert(number, unit, true_unit)
        if isinstance(converted, str):
            return QuantityVerdict(reason=converted, answer=said)
        number, span = converted
    # What floating point and a conversion lose must not decide: 32 °F is 0 °C.
    allowed += _FLOAT_SLACK * max(abs(true_number), span)
    right = math.isfinite(number) and abs(number - true_number) <= allowed
    return QuantityVerdict(reason="correct" if right else "wrong", answer=said)


@lru_cache(maxsize=4096)
def _read_truth(truth: str, tolerance: float | None) -> tuple[float, str, float]:
    stated = _TOLERANCE.fullmatch(truth.strip()) if len(truth) <= 2 * _MAX_CHARS else None
    read = _read(stated[1] if stated else truth)
    if isinstance(read, str):
        raise DataError(
            f"the accepted answer {truth[:80]!r} is no quantity ({read})", remedy='write it like "5.5 mmol/L"'
        )
    text, unit = read
    number = _number(text)
    if unit and isinstance(_unit(unit), str):
        raise DataError(f"the accepted answer {truth[:80]!r} has an unknown unit", remedy="use a unit that pint knows")
    if stated is not None:
        amount = _number(stated[2])
        return number, unit, amount / 100 * abs(number) if stated[3] else amount
    if tolerance is not None:
        return number, unit, tolerance * abs(number)
    return number, unit, _precision(text, exact_integers=not unit)


def _precision(text: str, *, exact_integers: bool) -> float:
    """What a number leaves open: half a unit in its last place, at most 1 % of it."""
    mantissa, _, exponent = _plain(text).partition("e")
    _, point, decimals = mantissa.partition(".")
    if exact_integers and not point:
        return 0.0
    half: float = 0.5 * 10.0 ** (int(exponent or "0") - len(decimals))
    return min(half, _MOST_RELATIVE * abs(_number(text)))


def _read(text: str) -> tuple[str, str] | QuantityReason:
    """The number and the unit of a text, both as written, or why it is no quantity."""
    bare = text.strip()
    if len(bare) <= _MAX_CHARS:
        bare = bare.removesuffix(".").translate(_SIGNS)
        bare = _RAISED.sub(lambda raised: "^" + raised[0].translate(_LOWERED), bare)
    match = _QUANTITY.fullmatch(bare) if len(bare) <= _MAX_CHARS and bare.count("\n") == 0 else None
    if match is None:
        return "not_a_number"
    unit = (match[2] or "").strip()
    if re.search(r"(?:^|[\s,;/\-–])(?:or|and|to|bis|oder)\b|[,;–~≈<>≤≥]|(?:^|\s)[\-−]\s*\d", unit):
        return "several_numbers"
    if unit and not _UNIT.fullmatch(unit):
        return "unknown_unit"
    return match[1], unit


def _plain(text: str) -> str:
    plain = text.lower().replace(",", "").replace("−", "-").replace(" ", "")
    return re.sub(r"[x×]10\^?", "e", plain)


def _number(text: str) -> float:
    return float(_plain(text))


def _convert(number: float, unit: str, wanted: str) -> tuple[float, float] | QuantityReason:
    """The number in another unit, and its distance from the zero of its own."""
    said, true = _unit(unit), _unit(wanted)
    if isinstance(said, str) or isinstance(true, str):
        return "unknown_unit"
    try:
        converted, zero = (float(_registry().Quantity(each, said.pint).to(true.pint).magnitude) for each in (number, 0))
    except OverflowError:
        return "wrong"
    except Exception as error:  # noqa: BLE001  # pint's errors share no useful base
        if type(error).__name__ == "DimensionalityError":
            return "other_dimension"
        return "unknown_unit"
    return (converted, abs(converted - zero)) if said.agrees(true) else "other_dimension"


@lru_cache(maxsize=4096)
def _unit(text: str) -> _Unit | Literal["unknown_unit"]:
    plain = _ALIASES.get(text.lower(), text).replace("−", "-").replace("²", "^2").replace("³", "^3").replace("·", "*")
    plain = _PLAIN_UNIT.sub(r"\1IU", plain)
    plain = _BODY_SURFACE.sub("/bsa", plain)
    plain = re.sub(r"(?<=[A-Za-z])([23])(?![A-Za-z0-9])", r"^\1", plain)  # kg/m2
    if any(abs(int(power.replace("−", "-"))) > 9 for power in _POWER.findall(plain)) or "**" in plain:
        return "unknown_unit"
    registry = _registry()
    try:
        if plain.startswith("/"):  # what is left of "5.2 x10^9 /L"
            unit = registry.Unit("") / registry.parse_units(plain[1:])
        else:
            unit = registry.parse_units(plain)
        return _Unit(unit, _kinds(unit))
    except Exception:  # noqa: BLE001  # an unreadable unit raises whatever its tokens happen to trip over
        return "unknown_unit"


def _kinds(unit: Any) -> frozenset[tuple[str, float]]:
    """The kinds in a unit. Of a ratio such as mg/g or mmol/mol it is what is divided: they are different fractions."""
    registry = _registry()
    exponents: dict[str, float] = {}
    divided = registry.Unit("")
    for name, exponent in unit._units.items():
        base = registry.parse_unit_name(name)[0][1]
        kind = _KINDS.get(base) or (base if registry.Unit(name).dimensionless else "")
        if kind:
            exponents[kind] = exponents.get(kind, 0) + exponent
        elif exponent > 0:
            divided = divided * registry.Unit(name) ** exponent
    if unit.dimensionless and not exponents:
        exponents[f"ratio of {divided.dimensionality}"] = 1
    return frozenset((kind, exponent) for kind, exponent in exponents.items() if exponent)


@lru_cache(maxsize=1)
def _registry() -> Any:
    import pint  # a third of a second, paid by those who compare quantities

    registry: Any = pint.UnitRegistry(cache_folder=None)
    for definition in _DEFINITIONS:
        registry.define(definition)
    return registry
