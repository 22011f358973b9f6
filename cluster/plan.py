"""What a recipe will do, said before it is done."""

from __future__ import annotations

from cluster.config import Recipe, dump_recipe
from cluster.session import demands
from data.storage import Storage


def describe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, followed by the plan as comments."""
    loop, data = recipe.loop, Storage.open(recipe.run.storage).child(recipe.run.name)
    model = recipe.model.path or "a small Qwen2-architecture policy, built by the run"
    asked = [f"{d.part} {d.cpus:g} CPUs" for d in demands(recipe, on_gpu=False)]
    samples = loop.questions_per_step * loop.samples_per_question
    lines = [
        f"run        {data.uri}",
        f"model      {model}",
        f"warm-up    {recipe.warm_up.steps} supervised steps of {recipe.warm_up.batch_size}",
        f"rl         {loop.steps} steps of {loop.questions_per_step} questions x {loop.samples_per_question} samples"
        f" = {samples} completions a step, {samples * loop.steps:,} in all, before refills",
        f"tokens     at most {recipe.rollouts.max_prompt_tokens} + {recipe.rollouts.max_completion_tokens} per sample",
        f"evaluate   every {loop.evaluation.every} steps, commit every {loop.checkpoint_every}",
        f"resources  {', '.join(asked)}; with GPUs: {recipe.rollouts.actors} x {recipe.rollouts.tensor_parallel} "
        f"for rollouts, {recipe.learner.ranks} for the learner",
    ]
    return dump_recipe(recipe) + "\n# Plan\n" + "\n".join(f"#   {line}" for line in lines)
