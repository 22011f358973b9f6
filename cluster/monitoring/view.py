"""How a run looks in a terminal: stage, learning curve, throughput, queues, actors, completions and events.

Pure: a `Sight` in, something for rich to print out. Every text is put in as `Text`, so that no markup in it is obeyed.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.monitoring.catalogue import PHASES, STAGES
from cluster.monitoring.sight import ActorSeen, Sight

_BLOCKS = " ▁▂▃▄▅▆▇█"
CURVE_WIDTH, CURVE_HEIGHT = 44, 6
SPARK_WIDTH = 24
_STATE_STYLES = {"live": "green", "finished": "cyan", "silent": "bold red", "not started": "yellow"}
_SPARKS = {
    "rollout/format_rate": "format",
    "rollout/reward_mean": "reward",
    "learner/entropy": "entropy",
    "learner/logprob_gap_mean": "log-prob gap",
    "learner/grad_norm": "grad norm",
    "rollout/zero_variance_share": "no signal",
}
_MAX_ACTORS = 12


def render(sight: Sight) -> RenderableType:
    """The whole view."""
    parts: list[RenderableType] = [_head(sight)]
    parts += [Text(f"note: {note}", style="yellow") for note in sight.notes]
    if sight.rows:
        parts.append(_learning(sight))
    if sight.figures:
        parts.append(_halves(sight))
    if sight.actors:
        parts.append(_actors(sight.actors))
    if sight.completions:
        parts.append(_completions(sight))
    if sight.events:
        parts.append(_events(sight))
    return Group(*parts)


def sparkline(values: Sequence[float], width: int) -> str:
    """The course of ``values`` in at most ``width`` characters, the lowest as the lowest block.

    Example: ``sparkline([0, 1, 2, 3], 10) == "▁▃▆█"``.
    """
    kept = resample(values, width)
    if not kept:
        return ""
    low, high = min(kept), max(kept)
    if high == low:
        return _BLOCKS[4] * len(kept)
    return "".join(_BLOCKS[1 + round(7 * (value - low) / (high - low))] for value in kept)


def curve(values: Sequence[float], width: int, height: int) -> list[str]:
    """A curve of shares (0 to 1) as ``height`` lines of columns, the highest line first."""
    eighths = [round(8 * height * min(1.0, max(0.0, value))) for value in resample(values, width)]
    return [
        "".join(_BLOCKS[min(8, max(0, column - 8 * row))] for column in eighths) for row in range(height - 1, -1, -1)
    ]


def resample(values: Sequence[float], width: int) -> list[float]:
    """At most ``width`` values: means over equal parts when there are more."""
    if len(values) <= width:
        return list(values)
    edges = [round(index * len(values) / width) for index in range(width + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]


def _head(sight: Sight) -> RenderableType:
    figures = sight.figures
    step, steps = figures.get("loop/step", float(len(sight.rows))), figures.get("loop/steps_planned", 0.0)
    line = Text()
    for stage in STAGES[1:]:
        line.append_text(_lamp(stage.replace("_", "-"), lit=stage == sight.stage))
    line.append("   ")
    for phase in PHASES[:-1] if sight.stage == "rl" else ():
        line.append_text(_lamp(phase, lit=phase == sight.phase))
    age = "" if sight.age_s is None or sight.state == "finished" else f", {sight.age_s:.0f} s ago"
    about = Text.assemble(
        (f"{sight.state}{age}", _STATE_STYLES[sight.state]),
        f"   step {step:.0f} of {steps:.0f}   attempt {figures.get('loop/attempt', 1.0):.0f}",
        f"   since the last step {figures.get('loop/seconds_since_step', 0.0):.0f} s" if sight.state == "live" else "",
    )
    rows: list[RenderableType] = [line, about, ProgressBar(total=max(1.0, steps), completed=step, width=CURVE_WIDTH)]
    if figures.get("warm_up/step") and sight.stage == "warm_up":
        rows.append(Text(f"warm-up step {figures['warm_up/step']:.0f}, loss {figures.get('warm_up/loss', 0.0):.3f}"))
    title = Text.assemble(("Fleming  ", "bold"), (sight.run, "bold cyan"), "  ", (sight.where, "dim"))
    return Panel(Group(*rows), title=title, title_align="left", box=box.ROUNDED)


def _lamp(name: str, *, lit: bool) -> Text:
    """Also told apart where there is no colour."""
    return Text.assemble((f"▸{name} " if lit else f" {name} ", "bold reverse green" if lit else "dim"), " ")


def _learning(sight: Sight) -> RenderableType:
    accuracy = [row["rollout/accuracy"] for row in sight.rows if "rollout/accuracy" in row]
    lines = curve(accuracy, CURVE_WIDTH, CURVE_HEIGHT)
    drawn = Text(f"accuracy of sampled answers, steps 1 to {len(sight.rows)}\n", style="bold")
    for index, line in enumerate(lines):
        label = {0: "100%", len(lines) - 1: "  0%"}.get(index, "    ")
        drawn.append(f"{label}│", style="dim").append(line + "\n", style="green")
    last = sight.rows[-1]
    said = [f"last {accuracy[-1]:.1%}"] if accuracy else []
    for subset in ("train", "held_out"):
        found = [row[f"eval/{subset}_greedy"] for row in sight.rows if f"eval/{subset}_greedy" in row]
        said += [f"{subset.replace('_', '-')} greedy {found[-1]:.1%}"] if found else []
    drawn.append("   ".join(said))
    sparks = Table(box=None, show_header=False, padding=(0, 1))
    for name, label in _SPARKS.items():
        values = [row[name] for row in sight.rows if name in row]
        if values:
            sparks.add_row(
                label, Text(sparkline(values, SPARK_WIDTH), style="cyan"), _short(last.get(name, values[-1]))
            )
    both = Table.grid(padding=(0, 3))
    both.add_row(drawn, sparks)
    return Panel(both, title="learning", title_align="left", box=box.ROUNDED)


def _halves(sight: Sight) -> RenderableType:
    """Throughput of both halves, where the seconds go, and what is queued."""
    figures = sight.figures
    last = {**(sight.rows[-1] if sight.rows else {}), **figures}
    speed = Table(box=None, header_style="dim", title_style="bold", title="halves", title_justify="left")
    for column in ("", "tokens/s", "waits"):
        speed.add_column(column, justify="right" if column else "left")
    for half, wait in (("rollout", "wait/rollout_share"), ("learner", "wait/learner_share")):
        rate, share = last.get(f"{half}/tokens_per_second"), last.get(wait)
        speed.add_row(half, "-" if rate is None else f"{rate:,.0f}", "-" if share is None else f"{share:.0%}")
    seconds = Table(box=None, header_style="dim", title_style="bold", title="seconds", title_justify="left")
    for column in ("phase", "s"):
        seconds.add_column(column, justify="right" if column == "s" else "left", min_width=4)
    for phase in (*PHASES[:-1], "step"):
        if f"seconds/{phase}" in last:
            seconds.add_row(phase, f"{last[f'seconds/{phase}']:.2f}")
    engines = Table(box=None, header_style="dim", title_style="bold", title="engines", title_justify="left")
    for column in ("", "requests", "to come", "generated", "version"):
        engines.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, requests in sorted(sight.under("rollout/running_requests").items())[:_MAX_ACTORS]:
        rest = (f"{figures.get(f'rollout/{what}/{name}', 0.0):,.0f}" for what in _ENGINE)
        engines.add_row(Text(name), f"{requests:.0f}", *rest)
    rewards = Table(box=None, header_style="dim", title_style="bold", title="rewards", title_justify="left")
    for what in ("actors", "busy", "waiting", "scored", "failed"):
        rewards.add_column(what, justify="right")
    rewards.add_row(
        *(_short(figures.get(f"rewards/{what}")) for what in ("actors", "busy", "waiting", "scored", "failed"))
    )
    tables = Columns([speed, seconds, engines, rewards], padding=(1, 4))
    free = figures.get("storage/free_bytes")
    memory = sum(value for key, value in last.items() if key.startswith("memory/") and key.endswith("_rss_mib"))
    said = [f"storage free {free / 2**30:.1f} GiB"] if free is not None else []
    said += [f"memory here {memory / 1024:.1f} GiB"] if memory else []
    said += [f"restarts of the learner {figures.get('loop/learner_restarts', 0.0):.0f}"]
    return Panel(Group(tables, Text("   ".join(said), style="dim")), title="now", title_align="left", box=box.ROUNDED)


_ENGINE = ("outstanding_tokens", "generated_tokens", "policy_version")


def _actors(actors: Sequence[ActorSeen]) -> RenderableType:
    line = Text()
    for actor in actors[:_MAX_ACTORS]:
        line.append(f"{actor.name} ").append(
            f"{actor.state.lower()}   ", style="green" if actor.state == "ALIVE" else "dim"
        )
    if len(actors) > _MAX_ACTORS:
        line.append(f"and {len(actors) - _MAX_ACTORS} more", style="dim")
    return Panel(line, title="actors", title_align="left", box=box.ROUNDED)


def _completions(sight: Sight) -> RenderableType:
    table = Table(box=None, show_header=True, header_style="dim", expand=True)
    for column, ratio in (("reward", None), ("verdict", None), ("fate", None), ("completion", 1)):
        table.add_column(column, ratio=ratio, overflow="fold")
    for one in sight.completions:
        style = "green" if one.reason == "correct" else ""
        table.add_row(_short(one.reward), Text(one.reason, style=style), Text(one.fate), Text(one.text))
    return Panel(table, title="completions of the last step", title_align="left", box=box.ROUNDED)


def _events(sight: Sight) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, min_width=8)
    for event in sight.events:
        table.add_row(Text(event.clock, style="dim", no_wrap=True), Text(event.text))
    return Panel(table, title="events (UTC)", title_align="left", box=box.ROUNDED)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
