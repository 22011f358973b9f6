"""Synthesis, measured: speed and memory, give-aways, and how difficulty lowers a simple solver.

    python bench/bench_synthesis.py --graph GRAPH [--questions 10000] [--workers 2] [--only-time]
    python bench/bench_synthesis.py --graph GRAPH --made QUESTIONS [--png FILE]   # give-aways and difficulty of a build

Without a graph that is there it says so and ends. `fleming graph build` makes one.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import psutil

from data.errors import FlemingError
from data.graph.queries import KnowledgeGraph
from data.intervals import wilson_interval
from data.synthesis.checks import Outcome, option_classifiers, solve
from data.synthesis.config import SynthesisConfig
from data.synthesis.generate import generate, prepare
from data.synthesis.store import Traced, load
from data.synthesis.world import World


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graph", default="~/fleming-graph")
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--png", default="")
    parser.add_argument("--made", default="", help="questions of fleming data synthesize, instead of making some")
    parser.add_argument("--only-time", action="store_true", help="speed and memory, nothing else")
    options = parser.parse_args()
    config = SynthesisConfig(graph=options.graph, questions=options.questions, workers=options.workers)
    started = time.monotonic()
    try:
        graph = KnowledgeGraph.load(config.graph)
    except FlemingError as error:
        print(f"no graph, nothing measured: {error}")
        return
    if options.made:
        world, traced = World.of(graph), load(options.made)
    else:
        world, traced = make(graph, config, started)
        if options.only_time:
            return
    print_give_aways(traced)
    outcomes = list(solve(world, traced))
    print_outcomes(outcomes)
    if options.png:
        draw(outcomes, options.png)


def make(graph: KnowledgeGraph, config: SynthesisConfig, started: float) -> tuple[World, list[Traced]]:
    """Questions, and on the screen what they cost since ``started`` (monotonic seconds)."""
    with peak_memory() as peak_of_all:
        plan = prepare(graph, config)
        prepared = time.monotonic() - started
        made = generate(plan)
    closed = sum(not one.explanation.twin_of for one in made)
    use = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in use)
    peak = ", ".join(f"{one.ru_maxrss / 2**20:.2f}" for one in use)
    seconds = time.monotonic() - started
    print(f"{closed:,} questions and {len(made) - closed:,} twins, {config.workers} workers: {seconds:.0f} s "
          f"({prepared:.0f} s of them to load and index the graph), {cpu:.0f} CPU s")  # fmt: skip
    print(f"peak memory {peak} GiB (this process, largest worker), {peak_of_all[0] / 2**30:.2f} GiB all together (PSS)")
    return plan.world, [Traced(question=one.question, explanation=one.explanation) for one in made]


@contextlib.contextmanager
def peak_memory(every_s: float = 1.0) -> Iterator[list[int]]:
    """Bytes of this process and its children at their peak, in a list of one; shared pages count once (PSS)."""
    peak, over = [0], threading.Event()
    own = psutil.Process()

    def watch() -> None:
        while not over.wait(every_s):
            total = 0
            for process in [own, *own.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    total += process.memory_full_info().pss
            peak[0] = max(peak[0], total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def print_give_aways(traced: Sequence[Traced]) -> None:
    """Options-only classifiers over all questions, and per form those that miss the interval of chance."""
    print("\noptions alone, tested on the other half (95 % interval)")
    for name, rate in option_classifiers(traced).items():
        low, high = rate.interval
        print(f"  {name:22} {rate.share:6.1%} [{low:.1%}, {high:.1%}]  chance {rate.chance:.1%}  {rate.at_chance}")
    groups: dict[str, list[Traced]] = defaultdict(list)
    for one in traced:
        groups[one.explanation.form].append(one)
    for form, group in sorted(groups.items()):
        rates = option_classifiers(group)
        off = [f"{n} {r.share:.1%}" for n, r in rates.items() if not r.at_chance]
        print(f"  {form}: {next(iter(rates.values())).total} tested; off chance: {', '.join(off) or 'none'}")


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    print("\nnearest disease by findings, remembering 35 % of them")
    for title, rows in (("hops", by_hops(outcomes)), ("similarity", by_similarity(outcomes))):
        for label, right, total in rows:
            low, high = wilson_interval(right, total)
            print(f"  {title} {label}: {right / total:.1%} [{low:.1%}, {high:.1%}] of {total}")


def by_hops(outcomes: Sequence[Outcome]) -> list[tuple[str, float, int]]:
    return _grouped([o for o in outcomes if o.form != "inheritance"], lambda o: str(o.hops))


def by_similarity(outcomes: Sequence[Outcome]) -> list[tuple[str, float, int]]:
    """Accuracy on diagnoses, by fifths of the similarity of the distractors' diseases."""
    found = sorted((o for o in outcomes if o.form == "diagnosis"), key=lambda o: o.similarity)
    size = max(1, len(found) // 5)
    parts = [found[i * size : (i + 1) * size if i < 4 else len(found)] for i in range(5)]
    return [
        (f"{part[0].similarity:.2f} to {part[-1].similarity:.2f}", sum(o.hit for o in part), len(part))
        for part in parts if part
    ]  # fmt: skip


def _grouped(outcomes: Sequence[Outcome], key: Callable[[Outcome], str]) -> list[tuple[str, float, int]]:
    groups: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        groups[key(outcome)].append(outcome.hit)
    return [(label, sum(hits), len(hits)) for label, hits in sorted(groups.items())]


def draw(outcomes: Sequence[Outcome], target: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axis, title, rows in (
        (axes[0], "hops from the vignette to the answer", by_hops(outcomes)),
        (axes[1], "similarity of the distractors' diseases (diagnosis)", by_similarity(outcomes)),
    ):
        shares = [right / total for _, right, total in rows]
        spans = [wilson_interval(right, total) for _, right, total in rows]
        errors = [[s - low for s, (low, _) in zip(shares, spans, strict=True)],
                  [high - s for s, (_, high) in zip(shares, spans, strict=True)]]  # fmt: skip
        axis.errorbar([label.replace(" to ", "\n") for label, *_ in rows], shares, yerr=errors, marker="o", capsize=3)
        axis.axhline(0.25, color="grey", linestyle="--", linewidth=1)
        axis.set_xlabel(title)
        axis.set_ylim(0, 1)
    axes[0].set_ylabel("accuracy, 95 % interval")
    figure.suptitle("A nearest-disease solver that remembers 35 % of all findings (dashed: chance)", fontsize=10)
    figure.tight_layout()
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main()
