"""An LLM words a stem anew; the rewrite is kept only if nothing is lost, nothing is added, and nothing is given away.

The checks do not trust the model: every visible entity must stand in the rewrite as it stood before; every number must
have stood there; every telling word must come from the original or from a short list of plain words; no
other entity of the graph may appear; and no telling word of any option.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

from data.errors import DataError
from data.synthesis.compose import Made
from data.synthesis.config import RewriterConfig
from data.synthesis.words import leaks
from reward_service.chat import ChatClient, ChatError

_AT_ONCE = 16
"""Requests under way: servers batch them."""
_GIVE_UP = 8
"""Requests without a reply, one after the other, after which a rewriter is asked no more."""
PROMPT = """Rewrite the exam question below in other words, as a clinician would write it. Keep every one of these \
phrases exactly as it is: {phrases}. Add no fact, no number and no name. Do not hint at the answer. Reply with the \
rewritten question and nothing else.

{stem}"""
_WORD = re.compile(r"[a-zA-Z]+(?:-[a-zA-Z]+)*|\d+(?:\.\d+)?")
_PLAIN_WORDS = """
a an and or the of in on at to for with by from as is are was were be been being has have had this that these those
which what who whom whose where when how most likely best one following not no only all also both it its his her their
he she they him them patient patients person individual people case man woman boy girl male female year month old
years months age aged day days presents presenting presented presentation comes came seen shows showing shown show
reveals revealed found finding findings features feature picture condition disease disorder diagnosis explains explain
accounts account would could should may can will you your clinic clinical clinician history record recorded records
noted notes include includes including addition additional additionally further furthermore moreover together along
after evaluation examination exam workup work-up assessment assessed evaluated identify identified choose select
consider considered considering given known underlying cause causes caused associated association linked responsible
gene genes variant drug drugs treatment treat treats treated used use class belongs belong pharmacologic option
options question suspected probable confirmed attention referred brought sign signs symptom symptoms manifestation
manifestations besides than there here do does did
"""
_PLAIN = frozenset(_PLAIN_WORDS.split())
_NEGATION = re.compile(r"\b(not|no|without|lacks?|denies|absent|never|neither|nor)\b")


class Rewriter(Protocol):
    """Anything that answers a prompt with a text. Raises `DataError` when it cannot."""

    def complete(self, prompt: str, seed: int) -> str: ...


class EndpointRewriter:
    """A `Rewriter` over an OpenAI-compatible endpoint."""

    def __init__(self, config: RewriterConfig) -> None:
        self._config = config
        self._chat = ChatClient(config.url, config.model, timeout_s=config.timeout_s, api_key_env=config.api_key_env)

    def complete(self, prompt: str, seed: int) -> str:
        try:
            said = self._chat.reply(prompt, seed=seed, temperature=self._config.temperature, max_tokens=1024)
        except ChatError as error:
            raise DataError(
                f"the rewriter at {self._config.url} did not answer: {error}",
                remedy="check the rewriter's url and model, or leave its url empty",
            ) from error
        return said.rpartition("</think>")[2].strip()


def fault(made: Made, text: str) -> str:
    """What is wrong with a rewrite, "" when nothing is.

    Every number and every word that is not plain must stand in the original, so no other entity can slip in.
    """
    stem = made.question.stem.lower()
    lowered = text.lower()
    if not text.strip() or len(text) > 3 * len(stem) + 100:
        return "empty or far too long"
    for phrase in made.shown:
        if not re.search(rf"(?<!\w){re.escape(phrase.lower())}(?!\w)", lowered):
            return f"lost: {phrase}"
    free, before = _without(lowered, made.shown), _without(stem, made.shown)
    if bool(_NEGATION.search(free)) != bool(_NEGATION.search(before)):
        return "negation: added or lost"
    known = set(_WORD.findall(stem)) | _PLAIN
    added = [word for word in _WORD.findall(free) if word not in known]
    if added:
        return f"added: {added[0]}"
    texts = [option.text.lower() for option in made.question.options]
    if leaks([made.question.answer_text], text) or any(t in lowered and t not in stem for t in texts):
        return "gives the answer away"
    return "" if text.rstrip().endswith(("?", "？")) else "no question"


def _without(text: str, phrases: Sequence[str]) -> str:
    for phrase in sorted(phrases, key=len, reverse=True):
        text = text.replace(phrase.lower(), " ")
    return text


class _Patience:
    """Asks a rewriter until it has failed too often in a row. Threads share it."""

    def __init__(self, rewriter: Rewriter) -> None:
        self._rewriter = rewriter
        self._lock = threading.Lock()
        self._answered = False
        self._misses = 0
        self._last: DataError | None = None

    def complete(self, prompt: str, seed: int) -> str | None:
        """A reply, or None for none."""
        if self._misses >= _GIVE_UP:
            return None
        try:
            text = self._rewriter.complete(prompt, seed)
        except DataError as error:
            with self._lock:
                self._misses += 1
                self._last = error
            return None
        with self._lock:
            self._answered, self._misses = True, 0
        return text

    def require_an_answer(self) -> None:
        """Raise the last `DataError` of a rewriter that never answered."""
        if self._last is not None and not self._answered:
            raise self._last


def rewrite(made: Sequence[Made], rewriter: Rewriter, *, attempts: int, seed: int) -> tuple[list[Made], dict[str, int]]:
    """Word questions anew where a rewrite passes, their twins alike; and how often which fault was met.

    What gets no reply keeps its template. A rewriter that stops answering is asked no more; what it has worded stays.

    Raises:
        DataError: the rewriter does not answer at all.
    """
    patience = _Patience(rewriter)
    closed = [one for one in made if not one.explanation.twin_of]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        results = list(threads.map(lambda one: _rewritten(one, patience, attempts, seed), closed))
    patience.require_an_answer()
    counts: Counter[str] = Counter(kept=0, refused=0)
    now: dict[str, Made] = {}
    for one, (done, faults) in zip(closed, results, strict=True):
        counts["kept" if done else "refused"] += 1
        counts.update(f"fault: {fault}" for fault in faults)
        now[one.question.id] = done or one
    out: list[Made] = []
    for one in made:
        twin_of = one.explanation.twin_of
        question = now[twin_of or one.question.id].question
        if not twin_of:
            out.append(now[one.question.id])
        else:
            out.append(one if question.id == twin_of else _with_stem(one, question.stem, question.id))
    return out, dict(sorted(counts.items()))


def _rewritten(one: Made, patience: _Patience, attempts: int, seed: int) -> tuple[Made | None, list[str]]:
    """The question with a rewrite that passed, or None; and the faults of those that did not."""
    phrases = "; ".join(f'"{phrase}"' for phrase in one.shown) or "none"
    prompt = PROMPT.format(phrases=phrases, stem=one.question.stem)
    faults: list[str] = []
    for attempt in range(attempts):
        reply = patience.complete(prompt, seed + attempt)
        text = " ".join((reply or "").split())
        wrong = "no reply" if reply is None else fault(one, text)
        if not wrong and text != one.question.stem:
            return _with_stem(one, text, ""), faults
        faults.append(wrong.partition(":")[0] or "unchanged")
    return None, faults


def _with_stem(one: Made, stem: str, twin_of: str) -> Made:
    tags = one.question.tags if "rewritten" in one.question.tags else (*one.question.tags, "rewritten")
    question = replace(one.question, stem=stem, tags=tags)
    explanation = replace(one.explanation, question_id=question.id, twin_of=twin_of)
    return Made(question=question, explanation=explanation, shown=one.shown)
