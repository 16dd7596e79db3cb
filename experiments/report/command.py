"""The command `npg report`."""

import math
import shlex
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from tqdm import tqdm

from agents.untrusted_file import UnsafeFileError
from experiments.options import Report
from experiments.report.appearance import NO_NUMBER, interval, label, probability, steps
from experiments.report.comparison import Comparison, compare
from experiments.report.references import read_references
from experiments.report.run_files import number
from experiments.report.run_record import RunRecord, find_runs
from experiments.report.tables import write_tables
from experiments.terminal import one_line, show
from experiments.text_table import aligned


def main(arguments: Report, failed: str = "error") -> int:
    """Write the report and return the exit code.

    Args:
        arguments: the options.
        failed: first words of the message if the report cannot be written.
    """
    try:
        # Plotting libraries are imported after the runs are read, so that errors in paths appear first.
        records, left_out = find_runs(arguments.runs)
        from experiments.report.figures import write_figures
        from experiments.report.report_page import write_page

        if arguments.seed < 0:
            raise ValueError(f"expected --seed ≥ 0, got {arguments.seed}")
        comparison = compare(
            records,
            left_out,
            thresholds=find_thresholds(arguments.threshold, records),
            references=read_references(),
            generator=np.random.default_rng(arguments.seed),
            progress=partial(with_progress, what="algorithm and task"),
        )
        out = output_folder(arguments)
        out.mkdir(parents=True, exist_ok=True)
        write_tables(comparison, out)
        write_figures(comparison, out, partial(with_progress, what="figure"))
        write_page(comparison, out / "report.html", seed=arguments.seed, command=command_line(arguments, out))
    except (ValueError, OSError, ImportError, MemoryError) as error:
        show(f"{failed}: {error}", error=True)
        return 2
    print_summary(comparison)
    show(f"\nreport   {one_line(out / 'report.html')}, with figures as PNG and SVG and numbers as CSV")
    return 0


def command_line(arguments: Report, out: Path) -> str:
    """Return the command that writes the same report."""
    words = ["npg", "report", *map(str, arguments.runs), "--out", str(out)]
    if arguments.threshold:
        words += ["--threshold", *arguments.threshold]
    return shlex.join([*words, *(["--seed", str(arguments.seed)] if arguments.seed else [])])


def output_folder(arguments: Report) -> Path:
    """Return the folder for the report; by default next to the first folder of runs, which may be untrusted.

    Raises:
        UnsafeFileError: the folder is a link, which could point anywhere.
    """
    first = arguments.runs[0]
    whole = first.resolve()
    parent = first.parent if first.name else whole.parent  # "." has no name
    out = arguments.out or parent / f"{whole.name}-report"
    if out.is_symlink():
        raise UnsafeFileError(f"{one_line(out)} is a link; delete it, or choose another folder with --out")
    return out


def find_thresholds(texts: Sequence[str], records: Iterable[RunRecord]) -> dict[str, float]:
    """Return {environment: return that counts as solved}: the given one, or else Gymnasium's.

    Args:
        texts: values of --threshold.
        records: the runs.

    Raises:
        ValueError: a text is neither a number nor task=number, it names a task without runs, or a number
            without a task is given for several tasks.
    """
    environments = sorted({record.environment for record in records})
    thresholds = {}
    for name in environments:
        spec = gymnasium.registry.get(name)  # gymnasium.spec would import the module of an id
        if spec is not None and spec.reward_threshold is not None:
            thresholds[name] = float(spec.reward_threshold)
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not equals and len(environments) > 1:
            raise ValueError(
                f"--threshold {text} could be for any of {', '.join(environments)}; give "
                f"--threshold {environments[0]}={text}"
            )
        name = name if equals else environments[0]
        if name not in environments:
            raise ValueError(
                f"--threshold names {name!r}, of which there is no run; expected {', '.join(environments)}"
            )
        thresholds[name] = number(value)
        if not math.isfinite(thresholds[name]):
            raise ValueError(f"--threshold expects a number, or task=number, got {text!r}")
    return thresholds


def with_progress(work: Iterable[Any], what: str) -> Iterable[Any]:
    """Yield the items, with a progress bar if that takes longer than a second."""
    return tqdm(work, desc=f"each {what}", unit="", delay=1.0, leave=False)


def print_summary(comparison: Comparison) -> None:
    """Print a short table, the findings, the notes, and the paths that are left out."""
    for task in comparison.tasks:
        show(f"\n{task.environment}, {steps(task.budget)} steps: IQM with its 95 % interval")
        rows: list[tuple[str, ...]] = [("", "seeds", "evaluation", "training return", "P(beats the next)")]
        chances = {(pair.first, pair.second): pair.probabilities[task.primary] for pair in task.pairs}
        names = [entry.algorithm for entry in task.entries]
        for entry, following in zip(task.entries, [*names[1:], ""], strict=True):
            chance = chances.get((entry.algorithm, following))
            scores = [entry.aggregates.get(score) for score in ("evaluation", "training")]
            texts = [interval(score["IQM"]) if score else NO_NUMBER for score in scores]
            seeds = str(len(entry.group.records))
            rows.append((label(entry.algorithm), seeds, *texts, probability(chance) if chance else ""))
        show("\n".join(f"  {line}" for line in aligned(rows)))
    from experiments.report.findings import findings  # needs jinja2

    show()
    for where, text in findings(comparison).items():
        show(f"{where}: {text}")
    for note in comparison.notes:
        show(f"note: {one_line(note)}")
    for item in comparison.left_out:
        show(f"left out: {one_line(item.path)}: {one_line(item.reason)}")
