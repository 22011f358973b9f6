"""HPO questions: the truth is annotated, distractors are false under the true-path rule, splits share no disease."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import pytest

from data.config import HpoConfig
from data.errors import DataError
from data.sources.hpo import QuestionSplits, reasoning_of, splits_of
from data.sources.hpo_files import Disease, Hpo, family_of, load_hpo, parse_frequency, parse_hpoa, parse_obo

SMALL = HpoConfig(train_questions=64, held_out_questions=32, warm_up_questions=3000)


@pytest.fixture(scope="module")
def hpo() -> Hpo:
    return load_hpo()


@pytest.fixture(scope="module")
def splits(hpo: Hpo) -> QuestionSplits:
    return splits_of(hpo, SMALL)


def upwards(hpo: Hpo, term: str) -> set[str]:
    """An independent walk to the root, the term itself included."""
    seen: set[str] = set()
    todo = [term]
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            todo.extend(hpo.terms[current].parents)
    return seen


def test_truths_are_annotated_and_distractors_are_not(hpo: Hpo, splits: QuestionSplits) -> None:
    by_name: dict[str, str] = {term.name: identifier for identifier, term in hpo.terms.items()}
    families: dict[str, list[Disease]] = {}
    for entry in hpo.diseases.values():
        families.setdefault(entry.family, []).append(entry)
    for question in splits.train + splits.held_out + splits.warm_up[:200]:
        disease = hpo.diseases[question.provenance.row]
        same_name = families[disease.family]
        facts = {term for d in same_name for term in d.findings}
        implied = {above for fact in facts for above in upwards(hpo, fact)}
        assert question.provenance.path == (disease.id, by_name[question.answer_text])
        for option in question.options:
            term = by_name[option.text]
            assert "HP:0000118" in upwards(hpo, term), "not a finding"
            if option.label == question.answer_label:
                assert term in disease.findings and term not in disease.negated
            else:
                assert term not in implied, "annotated, or an ancestor of what is annotated"
                assert not facts & upwards(hpo, term), "a descendant of what is annotated"


def test_splits_share_no_disease(hpo: Hpo, splits: QuestionSplits) -> None:
    families = [
        {hpo.diseases[q.provenance.row].family for q in part}
        for part in (splits.train, splits.held_out, splits.warm_up)
    ]
    assert [len(part) for part in families[:2]] == [64, 32]
    assert not families[0] & families[1] and not families[0] & families[2] and not families[1] & families[2]
    assert len({q.id for q in splits.train + splits.held_out + splits.warm_up}) == 64 + 32 + 3000


def test_every_letter_is_right_equally_often(splits: QuestionSplits) -> None:
    for part in (splits.train, splits.held_out, splits.warm_up):
        counts = Counter(q.answer_label for q in part)
        assert set(counts.values()) == {len(part) // 4}


def test_same_seed_same_questions_and_another_seed_others(hpo: Hpo, splits: QuestionSplits) -> None:
    again = splits_of(load_hpo(), SMALL)
    assert [q.id for q in again.train + again.warm_up] == [q.id for q in splits.train + splits.warm_up]
    other = splits_of(hpo, HpoConfig(train_questions=64, warm_up_questions=10, seed=1))
    assert {q.id for q in other.train}.isdisjoint({q.id for q in splits.train[:32]}) or other.train != splits.train
    assert [q.id for q in other.train] != [q.id for q in splits.train]


def test_questions_are_short_and_say_where_they_are_from(splits: QuestionSplits) -> None:
    for question in splits.train:
        assert len(question.options) == 4 and len(question.stem) < 60 and question.language == "en"
        assert question.provenance.dataset == "hpo" and question.provenance.dataset_version == "2025-01-16"
        assert question.answer_text not in reasoning_of(question), "a demonstration must not hint at one option"


def test_too_many_questions_are_refused(hpo: Hpo) -> None:
    with pytest.raises(DataError, match=r"train.*of \(100000"):
        splits_of(hpo, HpoConfig(train_questions=100_000))


OBO = """format-version: 1.2

[Term]
id: HP:0000118
name: Phenotypic abnormality

[Term]
id: HP:1
name: Long fingers
alt_id: HP:11
is_a: HP:0000118 ! Phenotypic abnormality

[Term]
id: HP:2
name: obsolete thing
is_obsolete: true

