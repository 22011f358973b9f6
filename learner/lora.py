"""Low-rank adapters (LoRA, arXiv 2106.09685) by `peft`: ``W x + (alpha / rank) B A x``, with W frozen.

The adapter is injected into the model in place, so everything that knows the model still does. Rollout engines and
exported models have the weights **merged**, ``W + (alpha / rank) B A``, under the names of the base model. They travel
to the engines so, or A and B do and each engine makes the same sum (``learner.lora.sync``). In bf16 merging rounds the
sum to bf16, which changes the sampled policy a little; the importance weights correct for it as for any other
difference between the two programs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from data.low_rank import check_targets, factor_names, merged
from learner.config import LoraConfig

ADAPTER = "default"
"""Name of the one adapter."""
_BASE = ".base_layer."


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """``scaling * b @ a``; ``a``: [rank, in], ``b``: [out, rank]; both may be ZeRO-3 shards."""

    a: torch.nn.Parameter
    b: torch.nn.Parameter
    scaling: float


@dataclass(frozen=True, kw_only=True)
class NamedWeight:
    """One weight of the model under its name in a checkpoint, and what an adapter adds to it."""

    name: str
    base: torch.nn.Parameter
    delta: LowRank | None = None

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What must be whole before `value` may be asked for."""
        return [self.base] if self.delta is None else [self.base, self.delta.a, self.delta.b]

    def value(self) -> torch.Tensor:
        """The weight as an engine is to have it, in the dtype of the base (`data.low_rank.merged`)."""
        base = self.base.detach()
        if self.delta is None:
            return base
        return merged(base, self.delta.a.detach(), self.delta.b.detach(), self.delta.scaling)

    def factors(self) -> list[NamedWeight]:
        """A and B of its adapter as weights of their own; none where it has no adapter."""
        if self.delta is None:
            return []
        pairs = zip(factor_names(self.name), (self.delta.a, self.delta.b), strict=True)
        return [NamedWeight(name=name, base=factor) for name, factor in pairs]


def add_adapter(model: Any, lora: LoraConfig, *, seed: int) -> None:
    """Freeze ``model`` and put a fresh adapter into the layers that ``lora`` names; it starts as no change at all.

    Args:
        model: a causal language model of transformers, in ZeRO-3 shards or whole.
        seed: of A (B is zero); the same on every rank.

    Raises:
        ConfigError: one of the names is that of no linear layer.
    """
    from peft import LoraConfig as PeftLora
    from peft import inject_adapter_in_model

    _check_targets(model, lora.targets)
    targets: Any = lora.targets[0] if lora.targets == ("all-linear",) else list(lora.targets)
    settings = PeftLora(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft only divides it by the rank
        target_modules=targets,
        lora_dropout=0.0,  # the three policies of the loss must differ by their weights alone
        bias="none",
        task_type="CAUSAL_LM",
    )
    dtype = next(model.parameters()).dtype
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(settings, model, ADAPTER)
    for name, parameter in model.named_parameters():
        trained = ".lora_" in name
        parameter.requires_grad_(trained)
        if trained:
            parameter.data = parameter.data.to(dtype)


def _check_targets(model: Any, targets: tuple[str, ...]) -> None:
    """Every name must be that of a linear layer: peft is content when one of them is, and takes embeddings too."""
    head = model.get_output_embeddings()
    linear = [name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear) and layer is not head]
    layers = {name.rpartition(".")[2] for name in linear}
    check_targets(targets, layers)


@contextmanager
def without_adapter(model: torch.nn.Module) -> Iterator[None]:
    """Inside, ``model`` computes what its base does, to the bit.

    The adapter's scaling is 0 for that time instead of the adapter being skipped: ZeRO-3 prefetches weights in the
    order in which layers ran before, and would have to learn another order for every such pass.
    """
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    scalings = [layer.scaling[ADAPTER] for layer in layers]
    for layer in layers:
        layer.scaling[ADAPTER] = 0.0
    try:
        yield
    finally:
        for layer, scaling in zip(layers, scalings, strict=True):
            layer.scaling[ADAPTER] = scaling


def named_weights(model: torch.nn.Module) -> list[NamedWeight]:
    """The weights of ``model`` as in a checkpoint of the base model, in order; an adapter's are folded in.

    Tied weights are named once, as the checkpoint does.
    """
    parameters = dict(model.named_parameters())
    modules = dict(model.named_modules())
    found = []
    for name, parameter in parameters.items():
        if ".lora_" in name:
            continue
        delta = None
        if _BASE in name:
            owner, _, kind = name.partition(_BASE)
            layer: Any = modules[owner]
            if kind == "weight":
                delta = LowRank(
                    a=parameters[f"{owner}.lora_A.{ADAPTER}.weight"],
                    b=parameters[f"{owner}.lora_B.{ADAPTER}.weight"],
                    scaling=layer.scaling[ADAPTER],
                )
        found.append(NamedWeight(name=name.replace(_BASE, "."), base=parameter, delta=delta))
    return found
