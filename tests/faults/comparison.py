"""Whether a run folder holds what another does, to the bit: everything but times."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.save_util import load_from_zip_file
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from experiments.run.checkpoint_file import read
from experiments.run.tensorboard_log import SETTINGS

TIMES = ("time/fps", "time/time_elapsed", "time/seconds")
# In a checkpoint: seconds, an episode's, the sizes of the event files (which hold times), and logged times.
PASSING = re.compile(r"\.content\.(seconds|agent\.episodes\.\d+\.t|log\.events\..*|agent\.logged\.time/.*)")


def differences(folder: Path, whole: Path, *, every_checkpoint: bool = True) -> list[str]:
    """Return what a run folder has otherwise than that of the uninterrupted run.

    Args:
        folder: of the run that was killed or stopped.
        whole: of the one that was not.
        every_checkpoint: or the newest only, where a signal made one more.
    """
    found = []
    expected = {path.name for path in whole.iterdir() if "tfevents" not in path.name}
    if (names := {path.name for path in folder.iterdir() if "tfevents" not in path.name}) != expected:
        found.append(f"files {sorted(names)} in place of {sorted(expected)}")
    for name in ("config.yaml", "evaluation.json"):
        if (folder / name).read_text() != (whole / name).read_text():
            found.append(name)
    rows, expected_rows = table(folder / "progress.csv"), table(whole / "progress.csv")
    if rows != expected_rows:
        found.append(f"progress.csv: {first_difference(rows, expected_rows)}")
    scalars, expected_scalars = events(folder), events(whole)
    if scalars != expected_scalars:
        found.append(f"TensorBoard: {first_difference(scalars, expected_scalars)}")
    model, expected_model = (read_model(each / "model.zip") for each in (folder, whole))
    found += [f"model.zip: {name}" for name in expected_model if not same(model[name], expected_model[name])]
    names, expected = checkpoints(folder), checkpoints(whole)
    if names[-1:] != expected[-1:] or (every_checkpoint and names != expected):
        found.append(f"checkpoints {names} in place of {expected}")
    for name in expected if every_checkpoint else expected[-1:]:
        if name in names:
            contents = (dict(flat(read(each / "checkpoints" / name))) for each in (folder, whole))
            found += [f"{name}: {difference}" for difference in differing(*contents)]
    return found


def read_model(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of the policy that SB3 has saved."""
    return load_from_zip_file(path, device="cpu")[1]["policy"]


def checkpoints(folder: Path) -> list[str]:
    """Return the names of the checkpoints, and of what else is there."""
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def table(path: Path) -> list[list[str]]:
    """Return the cells of progress.csv, without times."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    kept = [column for column, name in enumerate(rows[0]) if name not in TIMES]
    return [[row[column] for column in kept] for row in rows]


def events(folder: Path) -> list[tuple[int, str, bytes]]:
    """Return TensorBoard's scalars, without times; the files in the order in which they were begun.

    TensorBoard orders files by name: second, host and process ID. A run that is resumed in the second in
    which it was stopped, which needs a forked process that has imported PyTorch before, can break that order.
    """
    paths = list(folder.glob("events.out.tfevents.*"))
    # The settings first: a resumed run writes them again.
    files = [(not path.name.endswith(SETTINGS), list(EventFileLoader(str(path)).Load())) for path in paths]
    return [
        (event.step, value.tag, value.tensor.SerializeToString())
        for _, file in sorted((f for f in files if f[1]), key=lambda f: (f[0], f[1][0].wall_time))
        for event in file
        for value in event.summary.value
        if value.tag not in TIMES
    ]


def flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dicts and lists by their places, without times."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from flat(entry, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            yield from flat(entry, f"{place}.{index}")
    elif not PASSING.fullmatch(place):
        yield place, value


def differing(leaves: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Return the places at which leaves differ."""
    places = sorted(leaves.keys() ^ expected.keys())
    return places + [
        place for place in expected if place in leaves and not same(leaves[place], expected[place])
    ]


def same(value: Any, expected: Any) -> bool:
    """Whether two leaves are the same type and the same bits."""
    if type(value) is not type(expected):
        return False
    if hasattr(value, "dtype"):
        value, expected = torch.as_tensor(value), torch.as_tensor(expected)
        return value.dtype == expected.dtype and torch.equal(value, expected)
    return bool(value == expected)


def first_difference(rows: list[Any], expected: list[Any]) -> str:
    """Return where two lists part."""
    pairs = enumerate(zip(rows, expected, strict=False))
    told = next((f"entry {k}: {a} in place of {b}" for k, (a, b) in pairs if a != b), "one is longer")
    return f"{told} ({len(rows)} and {len(expected)} entries)"
