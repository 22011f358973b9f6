"""The stage before any learning: questions on disk, an initial model, its tokenizer."""

from __future__ import annotations

import io
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from cluster.config import ModelConfig, Recipe
from cluster.progress import Reporter
from cluster.run_store import RunStore
from data.errors import DataError
from data.load import load_questions
from data.prompts import encode_prompt, encode_target, plain_prompt, target_text
from data.records import Question
from data.sources.hpo import QuestionSplits, reasoning_of
from data.storage import Storage, local_copy
from data.tables import read_parquet, to_table, write_parquet
from data.wire import SupervisedSequence
from learner.packaged_model import packaged_gguf, save_gguf

QUESTIONS = "data/questions.parquet"
INITIAL = "models/initial"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The questions by split, the directory (or URI) of the initial model, and its tokenizer."""

    splits: QuestionSplits
    model_dir: str
    tokenizer: Any

    @property
    def chance(self) -> float:
        """Accuracy of guessing among the options of the training questions."""
        return statistics.fmean(1 / len(q.options) if q.options else 0.0 for q in self.splits.train)


def questions_of(recipe: Recipe, store: RunStore) -> QuestionSplits:
    """The questions that the run already has, else those of the recipe's source; writes nothing.

    Raises:
        DataError: they cannot be read or made.
    """
    return _read(store) if store.storage.exists(QUESTIONS) else load_questions(recipe.data.questions)


def prepare(recipe: Recipe, store: RunStore, splits: QuestionSplits, reporter: Reporter) -> Prepared:
    """Write the questions and build the model where they are not there yet; a resumed run finds both."""
    if not store.storage.exists(QUESTIONS):
        store.storage.write(QUESTIONS, _parquet(splits))
    model_dir = str(recipe.model.path)
    if recipe.model.is_built:
        model_dir = store.storage.child(INITIAL).uri
        if not store.storage.exists(f"{INITIAL}/config.json"):
            build = ray.remote(num_cpus=0, max_calls=1)(_build_model)  # its process holds the whole model: let it go
            ray.get(build.remote(recipe.model, store.storage, _texts(splits)))
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(local_copy(model_dir), trust_remote_code=False, local_files_only=True)
    check_prompts(recipe, splits, tokenizer)
    counts = ", ".join(f"{len(getattr(splits, name))} {name}" for name in ("train", "held_out", "warm_up"))
    left_out = f"; rows left out: {splits.left_out}" if splits.left_out else ""
    reporter.line(f"prepare  {counts} questions{left_out}")
    return Prepared(splits=splits, model_dir=model_dir, tokenizer=tokenizer)


def check_prompts(recipe: Recipe, splits: QuestionSplits, tokenizer: Any) -> None:
    """Refuse questions that do not fit before engines start, not when one is drawn. Raises `DataError`."""
    limit = recipe.rollouts.max_prompt_tokens
    lengths = {q: len(encode_prompt(q, tokenizer)) for q in (*splits.train, *splits.held_out)}
    if too_long := [question for question, length in lengths.items() if length > limit]:
        worst = max(too_long, key=lengths.__getitem__)
        raise DataError(
            f"{len(too_long)} of {len(lengths)} questions have prompts above rollouts.max_prompt_tokens = {limit}; the "
            f"longest has {lengths[worst]} tokens ({worst.id}: {worst.stem[:60]!r})",
            remedy=f"set rollouts.max_prompt_tokens to {lengths[worst]}, or leave the questions out "
            "(data.questions.choices.max_chars)",
        )


def warm_up_sequences(prepared: Prepared) -> list[SupervisedSequence]:
    """Demonstrations on questions that RL never sees: the right letter in the strict format."""
    tokenizer = prepared.tokenizer
    return [
        SupervisedSequence(
            prompt_token_ids=encode_prompt(question, tokenizer),
            token_ids=encode_target(question, tokenizer, reasoning_of(question)),
        )
        for question in prepared.splits.warm_up
    ]


def _build_model(config: ModelConfig, store: Storage, texts: list[str]) -> None:
    """Write the initial model into the run. Runs in a Ray task: the driver needs no torch."""
    from transformers.utils import logging

    from learner.tiny_policy import build_tiny_policy

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="fleming-model-") as folder:
        if config.tiny is not None:
            build_tiny_policy(config.tiny, texts, folder)
        else:
            save_gguf(packaged_gguf(str(config.path)), Path(folder))
        # config.json last: a directory without it is not a model yet.
        for path in sorted(Path(folder).iterdir(), key=lambda path: path.name == "config.json"):
            store.write(f"{INITIAL}/{path.name}", path.read_bytes())


def _texts(splits: QuestionSplits) -> list[str]:
    """What the tokenizer is trained on: prompts and demonstrations, of the warm-up when there is one."""
    questions = splits.warm_up or splits.train
    return [text for q in questions for text in (plain_prompt(q), target_text(q, reasoning_of(q)))]


def _parquet(splits: QuestionSplits) -> bytes:
    sink = io.BytesIO()
    write_parquet(to_table([*splits.train, *splits.held_out, *splits.warm_up]), sink)
    return sink.getvalue()


def _read(store: RunStore) -> QuestionSplits:
    return QuestionSplits.of(read_parquet(Question, pa.BufferReader(store.storage.read(QUESTIONS))))
