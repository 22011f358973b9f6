"""A recipe: what a user writes in YAML, validated, with every room's own settings composed under one roof.

Importing this module imports no torch, no Ray and no vLLM, so that a typo is answered in a second.
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from actors.config import RolloutConfig
from data.config import DataConfig
from data.credentials import refuse_credentials
from data.errors import ConfigError
from data.strict import StrictModel
from learner.config import PACKAGE_SCHEME, GrpoConfig, LearnerConfig, SupervisedConfig, TinyPolicyConfig
from reward_service.config import RewardConfig


class RunConfig(StrictModel):
    """Where a run lives and what makes it reproducible."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="folder of the run under storage")]
    storage: Annotated[
        str, Field(description="path or URI, outside the checkout; shared by all nodes on a cluster")
    ] = "~/fleming-runs"
    seed: Annotated[int, Field(ge=0, description="seed of everything that is random")] = 0
    wait_for_nodes_s: Annotated[
        float | None,
        Field(
            ge=0, description="seconds to wait for nodes that are not there; null = 1800 with an autoscaler, else 15"
        ),
    ] = None
    dashboard: Annotated[bool, Field(description="start Ray's dashboard with a local Ray")] = True
    tensorboard: Annotated[bool, Field(description="write TensorBoard files into a local run directory")] = True


class ModelConfig(StrictModel):
    """The initial policy: a model directory, a hub name, one that an installed package carries, or a small one that the
    recipe builds itself."""

    path: Annotated[
        str | None,
        Field(description="model directory, storage URI or hub name (safetensors), or package:NAME (a GGUF in it)"),
    ] = None
    tiny: Annotated[TinyPolicyConfig | None, Field(description="build a small Qwen2-architecture policy instead")] = (
        None
    )

    @model_validator(mode="after")
    def _one_of(self) -> ModelConfig:
        if (self.path is None) == (self.tiny is None):
            raise ValueError("give exactly one of model.path and model.tiny")
        return self

    @property
    def is_packaged(self) -> bool:
        return self.path is not None and self.path.startswith(PACKAGE_SCHEME)

    @property
    def is_built(self) -> bool:
        """True when the run itself writes the initial model, into its own directory."""
        return self.tiny is not None or self.is_packaged


class EvaluationConfig(StrictModel):
    """Accuracy during training, on fixed subsets, apart from the training rollouts."""

    every: Annotated[int, Field(ge=0, description="steps between greedy evaluations; 0 = only before and after")] = 10
    questions: Annotated[int, Field(ge=1, description="size of each fixed subset")] = 64
    samples: Annotated[int, Field(ge=1, description="sampled answers per question before and after")] = 4


class LoopConfig(StrictModel):
    """The RL loop."""

    steps: Annotated[int, Field(ge=1, description="optimiser steps in all")] = 100
    questions_per_step: Annotated[int, Field(ge=1, description="groups in a batch")] = 32
    samples_per_question: Annotated[int, Field(ge=2, description="k, completions in a group")] = 8
    max_staleness: Annotated[
        int,
        Field(
            ge=0,
            le=0,
            description="policy versions a sample may lag behind; 0 = strictly on-policy, all there is so far",
        ),
    ] = 0
    max_refill_rounds: Annotated[
        int, Field(ge=0, description="times a step may draw more questions to replace groups without signal")
    ] = 3
    stop_after_barren_steps: Annotated[
        int, Field(ge=1, description="steps in a row without any signal after which the run stops and says why")
    ] = 3
    max_failed_groups: Annotated[int, Field(ge=0, description="groups per step whose verification may fail")] = 4
    checkpoint_every: Annotated[int, Field(ge=1, description="steps between commits")] = 10
    cancel_timeout_s: Annotated[
        float, Field(gt=0, description="when one half fails, the other is ended within this")
    ] = 30.0
    evaluation: EvaluationConfig = EvaluationConfig()


M = TypeVar("M", bound=BaseModel)


class Recipe(StrictModel):
    """A whole run. Sections belong to the rooms whose code they steer."""

    run: RunConfig
    model: ModelConfig
    data: DataConfig
    warm_up: SupervisedConfig = SupervisedConfig()
    rollouts: RolloutConfig = RolloutConfig()
    rewards: RewardConfig = RewardConfig()
    learner: LearnerConfig = LearnerConfig()
    grpo: GrpoConfig = GrpoConfig()
    loop: LoopConfig = LoopConfig()

    @property
    def max_model_tokens(self) -> int:
        """Longest prompt and completion together, in tokens."""
        return self.rollouts.max_prompt_tokens + self.rollouts.max_completion_tokens

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        if self.max_model_tokens > self.learner.max_tokens_per_micro_batch:
            raise ValueError(
                f"learner.max_tokens_per_micro_batch {self.learner.max_tokens_per_micro_batch} is below "
                f"rollouts.max_prompt_tokens + rollouts.max_completion_tokens = {self.max_model_tokens}: "
                "the longest sample would fit no micro-batch"
            )
        if self.learner.lora is not None and self.grpo.kl.offload:
            raise ValueError(
                "grpo.kl.offload is true, but with learner.lora the reference is the base under the adapter: there is "
                "no copy to offload; set grpo.kl.offload=false"
            )
        if self.learner.sends_adapter and self.rollouts.weight_transfer == "nccl":
            raise ValueError(
                "learner.lora.sync is adapter, but rollouts.weight_transfer=nccl sends whole weights; set "
                "rollouts.weight_transfer=object_store or learner.lora.sync=merged"
            )
        if self.grpo.optimizer_steps_per_batch > self.loop.questions_per_step:
            raise ValueError(
                "grpo.optimizer_steps_per_batch is above loop.questions_per_step: some steps would be empty"
            )
        if self.model.tiny is not None and self.model.tiny.max_positions < self.max_model_tokens:
            raise ValueError(
                f"model.tiny.max_positions {self.model.tiny.max_positions} is below rollouts.max_prompt_tokens + "
                f"rollouts.max_completion_tokens = {self.max_model_tokens}"
            )
        return self


