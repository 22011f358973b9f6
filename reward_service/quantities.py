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
_COUNTED = ("beats", "breaths", "cells", "copies", "drops")
_DEFINITIONS = (
    "international_unit = [biological_activity] = IU",
    "osmole = mole = Osm = osm",
    "equivalent = [charge_amount] = Eq = eq",
    "beats_per_minute = 1 / minute = bpm",
    *(f"{what} = []" for what in _COUNTED),
)
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
_RAISED = re.compile("[⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_LOWERED = str.maketrans("⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹", "-+0123456789")


@dataclass(frozen=True, kw_only=True)
class QuantityVerdict:
    """``answer`` is the quantity as understood, "" when it is none."""

    reason: QuantityReason
    answer: str = ""


def judge_quantity(answer: str, truth: str, tolerance: float) -> QuantityVerdict:
    """Compare two quantities. ``tolerance`` is relative; a truth may state its own: "5.5 mmol/L ± 0.1", "70 kg ± 5%".

    A plain "±" is in the unit of the truth. A number without a unit answers a truth without one, and no other.

    Example: ``judge_quantity("0.0055 mol/L", "5.5 mmol/L", 0.01).reason == "correct"``.

    Raises:
        DataError: the truth itself cannot be read.
    """
    true_number, true_unit, allowed = _read_truth(truth, tolerance)
    read = _read(answer)
    if isinstance(read, str):
        return QuantityVerdict(reason=read)
    number, unit = read
    said = f"{number:g} {unit}".strip()
    if bool(unit) != bool(true_unit):
        return QuantityVerdict(reason="no_unit" if true_unit else "other_dimension", answer=said)
    if unit:
        converted = _convert(number, unit, true_unit)
        if isinstance(converted, str):
            return QuantityVerdict(reason=converted, answer=said)
        number = converted
    right = math.isfinite(number) and abs(number - true_number) <= allowed
    return QuantityVerdict(reason="correct" if right else "wrong", answer=said)


@lru_cache(maxsize=4096)
def _read_truth(truth: str, tolerance: float) -> tuple[float, str, float]:
    stated = _TOLERANCE.fullmatch(truth.strip()) if len(truth) <= 2 * _MAX_CHARS else None
    read = _read(stated[1] if stated else truth)
    if isinstance(read, str):
        raise DataError(
            f"the accepted answer {truth[:80]!r} is no quantity ({read})", remedy='write it like "5.5 mmol/L"'
        )
    number, unit = read
    if unit and isinstance(_unit(unit), str):
        raise DataError(f"the accepted answer {truth[:80]!r} has an unknown unit", remedy="use a unit that pint knows")
    if stated is None:
        return number, unit, tolerance * abs(number)
    amount = _number(stated[2])
    # The smallest slack keeps a decimal that is exactly on the bound inside it.
    return number, unit, (amount / 100 * abs(number) if stated[3] else amount) * (1 + 1e-9)


def _read(text: str) -> tuple[float, str] | QuantityReason:
    """The number and the unit of a text, or why it is no quantity."""
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
    return _number(match[1]), unit


def _number(text: str) -> float:
    plain = text.replace(",", "").replace("−", "-").replace(" ", "")
    return float(re.sub(r"[x×]10\^?", "e", plain))


def _convert(number: float, unit: str, wanted: str) -> float | QuantityReason:
    said, true = _unit(unit), _unit(wanted)
    if isinstance(said, str):
        return "unknown_unit"
    try:
        return float(_registry().Quantity(number, said).to(true).magnitude)
    except OverflowError:
        return "wrong"
    except Exception as error:  # noqa: BLE001  # pint's errors share no useful base
        if type(error).__name__ == "DimensionalityError":
            return "other_dimension"
        return "unknown_unit"


@lru_cache(maxsize=4096)
def _unit(text: str) -> Any:
    """pint's unit, or "unknown_unit"."""
    plain = _ALIASES.get(text.lower(), text).replace("−", "-").replace("²", "^2").replace("³", "^3").replace("·", "*")
    plain = _PLAIN_UNIT.sub(r"\1IU", plain)
    plain = re.sub(r"(?<=[A-Za-z])([23])(?![A-Za-z0-9])", r"^\1", plain)  # kg/m2
    if any(abs(int(power.replace("−", "-"))) > 9 for power in _POWER.findall(plain)) or "**" in plain:
        return "unknown_unit"
    registry = _registry()
    try:
        if plain.startswith("/"):  # what is left of "5.2 x10^9 /L"
            return registry.Unit("") / registry.parse_units(plain[1:])
        return registry.parse_units(plain)
    except Exception:  # noqa: BLE001  # an unreadable unit raises whatever its tokens happen to trip over
        return "unknown_unit"


@lru_cache(maxsize=1)
def _registry() -> Any:
    import pint  # a third of a second, paid by those who compare quantities

    registry: Any = pint.UnitRegistry(cache_folder=None)
    for definition in _DEFINITIONS:
        registry.define(definition)
    return registry
