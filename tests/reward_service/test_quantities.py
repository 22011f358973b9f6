"""Numbers with units: what is the same quantity, what is within the precision of the truth, and what is neither."""

from __future__ import annotations

import pytest

from data.errors import DataError
from reward_service.config import RewardConfig
from reward_service.quantities import judge_quantity
from reward_service.reward import score_text
from tests.reward_service.examples import answered, open_question

CONFIG = RewardConfig()


@pytest.mark.parametrize(
    ("answer", "truth", "reason"),
    [
        ("5.5 mmol/L", "5.5 mmol/L", "correct"),
        ("0.0055 mol/L", "5.5 mmol/L", "correct"),
        ("5.5 mmol/l.", "5.5 mmol/L", "correct"),
        ("5.54 mmol/L", "5.5 mmol/L", "correct"),  # rounds to the truth
        ("5.56 mmol/L", "5.5 mmol/L", "wrong"),
        ("5.56 mmol/L", "5.5 mmol/L ± 0.1", "correct"),
        ("71.4 kg", "68 kg ± 5%", "correct"),
        ("71.5 kg", "68 kg ± 5%", "wrong"),
        ("120 mmHg", "16 kPa", "correct"),
        ("37 °C", "98.6 degF", "correct"),
        ("1,200 mg", "1.2 g", "correct"),
        ("24 kg/m2", "24 kg/m^2", "correct"),
        ("5.2 x10^9 /L", "5.2 ×10^9/L", "correct"),
        ("72 bpm", "72 beats/min", "correct"),
        ("140 mEq/L", "140 mEq/L", "correct"),
        ("12 cm H2O", "12 cmH2O", "correct"),
        ("5 µg", "5 μg", "correct"),  # micro sign and Greek mu
        ("−5", "-5", "correct"),
        ("120 mm Hg", "120 mmHg", "correct"),
        ("38 ℃", "38 °C", "correct"),
        ("5.2 ×10⁹/L", "5.2 x10^9/L", "correct"),
        ("5.2 x10^9/L", "5.2 ×10⁹ L⁻¹", "correct"),
        ("5 mmol·L⁻¹", "5 mmol/L", "correct"),
        ("24 kg/m²", "24 kg/m^2", "correct"),
        ("5²", "25", "other_dimension"),
        ("10 IU", "10 units", "correct"),
        ("10 U", "10 units", "correct"),
        ("1 unit", "1 IU", "correct"),
        ("40 U/L", "40 IU/L", "correct"),
        ("4 mU/L", "4 mIU/L", "correct"),
        ("5 ucd/m^2", "5 units", "other_dimension"),
        ("5 Mg", "5 mg", "wrong"),  # a megagram
        ("5.5", "5.5 mmol/L", "no_unit"),
        ("5.5 mmol/L", "5.5", "other_dimension"),
        ("5 mg", "5 mL", "other_dimension"),
        ("5-6 mg", "5 mg", "several_numbers"),
        ("5 mg or 6 mg", "5 mg", "several_numbers"),
        ("5 to 6 mg", "5 mg", "several_numbers"),
        ("~5 mg", "5 mg", "not_a_number"),
        ("5, 6 mg", "5 mg", "several_numbers"),
        ("5 mg 6 mg", "5 mg", "unknown_unit"),
        ("5 mg of it", "5 mg", "unknown_unit"),
        ("nan", "5", "not_a_number"),
        ("inf", "5", "not_a_number"),
        ("1e999", "5", "wrong"),
        ("٥", "5", "not_a_number"),
        ("５", "5", "not_a_number"),
        ("5 m^99999999", "5 m", "unknown_unit"),
        ("5 m**9**9", "5 m", "unknown_unit"),
        ("5 __import__('os')", "5 m", "unknown_unit"),
        ("5" * 10_000, "5", "not_a_number"),
    ],
)
def test_quantities(answer: str, truth: str, reason: str) -> None:
    assert judge_quantity(answer, truth).reason == reason


