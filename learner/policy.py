"""The policy that learns: a causal language model under DeepSpeed ZeRO-3, on CPU or CUDA.

Every method is a collective: all ranks call it, in the same order, the same number of times.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from data.errors import EngineError, SetupError
from data.storage import local_copy
from data.wire import SupervisedSequence, TrainSequence
from learner.collectives import from_rank_zero
from learner.config import LearnerConfig, OptimizerConfig
from learner.deepspeed_config import deepspeed_config
from learner.lora import add_adapter, without_adapter
from learner.packing_check import check_packing
from learner.process import check_model_dir
from learner.schedule import learning_rate_at
from learner.scoring import install_scoring_head, score
from learner.segments import ATTENTION, register
from learner.tensors import TokenBatch, collate

Stats = TypeVar("Stats")
Rows = Sequence[TrainSequence | SupervisedSequence]
LossFunction = Callable[[TokenBatch, torch.Tensor, torch.Tensor], tuple[torch.Tensor, Stats]]
"""(batch, log-probabilities [B, T] with a gradient, entropy [B, T]) -> (this rank's part of the loss, statistics)."""

LogProbs = Callable[[Rows], torch.Tensor]
"""Rows of one micro-batch to their log-probabilities, [B, T] without gradient; a collective."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """``grad_norm`` is the global norm before clipping; ``learning_rate`` the one that was used."""

    grad_norm: float
    learning_rate: float


class ZeroPolicy:
    """A model directory loaded straight into ZeRO-3 shards, with its optimiser.

    The default process group must be up. Packed batches without padding; ``temperature`` divides the logits.

    Raises:
        SetupError: the directory is not a model that can be loaded, or one that cannot be trained in packed rows.
        ConfigError: a setting that the device does not have.
    """

    def __init__(
        self,
        model_dir: str,
        learner: LearnerConfig,
        optimizer: OptimizerConfig,
        *,
        total_optimizer_steps: int,
        temperature: float = 1.0,
    ) -> None:
        import deepspeed

        self.learner = _resolved_here(learner)
        self.device = torch.device(self.learner.device)
        if self.device.type == "cuda":
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.temperature = temperature
        self.optimizer_step = 0
        self.model_dir = local_copy(model_dir)
        self._optimizer = optimizer
        self._total = total_optimizer_steps
        settings = deepspeed_config(self.learner, optimizer)
        model = load_sharded(self.model_dir, self.learner, settings)
        if self.learner.lora is not None:
            add_adapter(model, self.learner.lora, seed=from_rank_zero(torch.initial_seed(), self.device))
        if self.learner.activation_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed prints which op it has built
            self.engine, _, _, _ = deepspeed.initialize(
                model=model, model_parameters=[p for p in model.parameters() if p.requires_grad], config=settings
            )
        self.engine.train()
        check_packing(self.logprobs, model.config.get_text_config().vocab_size, self.dtype)

    @property
    def module(self) -> torch.nn.Module:
        module: torch.nn.Module = self.engine.module
        return module

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.learner.dtype]

    def _forward(self, batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropy of the completion tokens, [B, T] each."""
        return score(self.engine, batch, self.temperature)

    @torch.no_grad()
    def logprobs(self, rows: Rows) -> torch.Tensor:
        """Current log-probabilities of one micro-batch, laid out as `collate` does, fp32 [B, T], without gradient."""
        return self._forward(collate(rows, self.device))[0]

    @torch.no_grad()
    def base_logprobs(self, rows: Rows) -> torch.Tensor:
        """As `logprobs`, of the base under the adapter."""
        with without_adapter(self.module):
            return self._forward(collate(rows, self.device))[0]

    def forward_backward(self, rows: Rows, loss_of: LossFunction[Stats], *, last: bool) -> Stats:
        """Add one micro-batch to the gradient; ``last`` marks the end of an optimiser step.

        ``loss_of`` returns this rank's share of a *sum* over all ranks. ZeRO averages gradients over the ranks, so the
        share is multiplied by their number: the gradient does not depend on how rows are spread.
        """
        self.engine.set_gradient_accumulation_boundary(is_boundary=last)
        batch = collate(rows, self.device)
        logprobs, entropy = self._forward(batch)
        loss, stats = loss_of(batch, logprobs, entropy)
        self.engine.backward(loss * dist.get_world_size(), scale_wrt_gas=False)
        return stats

    def step(self) -> StepResult:
        """Clip, take the optimiser step, clear the gradient.

        Raises:
            EngineError: the gradient is not finite. The weights are spoilt then: restart from a checkpoint.
        """
        rate = learning_rate_at(self._optimizer, self.optimizer_step, self._total)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        self.engine.step()
        norm = self.engine.get_global_grad_norm()
        grad_norm = float(norm) if norm is not None else 0.0
        if grad_norm != grad_norm or grad_norm in (float("inf"), -1.0):
            raise EngineError(
                f"the gradient of optimiser step {self.optimizer_step + 1} is not finite",
                remedy="lower optimizer.learning_rate, or set learner.dtype=float32",
            )
        self.optimizer_step += 1
        return StepResult(grad_norm=grad_norm, learning_rate=rate)


def _resolved_here(learner: LearnerConfig) -> LearnerConfig:
    """Fill in what "auto" means for a process that was started without `resolve_device`."""
    device = learner.device if learner.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = learner.dtype if learner.dtype != "auto" else ("bfloat16" if device == "cuda" else "float32")
    return learner.model_copy(update={"device": device, "dtype": dtype})


def load_sharded(model_dir: str, learner: LearnerConfig, settings: dict[str, Any]) -> Any:
    """Load a model so that no rank holds it whole: transformers sees the ZeRO-3 settings and shards as it reads. Its
    attention and output layer are the learner's: `learner.segments`, `learner.scoring`."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    check_model_dir(model_dir)
    register()
    sharding = HfDeepSpeedConfig(settings)  # transformers keeps a weak reference to it, for as long as it lives
    try:
        config = AutoConfig.from_pretrained(model_dir, trust_remote_code=False, local_files_only=True)
        _without_dropout(config)
        model = AutoModelForCausalLM.from_pretrained(
            model_dir,
            config=config,
            dtype=DTYPES[learner.dtype],
            attn_implementation=ATTENTION,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (OSError, ValueError) as error:
        raise SetupError(
            f"the model in {model_dir} cannot be loaded: {error}",
            remedy="give a model directory with safetensors weights",
        ) from error
    finally:
        del sharding
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # some models have a share of their own, whatever their configuration says
    install_scoring_head(model, int(learner.logits_chunk_mib * 2**20))
    return model


def _without_dropout(config: Any) -> None:
    """The policies of the loss must differ by their weights alone. Models call it ``attention_dropout``,
    ``resid_pdrop``, ``hidden_dropout_prob``, ``layerdrop``; what has another name shows in `check_packing`."""
    text = config.get_text_config()  # of a model that also sees, the part that writes; else the configuration itself
    for name, value in vars(text).items():
        if "drop" in name and isinstance(value, float):
            setattr(text, name, 0.0)
