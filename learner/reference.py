"""The reference of the KL term: the policy that RL began with, frozen.

It is the model directory of the job, so it has no state of its own: a resumed run loads the same directory again, and
a checkpoint remembers which one that was (`learner.checkpoints`).
"""

from __future__ import annotations

import contextlib
import io

import torch

from learner.config import KlConfig
from learner.deepspeed_config import check_reference_settings, reference_config
from learner.policy import LogProbs, Rows, ZeroPolicy, load_sharded
from learner.scoring import score
from learner.tensors import collate


def reference_of(policy: ZeroPolicy, kl: KlConfig) -> LogProbs | None:
    """What gives the reference's log-probabilities: nothing without a KL term, the base under an adapter, or a copy.

    Raises:
        ConfigError: a setting that the device does not have.
    """
    if kl.coefficient == 0.0:
        return None
    logprobs: LogProbs = policy.base_logprobs if policy.learner.lora else ZeroReference(policy, kl).logprobs
    return logprobs


class ZeroReference:
    """A copy of the policy's initial model in ZeRO-3 shards, without optimiser, in host memory when offloaded.

    Costs the weights in the compute dtype, spread over the ranks, and one forward pass per batch.
    """

    def __init__(self, policy: ZeroPolicy, kl: KlConfig) -> None:
        import deepspeed

        check_reference_settings(policy.learner, kl)
        settings = reference_config(policy.learner, offload=kl.offload)
        model = load_sharded(policy.model_dir, policy.learner, settings)
        model.requires_grad_(False)
        with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed prints which op it has built
            self.engine, _, _, _ = deepspeed.initialize(model=model, config=settings)
        self.engine.eval()
        self._device, self._temperature = policy.device, policy.temperature

    @torch.no_grad()
    def logprobs(self, rows: Rows) -> torch.Tensor:
        """Log-probabilities of one micro-batch under the reference, fp32 [B, T]."""
        return score(self.engine, collate(rows, self._device), self._temperature)[0]
