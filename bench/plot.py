"""A plot of CPU per call, one bar per gateway, on a logarithmic scale."""

from __future__ import annotations

from pathlib import Path

from .targets import Results

CALLS = ("embeddings", "chat", "rerank", "embeddings-64-float-as-float", "stream-paced", "stream-burst")
COLOURS = {"nginx": "#8a8a8a", "torii": "#c8372d", "portkey": "#4d7ea8", "litellm": "#e0a030"}


def draw(results: Results, file: Path) -> None:
    """Raises ImportError if matplotlib is not installed."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "torii"
    from matplotlib import pyplot

    calls = [name for name in CALLS if name in results.measured]
    gateways = [name for name in COLOURS if any(results.median(call, "cpu_us", name) for call in calls)]
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.8 * len(calls)))
    height = 0.8 / max(len(gateways), 1)
    for at, gateway in enumerate(gateways):
        places = [line + at * height for line in range(len(calls))]
        widths = [results.median(call, "cpu_us", gateway) or 0 for call in calls]
        axes.barh(places, widths, height, label=gateway, color=COLOURS[gateway])
    axes.set_yticks([line + 0.4 - height / 2 for line in range(len(calls))], calls)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("CPU of one call or event, microseconds")
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
