"""The result of a search: a summary, and the files in the study's folder."""

import csv
import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import yaml
from matplotlib.figure import Figure

from experiments.algorithms import agent_class
from experiments.settings.arguments import Arguments
from experiments.settings.provenance import versions
from experiments.settings.run_settings import RunSettings
from experiments.text_table import aligned
from experiments.tuning.search_space import read
from experiments.tuning.study import DEFAULT, FAILURE, FrozenTrial, Search, TrialState, return_of
from experiments.tuning.training_return import EPISODES

FAILED, INTERRUPTED = "failed", "interrupted"


@dataclass(frozen=True)
class TuningResult:
    """The trials of a study, and what they show.

    Attributes:
        search: the search that ran them.
        trials: all trials of the study.
        importances: each axis's share of the variance in returns; empty if unknown.
    """

    search: Search
    trials: Sequence[FrozenTrial]
    importances: Mapping[str, float]

    @property
    def complete(self) -> list[FrozenTrial]:
        """The trials that were trained to the end on all seeds."""
        return [trial for trial in self.trials if trial.state == TrialState.COMPLETE]

    @property
    def best(self) -> FrozenTrial | None:
        """The complete trial with the highest return; of equal ones, the default or else the earliest."""
        return max(
            self.complete,
            key=lambda trial: (trial.value, trial.user_attrs.get(DEFAULT, False), -trial.number),
            default=None,
        )

    @property
    def default(self) -> FrozenTrial | None:
        """The trial with the initial settings, if it is complete."""
        return next((trial for trial in self.complete if trial.user_attrs.get(DEFAULT)), None)

    @property
    def configuration(self) -> RunSettings:
        """The settings of the best trial, or the initial ones if there is none."""
        search = self.search
        return search.configuration if self.best is None else search.space.configuration(self.best.params)

    @property
    def failures(self) -> Counter[str]:
        """The number of failed trials per reason."""
        return Counter(trial.user_attrs[FAILURE] for trial in self.trials if outcome(trial) == FAILED)

    @property
    def counts(self) -> str:
        """The number of trials per outcome, as text."""
        outcomes = Counter(map(outcome, self.trials))
        order = ("complete", "pruned", FAILED, INTERRUPTED)
        return ", ".join(f"{outcomes[name]} {name}" for name in order if outcomes[name])

    @property
    def objective(self) -> str:
        """A description of what was maximised."""
        steps = self.search.configuration.n_timesteps
        return (
            f"mean return of the last {EPISODES} training episodes at {steps} steps, "
            f"over tuning seeds {', '.join(map(str, self.search.seeds))}"
        )

    def write(self) -> None:
        """Write trials.csv and, if a trial has a value, best.yaml and history.png."""
        self._write_trials(self.search.folder / "trials.csv")
        if self.best is not None:
            (self.search.folder / "best.yaml").write_text(self.section(), encoding="utf-8")
            self._draw(self.search.folder / "history.png")

    def section(self) -> str:
        """Return the best settings as YAML in the format of configs/, for `npg train --config`."""
        assert self.best is not None
        search, configuration = self.search, self.configuration
        lines = [
            f"{search.algo} on {search.env_id}: trial {self.best.number} of {search.study} ({self.counts}).",
            f"Return {as_text(self.best)}, and {as_text(self.default)} with the initial settings:",
            f"{self.objective}.",
            "The best of many trials is an optimistic number: report runs with other seeds.",
            f"Made with {', '.join(f'{package} {version}' for package, version in versions().items())}.",
        ]
        searched = {setting.name.partition(".")[0] for setting in search.space.settings}
        parameters = inspect.signature(agent_class(search.algo)).parameters
        section = configuration.section() | {
            name: option
            for name, option in configuration.hyperparameters.items()
            if name in searched or option != parameters[name].default
        }
        section["n_timesteps"] = search.full_timesteps or configuration.n_timesteps
        text = yaml.safe_dump({search.env_id: section}, sort_keys=False, allow_unicode=True)
        return "".join(f"# {line}\n" for line in lines) + text

    def _write_trials(self, path: Path) -> None:
        axes = [setting.axis for setting in self.search.space.settings]
        names = ["trial", "outcome", "return", DEFAULT, "seconds", FAILURE, *axes]
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, extrasaction="ignore")
            writer.writeheader()
            for trial in self.trials:
                about = {
                    "trial": trial.number,
                    "outcome": outcome(trial),
                    "return": trial.value if trial.state == TrialState.COMPLETE else "",
                    "seconds": f"{trial.duration.total_seconds():.2f}" if trial.duration else "",
                }
                writer.writerow({DEFAULT: False} | trial.params | trial.user_attrs | about)

    def _draw(self, path: Path) -> None:
        """Draw the return of each complete trial, and the best so far."""
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        numbers, values = zip(*((trial.number, return_of(trial)) for trial in self.complete), strict=True)
        axes.plot(numbers, values, "o", color="C0", alpha=0.6, label="a trial")
        axes.step(numbers, list(accumulate(values, max)), where="post", color="C1", label="best so far")
        if self.default is not None:
            axes.axhline(return_of(self.default), color="0.4", linestyle="--", label="initial settings")
        title = f"{self.search.algo} on {self.search.env_id}"
        axes.set(xlabel="trial", ylabel="training return", title=title)
        axes.legend()
        figure.savefig(path, dpi=150)

    def __str__(self) -> str:
        search = self.search
        best, vec_env = search.folder / "best.yaml", search.configuration.vec_env
        train = Arguments(
            algo=(search.algo,),
            env=(search.env_id,),
            config=best,
            out=search.folder.parents[2],
            vec_env={"dummy": "auto"}.get(vec_env, vec_env),
        )
        kept = [f"  kept       {name}={read(search.configuration, name)}" for name in search.space.kept]
        failed = [f"  failed     {n} times: {reason}" for reason, n in self.failures.most_common()]
        lines = [
            f"{search.algo} on {search.env_id}: {self.counts}",
            f"  maximised  {self.objective}",
            f"  best       {as_text(self.best)}, trial {self.best.number if self.best else 'none'}",
            f"  default    {as_text(self.default)}",
            *("", *(f"  {line}" for line in self._table()), ""),
            *kept,
            *failed,
            f"  files      {search.folder}",
            f"  next       {train}",
        ]
        return "\n".join(lines)

    def _table(self) -> list[str]:
        """Return one line per setting, with a star if the best value is not the default."""
        rows = [("setting", "searched", "default", "best", "importance")]
        for setting in self.search.space.settings:
            default, best = (read(c, setting.name) for c in (self.search.configuration, self.configuration))
            extent = str(setting) if setting.axis == setting.name else f"{setting.axis}: {setting}"
            share = self.importances.get(setting.axis)
            importance = "" if share is None else f"{share:.0%}"
            star = "" if best == default else " *"
            rows.append((setting.name, extent, str(default), f"{best}{star}", importance))
        return aligned(rows)


def outcome(trial: FrozenTrial) -> str:
    """Return how a trial ended, or its state if it has not ended."""
    if trial.state == TrialState.FAIL:
        return FAILED if FAILURE in trial.user_attrs else INTERRUPTED
    return str(trial.state.name.lower())


def as_text(trial: FrozenTrial | None) -> str:
    """Return a trial's return as text."""
    return "no value" if trial is None else f"{return_of(trial):.6g}"
