"""Make a comparison's interactive plots, as fragments of HTML."""

import html
import math

import numpy as np

from experiments.extras import needs

with needs("report"):
    import plotly.graph_objects as go  # type: ignore[import-untyped]
    import plotly.io  # type: ignore[import-untyped]
    import plotly.offline  # type: ignore[import-untyped]
from experiments.report.aggregate import Aggregate
from experiments.report.appearance import Style
from experiments.report.curves import GEOMETRY, Curve
from experiments.report.task_comparison import Task

LONGEST_NAME = 16  # characters beside an axis, which has little room on a phone
LEGEND_WIDTH, LEGEND_ROW = 300, 19  # pixels of a phone
BAND, SINGLE = 0.14, 0.55  # opacity of a band, and of the curve of a single seed
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
GRID = "#e6e8eb"
CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}


class Charts:
    """Make the plots of one page, each with a unique id.

    Args:
        styles: styles by algorithm.
    """

    def __init__(self, styles: dict[str, Style]):
        self._styles = styles
        self._count = 0

    @property
    def program(self) -> str:
        """Plotly's JavaScript, which draws the plots."""
        return str(plotly.offline.get_plotlyjs())

    def learning_curves(self, task: Task, over: str) -> str:
        """Return the plot of the training return over "steps" or "seconds"."""
        figure = self._curves({e.algorithm: e.curves[over] for e in task.by_name if over in e.curves})
        if over == "steps" and task.threshold is not None:
            figure.add_hline(
                task.threshold,
                line={"color": "#8a9099", "width": 1, "dash": "dot"},
                annotation={"text": "threshold", "font": {"size": 11, "color": "#6a7078"}},
                annotation_position="top left",
            )
        title = "environment steps" if over == "steps" else "training time [s]"
        figure.update_xaxes(title_text=title, rangemode="tozero")
        figure.update_yaxes(title_text="training return")
        return self._html(figure, f"Training return over {title}, {task.environment}")

    def geometry(self, task: Task, name: str) -> str:
        """Return the plot of a metric of `GEOMETRY` over environment steps; empty if no run logs it."""
        curves = {e.algorithm: e.curves[name] for e in task.by_name if name in e.curves}
        if not curves:
            return ""
        figure = self._curves(curves)
        figure.update_xaxes(title_text="environment steps", rangemode="tozero")
        if GEOMETRY[name].logarithmic:
            figure.update_yaxes(type="log", exponentformat="power", nticks=5)
            drawn = np.concatenate([c.runs.ravel() if c.runs.size else c.estimate for c in curves.values()])
            decades = math.log10(drawn.max() / drawn.min())
            if decades > 1:  # powers only; the ticks between them would overlap
                figure.update_yaxes(dtick=math.ceil(decades / 4))
        return self._html(figure, f"{GEOMETRY[name].title}, {task.environment}", height=300)

    def profile(self, aggregate: Aggregate) -> str:
        """Return the plot of the performance profiles."""
        figure = self._curves(dict(sorted(aggregate.profiles.items())))
        figure.update_xaxes(title_text="normalised return τ")
        figure.update_yaxes(title_text="fraction of runs above τ", range=[-0.02, 1.02])
        return self._html(figure, "Performance profiles")

    def scores(self, task: Task, score: str) -> str:
        """Return the plot of final returns: each seed, and the IQM; its interval unless there are few seeds.

        Args:
            task: the task.
            score: "evaluation" or "training".
        """
        figure = go.Figure()
        entries = [entry for entry in task.entries if score in entry.aggregates]
        for entry in reversed(entries):
            style, found = self._styles[entry.algorithm], entry.aggregates[score]["IQM"]
            spread = {
                "type": "data",
                "symmetric": False,
                "array": [found.high - found.estimate],
                "arrayminus": [found.estimate - found.low],
                "thickness": 2.5,
                "width": 0,
            }
            group = {"legendgroup": entry.algorithm, "name": style.label, "showlegend": False}
            seeds = [f"seed {record.seed}" for record in entry.group.records]
            returns = entry.scores[score]
            figure.add_scatter(
                x=returns,
                y=[style.label] * len(returns),
                text=seeds,
                mode="markers",
                hovertemplate="%{text}: %{x:.4g}<extra>%{y}</extra>",
                marker={"symbol": "line-ns-open", "size": 13, "color": style.colour},
                opacity=0.6,
                meta=style.on_dark,
                **group,
            )
            figure.add_scatter(
                x=[found.estimate],
                y=[style.label],
                mode="markers",
                hovertemplate="IQM %{x:.4g}<extra>%{y}</extra>",
                marker={"size": 10, "color": style.colour},
                error_x=spread if np.isfinite(found.low) and not entry.group.few else None,
                meta=style.on_dark,
                **group,
            )
        title = "deterministic evaluation" if score == "evaluation" else "training return"
        figure.update_xaxes(title_text=title)
        names = [self._styles[entry.algorithm].label for entry in entries]
        short = [name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}" for name in names]
        figure.update_yaxes(showgrid=False, tickmode="array", tickvals=names, ticktext=short)
        return self._html(figure, f"Final {title}, {task.environment}", height=120 + 38 * len(entries))

    def _curves(self, curves: dict[str, Curve]) -> go.Figure:
        figure = go.Figure()
        for algorithm, curve in curves.items():
            style = self._styles[algorithm]
            group = {"legendgroup": algorithm, "name": style.label, "meta": style.on_dark}
            x, y, low, high = map(rounded, (curve.x, curve.estimate, curve.low, curve.high))
            known = np.isfinite(low)
            options, hover = {}, "%{y:.4g}"
            if curve.runs.size:
                gap = [None]  # between the curves of two seeds, which are one trace
                figure.add_scatter(
                    x=np.concatenate([[*x, *gap] for _ in curve.runs]),
                    y=np.concatenate([[*rounded(run), *gap] for run in curve.runs]),
                    mode="lines",
                    line={"color": style.colour, "width": 1},
                    opacity=SINGLE,
                    hoverinfo="skip",
                    showlegend=False,
                    **group,
                )
            elif known.any():
                figure.add_scatter(
                    x=np.concatenate([x[known], x[known][::-1]]),
                    y=np.concatenate([high[known], low[known][::-1]]),
                    fill="toself",
                    fillcolor=style.shade(BAND),
                    line={"width": 0},
                    mode="lines",
                    hoverinfo="skip",
                    showlegend=False,
                    **group,
                )
                options["customdata"] = np.stack([low, high], axis=-1)
                hover += " [%{customdata[0]:.4g}, %{customdata[1]:.4g}]"
            figure.add_scatter(
                x=x,
                y=y,
                mode="lines",
                line={"color": style.colour, "width": 2, "dash": style.plotly_dash},
                hovertemplate=hover,
                showlegend=True,
                **options,
                **group,
            )
        return figure

    def _html(self, figure: go.Figure, description: str, height: int = 360) -> str:
        self._count += 1
        named = [trace.name for trace in figure.data if trace.showlegend]
        extra = LEGEND_ROW * (sum(7 * len(name) + 46 for name in named) // LEGEND_WIDTH)
        height += extra
        figure.update_layout(
            template="plotly_white",
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            height=height,
            margin={"l": 62, "r": 16, "t": 36 + extra, "b": 48},
            font={"family": FONT, "size": 12.5, "color": "#2b2f36"},
            legend={"orientation": "h", "yanchor": "bottom", "y": 1.01, "xanchor": "left", "x": 0},
            hovermode="x unified" if any(trace.mode == "lines" for trace in figure.data) else "closest",
            hoverlabel={"font": {"size": 12}},
        )
        figure.update_xaxes(
            gridcolor=GRID, zeroline=False, linecolor="#9aa1ab", ticks="outside", tickcolor=GRID
        )
        figure.update_yaxes(gridcolor=GRID, zeroline=False, automargin=True)
        plot = plotly.io.to_html(
            figure,
            config=CONFIG,
            include_plotlyjs=False,
            full_html=False,
            div_id=f"plot-{self._count}",
            default_width="100%",
            default_height=f"{height}px",
        )
        return f'<div class="chart" role="img" aria-label="{html.escape(description)}">{plot}</div>'


def rounded(values: np.ndarray) -> np.ndarray:
    """Return values rounded to six significant digits, which is enough for a screen."""
    return np.array([float(f"{value:.6g}") for value in values])
