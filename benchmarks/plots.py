"""Small plots of what was measured, as SVG for docs/."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BLUE, ORANGE, GREY = "#1f6fb4", "#d9720a", "#888888"
INCHES = (9, 3)


def plot_queue(points: Sequence[tuple[int, float, float]], path: Path) -> None:
    """Median latency and throughput by the number of jobs at once."""
    jobs, latencies, throughputs = zip(*points, strict=True)

    def draw(left: Any, right: Any) -> None:
        left.loglog(jobs, latencies, "o-", color=BLUE)
        left.set_ylabel("message to PATCH, s (median)")
        right.semilogx(jobs, throughputs, "o-", color=ORANGE)
        right.set_ylabel("jobs a second")
        right.set_ylim(bottom=0)
        for axes in (left, right):
            axes.set_xlabel("messages at once")
            axes.set_xticks(jobs, [f"{each:,}" for each in jobs])

    _save(draw, path)


def plot_history(levels: Sequence[tuple[int, float, float]], limit: float, path: Path) -> None:
    """Seconds and CPU of a job over those on a fresh instance, by the number of jobs that went
    before."""
    past, seconds, cpu = zip(*levels, strict=True)

    def draw(left: Any, right: Any) -> None:
        for axes, ratios, name, colour in (
            (left, seconds, "seconds", BLUE),
            (right, cpu, "CPU seconds", ORANGE),
        ):
            axes.plot(past, ratios, "o-", color=colour)
            axes.axhline(1, color=GREY, linewidth=0.8)
            axes.axhline(limit, color=GREY, linewidth=0.8, linestyle="--")
            axes.set_ylim(0, 1.5)
            axes.set_xlabel("jobs in the instance before")
            axes.set_ylabel(f"{name} a job, over a fresh instance's")

    _save(draw, path)


def _save(draw: Callable[[Any, Any], None], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "seg-pipeline", "font.size": 9}):
        figure, (left, right) = plt.subplots(1, 2, figsize=INCHES, layout="constrained")
        draw(left, right)
        for axes in (left, right):
            axes.grid(alpha=0.3)
        figure.savefig(path, metadata={"Date": None}, facecolor="white")
        plt.close(figure)