[Typedef]
id: part_of
name: part of
"""

COLUMNS = "database_id disease_name qualifier hpo_id reference evidence onset frequency sex modifier aspect biocuration"
HEADER = COLUMNS.replace(" ", "\t") + "\n"


def row(disease: str, qualifier: str, term: str, frequency: str = "", aspect: str = "P") -> str:
    return f"{disease}\tName of {disease}\t{qualifier}\t{term}\tPMID:1\tPCS\t\t{frequency}\t\t\t{aspect}\tx\n"


def test_obsolete_terms_are_gone_and_old_ids_are_mapped() -> None:
    terms, current = parse_obo(io.StringIO(OBO))
    assert set(terms) == {"HP:0000118", "HP:1"}
    assert current["HP:11"] == "HP:1" and "HP:2" not in current


def test_denied_findings_are_never_facts() -> None:
    text = (
        "#version: 2025-01-16\n" + HEADER + row("D:1", "", "HP:11", "3/7") + row("D:2", "NOT", "HP:1")
        + row("D:3", "", "HP:1", "0/5") + row("D:4", "", "HP:1", aspect="I") + row("D:5", "", "HP:2")
    )  # fmt: skip
    version, diseases = parse_hpoa(io.StringIO(text), parse_obo(io.StringIO(OBO))[1])
    assert version == "2025-01-16"
    assert diseases["D:1"].findings == {"HP:1": pytest.approx(3 / 7)}
    for denied in ("D:2", "D:3"):
        assert not diseases[denied].findings and diseases[denied].negated == {"HP:1"}
    assert set(diseases) == {"D:1", "D:2", "D:3"}


def test_the_711_negations_of_the_release_are_kept_apart(hpo: Hpo) -> None:
    text = (Path(load_path()) / "phenotype.hpoa").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    denied = {(r[0], r[3]) for r in rows if r[2] == "NOT" and r[10] == "P"}
    stated = {(r[0], r[3]) for r in rows if r[2] == "" and r[10] == "P"}
    assert len([r for r in rows if r[2] == "NOT"]) == 711
    for disease, term in denied - stated:
        if term in hpo.terms:
            assert term in hpo.diseases[disease].negated and term not in hpo.diseases[disease].findings


def load_path() -> str:
    from data.sources.hpo_files import hpo_directory

    return str(hpo_directory())


@pytest.mark.parametrize(
    ("raw", "share"),
    [("3/4", 0.75), ("45%", 0.45), ("HP:0040285", 0.0), ("HP:0040280", 1.0), ("", None), ("0/0", None), ("n/a", None)],
)
def test_frequencies(raw: str, share: float | None) -> None:
    assert parse_frequency(raw) == share


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Noonan syndrome 4", "noonan syndrome"),
        ("Usher syndrome, type IIA", "usher syndrome"),
        ("Noonan syndrome", "noonan syndrome"),
        ("Marfan syndrome; MFS", "marfan syndrome"),
        ("Cutis laxa, autosomal recessive 2", "cutis laxa"),
        ("Vitamin D deficiency", "vitamin d deficiency"),
    ],
)
def test_subtypes_belong_to_one_family(name: str, family: str) -> None:
    assert family_of(name) == family


def test_missing_or_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"hp\.obo is missing"):
        load_hpo(str(tmp_path))
    (tmp_path / "hp.obo").write_text("nothing", encoding="utf-8")
    (tmp_path / "phenotype.hpoa").write_text("nothing", encoding="utf-8")
    with pytest.raises(DataError, match=r"hp\.obo line 1"):
        load_hpo(str(tmp_path))
    (tmp_path / "hp.obo").write_text(OBO.replace("HP:0000118", "HP:0"), encoding="utf-8")
    with pytest.raises(DataError, match="HP:0000118"):
        load_hpo(str(tmp_path))
    (tmp_path / "hp.obo").write_text(OBO, encoding="utf-8")
    with pytest.raises(DataError, match=r"phenotype\.hpoa begins"):
        load_hpo(str(tmp_path))


def test_an_open_book_holds_the_truth_and_no_distractor(hpo: Hpo) -> None:
    config = SMALL.model_copy(update={"facts_in_context": 6, "warm_up_questions": 200})
    open_book = splits_of(hpo, config)
    by_name = {term.name: identifier for identifier, term in hpo.terms.items()}
    for question in open_book.train + open_book.held_out + open_book.warm_up:
        disease = hpo.diseases[question.provenance.row]
        head, _, told = question.context.rstrip(".").partition(" is known for: ")
        names = told.split(", ")
        assert head == disease.name and len(names) == len(set(names)) <= 6
        assert all(by_name[name] in disease.findings for name in names)
        assert question.answer_text in names
        assert not {o.text for o in question.options if o.label != question.answer_label} & set(names)
        verdicts = [part for part in reasoning_of(question).split(".") if part]
        right = [part.strip()[0] for part in verdicts if part.endswith(", yes")]
        assert len(verdicts) == 4 and right == [question.answer_label]
        assert "open-book" in question.tags
    places = Counter(
        q.context.split(": ")[1].rstrip(".").split(", ").index(q.answer_text)
        for q in open_book.warm_up
        if q.context.count(", ") == 5
    )
    assert len(places) == 6, "the truth stands anywhere in the text"


def test_a_closed_book_is_what_it_was(splits: QuestionSplits) -> None:
    assert all(q.context == "" and q.tags == ("one-hop",) for q in splits.train)
    assert {reasoning_of(q) for q in splits.train} == {"recall"}