@pytest.mark.parametrize(
    ("answer", "truth", "reason"),
    [
        ("2017", "2017", "correct"),
        ("2017.0", "2017", "correct"),
        ("1998", "2017", "wrong"),  # within 1 %, and another year
        ("2018", "2017", "wrong"),
        ("46.4", "46", "wrong"),  # a count of chromosomes
        ("-5.01", "-5", "wrong"),
        ("7.33", "7.33", "correct"),
        ("7.334", "7.33", "correct"),
        ("7.34", "7.33", "wrong"),
        ("7.40", "7.33", "wrong"),  # within 1 %, and another acid-base status
        ("7.4", "7.40", "correct"),
        ("7.41", "7.40", "wrong"),
        ("5.05 mg", "5 mg", "correct"),
        ("5.4 mg", "5 mg", "wrong"),  # rounds to the truth, and is 8 % off
        ("1.2 L", "1 L", "wrong"),
        ("70.4 kg", "70 kg", "correct"),
        ("70.6 kg", "70 kg", "wrong"),
        ("154 lb", "70 kg", "correct"),
        ("5.24 x10^9/L", "5.2 x10^9/L", "correct"),
        ("5.26 x10^9/L", "5.2 x10^9/L", "wrong"),
        ("5.2E9 /L", "5.2e9 /L", "correct"),
        ("0 mg", "0 mg", "correct"),
        ("0.01 mg", "0 mg", "wrong"),
        ("0.03", "0.0", "wrong"),
        ("32 degF", "0 degC", "correct"),
        ("0 °C", "32 °F", "correct"),
        ("-40 °C", "-40 °F", "correct"),
        ("273.15 K", "0 °C", "correct"),
        ("32.1 °F", "0 °C", "wrong"),
        ("0.000001 mm", "0 km", "wrong"),
    ],
)
def test_the_tolerance_is_the_precision_of_the_truth(answer: str, truth: str, reason: str) -> None:
    assert judge_quantity(answer, truth).reason == reason


def test_a_recipe_may_set_a_relative_tolerance() -> None:
    question = open_question("number", "7.33")
    assert score_text(question, answered("7.40"), CONFIG).correct == 0.0
    assert score_text(question, answered("7.40"), RewardConfig(number_tolerance=0.01)).correct == 1.0
    assert score_text(question, answered("7.334"), RewardConfig(number_tolerance=0.0)).correct == 0.0


@pytest.mark.parametrize(
    ("answer", "truth", "reason"),
    [
        ("5 %", "0.05 rad", "other_dimension"),
        ("180 degree", "3.14159 rad", "correct"),
        ("16 breaths/min", "16 beats/min", "other_dimension"),
        ("72 bpm", "72 breaths/min", "other_dimension"),
        ("72 bpm", "72 beats/min", "correct"),
        ("72 /min", "72 beats/min", "correct"),
        ("1 Hz", "60 beats/min", "other_dimension"),
        ("1 Hz", "60 rpm", "other_dimension"),
        ("2 Gy", "2 Sv", "other_dimension"),
        ("200 cGy", "2 Gy", "correct"),
        ("200 mSv", "20 rem", "correct"),
        ("5 Hz", "5 Bq", "other_dimension"),
        ("1 µCi", "37 kBq", "correct"),
        ("5 drops/min", "5 cells/min", "other_dimension"),
        ("5 copies/mL", "5 cells/mL", "other_dimension"),
        ("5000 cells/mL", "5 cells/µL", "correct"),
        ("65 mmol/mol", "6.5 %", "other_dimension"),  # HbA1c: 48 mmol/mol is 6.5 %
        ("30 mg/g", "30 mmol/mol", "other_dimension"),
        ("30 mg/g", "30 g/kg", "correct"),
        ("290 mmol/kg", "290 mOsm/kg", "other_dimension"),
        ("290 mOsm/kg", "290 mosm/kg", "correct"),
        ("60 mL/min/1.73 m2", "60 mL/min/1.73m²", "correct"),
        ("60 mL/min per 1.73 m^2", "60 mL/min/1.73 m2", "correct"),
        ("60 mL·min⁻¹·1.73 m⁻²", "60 mL/min/1.73 m2", "correct"),
        ("1 mL/s/1.73 m2", "60 mL/min/(1.73 m2)", "correct"),
        ("59 mL/min/1.73 m2", "60 mL/min/1.73 m2", "wrong"),
        ("60 mL/min", "60 mL/min/1.73 m2", "other_dimension"),
        ("60 mL/min/1.73 m2", "60 mL/min", "other_dimension"),
        ("34.7 mL/min/m2", "60 mL/min/1.73 m2", "other_dimension"),
        ("60 mL/min/1.80 m2", "60 mL/min/1.73 m2", "unknown_unit"),
    ],
)
def test_kinds_of_quantity_that_share_a_dimension_are_told_apart(answer: str, truth: str, reason: str) -> None:
    assert judge_quantity(answer, truth).reason == reason


@pytest.mark.parametrize("truth", ["about five", "5 flurbs"])
def test_a_truth_that_is_no_quantity_is_a_fault_of_the_data(truth: str) -> None:
    with pytest.raises(DataError, match="accepted answer"):
        judge_quantity("5", truth, 0.01)


def test_an_unreadable_number_earns_no_format() -> None:
    question = open_question("number", "5 mg")
    assert score_text(question, answered("5000 µg"), CONFIG).reward == pytest.approx(1.1)
    assert score_text(question, answered("6 mg"), CONFIG).reward == pytest.approx(0.1)
    assert score_text(question, answered("5 or 6 mg"), CONFIG).reward == 0.0
