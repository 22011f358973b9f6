"""The `trl` part of `bench/step.py`: TRL's own loop on the same work."""

from __future__ import annotations

import statistics
from typing import Any

from step_parts import LEARNING_RATE, Moment, Phases, Workload, begin_step, prompts


def trl(workload: Workload) -> dict[str, Any]:
    """TRL's own loop, with the same batch, optimiser, dtype and micro-batch rows."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOTrainer

    torch.set_num_threads(workload.threads)
    phases, tokens = Phases(), []

    class Clock(TrainerCallback):
        start: Moment
        generated: Moment

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            begin_step(workload, len(phases.get("step", {"spans": []})["spans"]) + 1)
            self.start = Moment()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            end = Moment()
            phases.add("step", self.start, end)
            phases.add("learner", self.generated, end)

    clock = Clock()

    class Trainer(GRPOTrainer):
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            with phases.time("rollout"):
                output = super()._generate_and_score_completions(inputs)
            clock.generated = Moment()
            tokens.append(int(output["completion_mask"].sum()))
            return output

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(ids[-1] % 2) for ids in completion_ids]

    model = AutoModelForCausalLM.from_pretrained(workload.model_dir, dtype=getattr(torch, workload.dtype))
    tokenizer = AutoTokenizer.from_pretrained(workload.model_dir)
    trainer = Trainer(
        model=model,
        reward_funcs=reward,
        args=trl_settings(workload),
        train_dataset=Dataset.from_dict({"prompt": prompts(workload) * workload.steps}),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    trainer.train()
    count = statistics.median(tokens[1:-1])
    rate = count / statistics.median(end - start for start, end, _ in phases["step"]["spans"][1:-1])
    return {"phases": phases, "tokens": count, "tokens_per_s": rate}


def trl_settings(workload: Workload) -> Any:
    """The paper's advantage and our batch, in TRL's terms."""
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=workload.scratch,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=workload.micro_batch_rows,
        gradient_accumulation_steps=4,
        num_generations=workload.group,
        max_completion_length=workload.max_tokens,
        max_steps=workload.steps,
        learning_rate=LEARNING_RATE,
        beta=0.0,
        temperature=1.0,
        top_k=0,
        loss_type="grpo",
        scale_rewards="none",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=0,
    )