class _RecipeLoader(yaml.SafeLoader):
    """YAML 1.1 reads ``1e-3`` as a string; people who write learning rates mean a number."""


_RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a YAML recipe and apply ``a.b=value`` overrides (values are YAML).

    Raises:
        ConfigError: the file is missing or no YAML, or a key, type or combination is refused; names field and remedy.
    """
    file = Path(path)
    try:
        document = yaml.load(file.read_text(encoding="utf-8"), Loader=_RecipeLoader)
    except FileNotFoundError as error:
        known = ", ".join(sorted(str(p) for p in Path("recipes").glob("*.yaml"))) or "none here"
        raise ConfigError(f"recipe {file} does not exist", remedy=f"give the path of a recipe ({known})") from error
    except OSError as error:
        raise ConfigError(
            f"recipe {file} cannot be read: {error.strerror}", remedy="give the path of a YAML file"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"recipe {file} cannot be read: {reason}", remedy="mend the YAML at that place") from error
    if not isinstance(document, dict):
        raise ConfigError(
            f"recipe {file} holds {type(document).__name__}, not sections", remedy="start from a shipped recipe"
        )
    run = document.setdefault("run", {})
    if isinstance(run, dict):
        run.setdefault("name", file.stem)
    return override_recipe(document, overrides, origin=str(file))


def override_recipe(document: dict[str, Any], overrides: list[str] | None, *, origin: str) -> Recipe:
    """Apply ``a.b=value`` overrides to a plain mapping and validate it."""
    for override in overrides or []:
        apply_override(document, override)
    return parse_recipe(document, origin=origin)


def parse_recipe(document: dict[str, Any], *, origin: str = "recipe") -> Recipe:
    """Validate a recipe given as a plain mapping; errors are collected into one line."""
    return validate(Recipe, document, origin=origin)


def validate(model: type[M], document: dict[str, Any], *, origin: str) -> M:
    """Settings from a plain mapping.

    Raises:
        ConfigError: everything that is wrong with them, in one line; credentials alone, before a line can show them.
    """
    refuse_credentials_in(document)
    try:
        # Through JSON, because strict mode takes YAML's lists for tuples only there.
        return model.model_validate_json(json.dumps(document, default=str))
    except ValidationError as error:
        problems = [_explain(item, model) for item in error.errors()]
        remedy = "; ".join(dict.fromkeys(remedy for _, remedy in problems))
        raise ConfigError(f"{origin}: " + "; ".join(problem for problem, _ in problems), remedy=remedy) from error


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every default written out."""
    return yaml.safe_dump(json.loads(recipe.model_dump_json()), sort_keys=False, allow_unicode=True)


def differences(old: Recipe, new: Recipe) -> dict[str, tuple[object, object]]:
    """Dotted keys whose values differ, with both values."""
    before, after = _flatten(old.model_dump(mode="json")), _flatten(new.model_dump(mode="json"))
    return {
        key: (before.get(key), after.get(key)) for key in sorted(before | after) if before.get(key) != after.get(key)
    }


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def apply_override(document: dict[str, Any], override: str) -> None:
    """Write ``a.b=value``, the value in YAML, into a mapping. Raises `ConfigError`."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(
            f"--set {override!r} is not of the form a.b=value", remedy="write for instance --set loop.steps=20"
        )
    try:
        value = yaml.load(text, Loader=_RecipeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--set {key}: {text!r} is no YAML value", remedy="quote the value for the shell and for YAML"
        ) from error
    *parents, last = key.split(".")
    node = document
    for parent in parents:
        child = node.setdefault(parent, {})
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {key}: {parent} is a value, not a section", remedy="name a key inside a section")
        node = child
    node[last] = value


def refuse_credentials_in(value: object, key: str = "") -> None:
    """Refuse URIs with credentials anywhere in what a file or overrides hold. Raises `ConfigError`."""
    if isinstance(value, str):
        refuse_credentials(key, value)
    elif isinstance(value, dict):
        for name, inner in value.items():
            refuse_credentials_in(inner, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            refuse_credentials_in(inner, key)


def _explain(item: Any, root: type[BaseModel]) -> tuple[str, str]:
    """One pydantic error as (problem, remedy) in the terms of the settings."""
    location = [str(part) for part in item["loc"]]
    field = ".".join(location) or "recipe"
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(location[-1], _known_keys(root, location[:-1]), n=1)
        return f"{field} is not a known key", f"did you mean {near[0]!r}?" if near else f"remove {field}"
    if item["type"] == "missing":
        return f"{field} is missing", f"add {field}"
    message = item["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if item["type"] == "value_error":
        return message, "change one of the keys named"
    return f"{field} = {item['input']!r}: {message}", f"correct {field}"


def _known_keys(root: type[BaseModel], location: list[str]) -> list[str]:
    model: type[BaseModel] | None = root
    for part in location:
        field = model.model_fields.get(part) if model else None
        model = _model_in(field.annotation) if field else None
    return list(model.model_fields) if model else []


def _model_in(annotation: object) -> type[BaseModel] | None:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
