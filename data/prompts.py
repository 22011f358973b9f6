"""The only place where a question becomes messages, and messages become token ids.

Rollouts, supervised stages, cold start and evaluation share it, so what is trained is what is asked. The version is
recorded with every completion; raise it whenever a rendered character changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from data.errors import DataError
from data.records import Question

PROMPT_VERSION = "mcq/1"

INSTRUCTION = (
    "Answer the medical question. First reason step by step inside <think></think>. "
    "Then give only {what} inside <answer></answer>{example}. "
    "Write nothing else."
)
PLAIN_END = "\nAnswer:\n"
"""Ends the prompt of a model without a chat template."""


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    chat_template: Any
    eos_token_id: Any

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Text to token ids."""
        ...

    def apply_chat_template(self, conversation: Any, *, tokenize: bool, add_generation_prompt: bool) -> Any:
        """Messages to text."""
        ...


def body_of(question: Question) -> str:
    """Context, stem and options, one per line, without instruction."""
    options = [f"{option.label}: {option.text}" for option in question.options]
    return "\n".join([*([question.context] if question.context else []), question.stem, *options])


def messages_of(question: Question) -> list[dict[str, str]]:
    """One user message: what to do, then the question. Roles other than "user" are not known to every template."""
    return [{"role": "user", "content": f"{_instruction_of(question)}\n\n{body_of(question)}"}]


def _instruction_of(question: Question) -> str:
    """What to do, in the words of the form that the question's verifier reads."""
    labels = [option.label for option in question.options]
    if question.answer_labels:
        what, example = "the letters of all right options, separated by commas,", ", ".join(labels[:2])
    elif labels:
        what, example = "the letter of the right option", labels[0]
    elif question.verifier == "yes_no_maybe":
        what, example = "yes, no or maybe", "maybe"
    elif question.verifier == "number":
        what, example = "the number with its unit", "5.2 mmol/L"
    else:
        what, example = "the answer itself, in as few words as possible,", ""
    return INSTRUCTION.format(what=what, example=f", for example <answer>{example}</answer>" if example else "")


def plain_prompt(question: Question) -> str:
    """The prompt for a model without a chat template."""
    return body_of(question) + PLAIN_END


def render_prompt(question: Question, tokenizer: Tokenizer) -> str:
    """The prompt as text: the model's chat template, or a plain one for a model without."""
    if not tokenizer.chat_template:
        return plain_prompt(question)
    text = tokenizer.apply_chat_template(messages_of(question), tokenize=False, add_generation_prompt=True)
    # Some reasoning models open the tag in the prompt; then no completion could hold both tags, as the reward asks.
    head = str(text).rstrip()
    return head.removesuffix("<think>") if head.endswith("<think>") else str(text)


def encode_prompt(question: Question, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Token ids of the prompt, ready to be completed.

    Templates write their own special tokens; the plain prompt gets those that the tokenizer puts in front (a beginning
    of sequence), never a trailing end of sequence.
    """
    text = render_prompt(question, tokenizer)
    ids = tokenizer.encode(text, add_special_tokens=not tokenizer.chat_template)
    if ids and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    return tuple(ids)


def target_text(question: Question, reasoning: str) -> str:
    """The strict format with the true answer, as the reward asks for it."""
    return f"<think>{reasoning}</think><answer>{question.target}</answer>"


def encode_target(question: Question, tokenizer: Tokenizer, reasoning: str) -> tuple[int, ...]:
    """Token ids of a demonstration, end of sequence included.

    Raises:
        DataError: the tokenizer has no end-of-sequence token, or the reasoning is empty or holds a tag.
    """
    if tokenizer.eos_token_id is None:
        raise DataError("tokenizer has no eos_token_id", remedy="use a tokenizer with an end-of-sequence token")
    tags: Sequence[str] = ("<think>", "</think>", "<answer>", "</answer>")
    if not reasoning.strip() or any(tag in reasoning for tag in tags):
        raise DataError(
            f"reasoning {reasoning[:60]!r} of question {question.id} is empty or holds a tag",
            remedy="give plain reasoning text",
        )
    ids = tokenizer.encode(target_text(question, reasoning), add_special_tokens=False)
    return (*ids, int(tokenizer.eos_token_id))
