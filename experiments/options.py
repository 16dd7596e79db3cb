"""The options of `npg evaluate`, `report` and `export`; a class's docstring is what --help prints.

Nothing here imports torch, so that --help is quick.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

Modules = Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="import")]


@dataclass(frozen=True)
class Evaluate:
    """Evaluate the agent of a run folder.

        npg evaluate runs/CartPole-v1/trpo/seed-0              # 100 deterministic episodes
        npg evaluate runs/Hopper-v5/trpo/seed-0 --video        # and three of them as video.mp4
        npg evaluate runs/Catch-v0/trpo/seed-0 --import envs   # a task that a module registers

    Without options, the numbers are those that the end of training wrote into evaluation.json. Episode k
    starts from seed N + k, N being --seed: a larger --episodes adds episodes and changes none. Stochastic
    actions of up to 16 episodes at a time come from one generator: they are the same for the same --seed and
    --episodes.

    The folder may be untrusted: only tensors and plain data are read from it, and none of its code
    runs. A module that its config.yaml names is imported only if --import names it.
    """

    run: tyro.conf.Positional[Path]
    """Evaluate the agent in this run folder."""
    episodes: int | None = None
    """Play this many episodes. The default is the number at the end of training, or 100 if that was 0."""
    stochastic: bool = False
    """Sample actions as in training, in place of the most likely ones."""
    seed: int | None = None
    """Start episode k from this seed + k. The default is 10000 plus the run's seed, as at the end of
    training."""
    video: bool = False
    """Record the first three episodes as video.mp4, beside the JSON file."""
    out: Path | None = None
    """Write the numbers into this JSON file. The default is RUN/evaluate.json."""
    import_: Modules = ()
    """Import this module first, which registers the environment. Repeatable."""


@dataclass(frozen=True)
class Report:
    """Compare runs: statistics and one report.

        npg report runs                                    # every run below it; writes runs/report/
        npg report runs/Hopper-v5 --threshold 2000 --out hopper
        npg report runs --threshold Pendulum-v1=-200 Hopper-v5=2000

    Writes report.html (one file that opens offline), figures as PNG and SVG, and the numbers as CSV: runs,
    aggregates, improvement (probabilities) and curves. A path is a run folder, or any folder above some. Runs
    that are left out are named with the reason. No code in a run folder is executed.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Compare the runs in these folders, or in folders below them."""
    out: Path | None = None
    """Write the report into this folder. The default is the first path's folder report."""
    threshold: tuple[str, ...] = ()
    """Count this return as solved, for the steps to it: a number for one task, or task=number each. The
    default is Gymnasium's own, if a task has one."""
    seed: int = 0
    """Seed the bootstrap with this number."""


@dataclass(frozen=True)
class Export:
    """Write a trained policy as an ONNX file, for machines without PyTorch.

        npg export runs/CartPole-v1/trpo/seed-0            # writes model.onnx beside model.zip
        npg export runs/Catch-v0/trpo/seed-0 --import envs # a task that a module registers
        npg export model.zip --algo trpo --normaliser vecnormalize.pkl --out policy.onnx

    The file maps raw observations to the environment's deterministic actions, as `predict` does: normaliser,
    image scaling and action bounds are inside. It is written only if onnxruntime reproduces `predict`.

        session = onnxruntime.InferenceSession("model.onnx")
        (actions,) = session.run(None, {"observation": observations})   # (N, *shape), in the space's dtype

    A Dict observation has one input per key. Images are channel first, as the policy takes them. Of a run
    folder only tensors and plain data are read, as by evaluate: no code in it is run. A model without its run
    folder is unpickled, and so is its normaliser, which can run code: name only files that you trust.
    """

    path: tyro.conf.Positional[Path]
    """Export the policy of this run folder, or of this saved model, which is unpickled."""
    out: Path | None = None
    """Write this file. The default is the model's name with .onnx."""
    normaliser: Path | None = None
    """Use this saved VecNormalize for a saved model. The default is vecnormalize.pkl beside it."""
    algo: str | None = None
    """Load a saved model as one of this algorithm."""
    import_: Modules = ()
    """Import this module first, which registers the environment. Repeatable."""
    force: bool = False
    """Replace an existing file."""
