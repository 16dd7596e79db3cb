"""The options of npg's commands except `npg train`; --help prints the docstring of the class.

Nothing here imports torch, so that --help is fast.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.settings.option_types import MaybeWhole, Whole, shown

Modules = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="import", metavar="MODULE")
]


@dataclass(frozen=True)
class CheckEnv:
    """Find mistakes in an environment before training on it.

        npg check-env my_envs:MyEnv-v0
        npg check-env my_envs:MyEnv-v0 --env-kwargs size=7 --env-wrapper my_envs.Wrapper

    Runs the checks of Stable-Baselines3, and plays with random actions: steps per second, the scale of
    observations and rewards, the lengths of episodes, and whether a seed repeats them; with advice.
    """

    env: tyro.conf.Positional[Annotated[str, shown("MODULE:ID")]]
    """Check this environment; module:Name-v0 imports the module that registers the id."""
    env_kwargs: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]], shown("NAME=VALUE [NAME=VALUE ...]")
    ] = ()
    """Give it these arguments."""
    env_wrapper: Annotated[tuple[str, ...], shown("CLASS [CLASS ...]", "none")] = ()
    """Wrap it in these, as with npg train."""
    steps: Annotated[int, shown("N")] = 2000
    """Play this many random steps."""
    import_: Modules = ()
    """First import this module."""


@dataclass(frozen=True)
class Evaluate:
    """Evaluate the agent of a run folder, or of a folder that npg share wrote.

        npg evaluate runs/CartPole-v1/trpo/seed-0              # 100 deterministic episodes
        npg evaluate runs/Hopper-v5/trpo/seed-0 --video        # also record three of them as video.mp4
        npg evaluate runs/Catch-v0/trpo/seed-0 --import envs   # a task that a module registers

    The policy is that of the newest checkpoint in RUN/checkpoints; the run may be unfinished. Without
    options, the results for a finished run equal those in evaluation.json, which training wrote. Episode k
    starts from seed N + k, where N is --seed, so increasing --episodes does not change the first ones.
    Stochastic actions are reproducible if --seed and --episodes are the same.

    The folder may be untrusted: only tensors and plain data are read from it, and no code in it is executed.
    A module that its config.yaml names is imported only if --import names it, too.
    """

    run: tyro.conf.Positional[Annotated[Path, shown("RUN")]]
    """Evaluate the agent in this folder."""
    checkpoint: Annotated[str | None, shown("NAME", "the newest one")] = None
    """Evaluate this checkpoint of the run, e.g. best or checkpoint-000012288."""
    episodes: Annotated[MaybeWhole, shown("N", "as at the end of training, or 100 if that was 0")] = None
    """Play this many episodes."""
    stochastic: bool = False
    """Sample actions as in training, instead of taking the most likely ones."""
    seed: Annotated[MaybeWhole, shown("N", "10000 plus the run's seed, as at the end of training")] = None
    """Start episode k from this seed + k."""
    video: bool = False
    """Record the first three episodes as video.mp4, next to the JSON file."""
    out: Annotated[Path | None, shown("FILE", "RUN/evaluate.json")] = None
    """Write the results into this JSON file."""
    import_: Modules = ()
    """First import this module, which registers the environment."""


@dataclass(frozen=True)
class Report:
    """Compare runs: statistics, figures and an HTML page.

        npg report runs                                    # all runs in runs/; writes runs-report/
        npg report runs/Hopper-v5 --threshold 2000 --out hopper
        npg report runs --threshold Pendulum-v1=-200 Hopper-v5=2000

    Writes report.html (one file that opens offline), figures as PNG and SVG, and the numbers as CSV: runs,
    aggregates, improvement (probabilities) and curves. Runs that cannot be used are listed with the reason.
    No code in a run folder is executed.
    """

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], shown("FOLDER [FOLDER ...]", hint="required")]]
    """Compare the runs in these folders and in folders below them."""
    out: Annotated[Path | None, shown("FOLDER", "FOLDER-report beside the first FOLDER")] = None
    """Write the report into this folder."""
    threshold: Annotated[
        tuple[str, ...],
        shown("RETURN|ENV=RETURN [ENV=RETURN ...]", "Gymnasium's, if it has one"),
    ] = ()
    """Count an environment as solved at this return. ENV=RETURN is for one environment of several."""
    seed: Annotated[Whole, shown("N")] = 0
    """Seed the bootstrap with this number."""


@dataclass(frozen=True)
class Export:
    """Write a trained policy as an ONNX file, which runs without PyTorch.

        npg export runs/CartPole-v1/trpo/seed-0            # writes model.onnx beside model.zip
        npg export runs/Catch-v0/trpo/seed-0 --import envs # a task that a module registers
        npg export model.zip --algo trpo --normaliser vecnormalize.pkl --out policy.onnx

    The file maps raw observations to deterministic actions for the environment, as `predict` does. It
    includes the normaliser, image scaling and action bounds. It is written only if onnxruntime reproduces
    `predict`.

        session = onnxruntime.InferenceSession("model.onnx")
        (actions,) = session.run(None, {"observation": observations})   # (N, *shape), in the space's dtype

    A Dict observation has one input per key. Images have their channels first, as the policy expects them.

    No code in a run folder is executed. But a saved model and its VecNormalize are unpickled, which can run
    any code: export only those that you trust.
    """

    path: tyro.conf.Positional[Annotated[Path, shown("RUN|MODEL")]]
    """Export the policy of this run folder, or of this saved model, which is unpickled."""
    out: Annotated[Path | None, shown("FILE", "the model's name with .onnx")] = None
    """Write this file."""
    normaliser: Annotated[Path | None, shown("FILE", "vecnormalize.pkl next to the model")] = None
    """Use this saved VecNormalize for a saved model."""
    algo: Annotated[str | None, shown("ALGO", hint="required for a saved model")] = None
    """Load a saved model as one of this algorithm."""
    checkpoint: Annotated[str | None, shown("NAME", "the newest one")] = None
    """Export this checkpoint of the run, e.g. best or checkpoint-000012288."""
    import_: Modules = ()
    """First import this module, which registers the environment."""
    force: bool = False
    """Replace an existing file."""


@dataclass(frozen=True)
class Share:
    """Write a trained policy into a folder that others can use, or upload it to Hugging Face's hub.

        npg share runs/CartPole-v1/trpo/seed-0 --to cartpole-trpo
        npg share runs/CartPole-v1/trpo/seed-0 --to hf:my-name/cartpole-trpo    # needs the extra `hub`
        npg evaluate cartpole-trpo                                              # what others do with it

    The folder has the policy with its normalisers (policy.safetensors, policy.json), config.yaml,
    progress.csv, the returns of the policy that was written (evaluation.json), a learning curve, a video, and
    a model card (README.md). Pictures need the extras `report` and `video`. Nothing in it is a pickle, and
    reading it executes no code. Check README.md before you upload the folder: config.yaml names this
    machine's processor.

    To upload, log in with `hf auth login`, or set HF_TOKEN to a token that may write.
    """

    run: tyro.conf.Positional[Annotated[Path, shown("RUN")]]
    """Share the agent in this run folder."""
    to: Annotated[str, shown("FOLDER|hf:NAME/MODEL", hint="required")]
    """Write this folder, which must not exist, or upload to this model repository, which is created."""
    checkpoint: Annotated[str | None, shown("NAME", "the newest one")] = None
    """Share this checkpoint of the run, e.g. best or checkpoint-000012288."""
    episodes: Annotated[int | None, shown("N", "as at the end of training, or 100 if that was 0")] = None
    """Evaluate the written policy on this many deterministic episodes."""
    import_: Modules = ()
    """First import this module, which registers the environment."""
