"""The command `npg export`."""

import logging
import pickle
import sys
import warnings
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from agents import ALGORITHMS
from agents.hyperparameters import nearest
from agents.masking import masks_apply
from agents.policy.actions import starts_at_zero
from agents.policy.actor import sample_observations, unvalidated
from agents.policy.masks import choices
from agents.policy.recurrent.policies import MlpLstmPolicy
from agents.policy.recurrent.sequences import Sequences
from experiments.evaluation.seeded_episodes import find_environment, make_env
from experiments.extras import needs
from experiments.failure import raised_at
from experiments.options import Export
from experiments.predictor import ACTION, MASKS, NEXT_STATE, STATE, Predictor, as_parts, as_space
from experiments.run.atomic_file import replacing
from experiments.run.run_folder import RunFolder
from experiments.run.stored_policy import restore_policy
from experiments.shared_folder import read_policy
from experiments.terminal import show

TOLERANCE = 1e-5
LARGEST = 1e3  # largest random observation; at some spaces' bounds, the largest float, networks overflow


def export_onnx(
    model: OnPolicyAlgorithm | ActorCriticPolicy,
    path: str | Path,
    normaliser: VecNormalize | None = None,
    *,
    masked: bool | None = None,
) -> None:
    """Write a deterministic policy as one ONNX file; an existing file is replaced.

    That of a recurrent policy has a further input "state" and a further output "next_state", the input of the
    next step; at the start of an episode, its rows in `state` (parts, layers, rows, units) are zeros.

    Args:
        model: a policy, or an agent with one.
        path: path of the file.
        normaliser: normaliser of the model's observations; None for that of the agent's environment, if any.
        masked: whether the file has the further input "action_masks", (N, K) of bool; None for whether the
            agent uses masks.

    Raises:
        ImportError: the extra `onnx` is not installed.
        OSError: the file cannot be written.
        ValueError: the normaliser is for other observations, or a part of them is called "action".
        RuntimeError: PyTorch cannot trace the policy, or the result disagrees with `predict`.
    """
    with needs("onnx"):
        runtime: Any = [import_module(name) for name in ("onnx", "onnxscript", "onnxruntime")][-1]
    policy: Any = model
    if isinstance(model, OnPolicyAlgorithm):
        policy, normaliser = model.policy, normaliser or model.get_vec_normalize_env()
        masked = getattr(model, "masked", False) if masked is None else masked
    shape = policy.observation_space.shape
    if normaliser is not None and normaliser.observation_space.shape != shape:
        raise ValueError(f"the normaliser is for {normaliser.observation_space}, not for shape {shape}")
    example: Any = obs_as_tensor(random_observations(policy, normaliser, 3), policy.device)
    inputs, batch = {"parts": example}, torch.export.Dim("batch")
    shapes: dict[str, Any] = {"parts": {name: {0: batch} for name in example}}
    names = {ACTION: "output"}
    if isinstance(policy, MlpLstmPolicy):
        inputs, shapes = inputs | {STATE: random_state(policy, 3)}, shapes | {STATE: {2: batch}}
        names |= {STATE: "input", NEXT_STATE: "output"}
    if masked:
        masks = torch.as_tensor(random_masks(policy.action_space, 3), device=policy.device)
        inputs, shapes = inputs | {MASKS: masks}, shapes | {MASKS: {0: batch}}
        names |= {MASKS: "input"}
    if taken := [name for name in names if name in example]:
        name = taken[0]
        raise ValueError(f"the file's {names[name]} is called {name!r}; rename that part of the observation")
    with warnings.catch_warnings(), unvalidated(), torch.no_grad():
        warnings.simplefilter("ignore")  # about deprecated parts of the exporter; `verify` checks the result
        program: Any = torch.onnx.export(
            Predictor(policy, normaliser).eval(),
            kwargs=inputs,
            dynamic_shapes=shapes,
            input_names=[*example, *(name for name in names if names[name] == "input")],
            output_names=[name for name in names if names[name] == "output"],
            verbose=False,
        )
    graph = program.model_proto
    for node in graph.graph.node:
        node.ClearField("metadata_props")  # stack traces, with paths on this machine
    session = runtime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for n in (1, 64):
        verify(policy, normaliser, session, n, bool(masked))
    with replacing(Path(path)) as file:
        file.write(graph.SerializeToString())


def verify(
    policy: ActorCriticPolicy,
    normaliser: VecNormalize | None,
    session: Any,
    n: int,
    masked: bool,
) -> None:
    """Raise RuntimeError unless an onnxruntime session agrees with `predict` on n random observations."""
    raw = random_observations(policy, normaliser, n)
    given = as_space(policy.observation_space, raw)
    given = given if normaliser is None else normaliser.normalize_obs(given)
    before = random_state(policy, n) if isinstance(policy, MlpLstmPolicy) else None
    state = {} if before is None else {STATE: before.numpy(force=True)}
    masks: dict[str, Any] = {MASKS: random_masks(policy.action_space, n)} if masked else {}
    expected, after = policy.predict(
        given, tuple(state[STATE]) if state else None, deterministic=True, **masks
    )
    actions, *rest = session.run(None, raw | state | masks)
    agree = (actions.dtype, actions.shape) == (expected.dtype, expected.shape)
    agree &= np.allclose(rest, [] if after is None else [after], rtol=TOLERANCE, atol=TOLERANCE)
    if agree and not isinstance(policy.action_space, spaces.Box):
        # Compare probabilities: of two choices that are equally likely up to rounding, either is correct.
        tensor: Any = obs_as_tensor(given, policy.device)
        distribution: Any = policy.get_distribution(
            tensor if before is None else Sequences.of_step(tensor, before),  # type: ignore[arg-type]
            **masks,
        )
        start: Any = 0 if starts_at_zero(policy.action_space) else policy.action_space.start  # type: ignore[attr-defined]
        floats = (obs_as_tensor((a - start).astype(np.float32), policy.device) for a in (actions, expected))
        for_action = (distribution.log_prob(each) for each in floats)
        actions, expected = (log_prob.numpy(force=True) for log_prob in for_action)
    if not (agree and np.allclose(actions, expected, rtol=TOLERANCE, atol=TOLERANCE)):
        raise RuntimeError("onnxruntime and the policy disagree on random observations; nothing is written")


def random_state(policy: MlpLstmPolicy, n: int) -> Tensor:
    """Return random states of a recurrent actor, (parts, layers, n, H); deterministic for each n."""
    zeros = policy.zero_states(n)[: policy.lstm_actor.cell.parts]
    numbers = np.random.default_rng(n).uniform(-1, 1, zeros.shape)
    return torch.as_tensor(numbers, dtype=zeros.dtype, device=zeros.device)


def random_observations(policy: ActorCriticPolicy, normaliser: VecNormalize | None, n: int) -> dict[str, Any]:
    """Return n random raw observations, distributed as the normaliser expects; deterministic for each n."""
    sample = as_parts(sample_observations(policy.observation_space, n, seed=n, largest=LARGEST))
    raw = as_space(policy.observation_space, sample)
    raw = raw if normaliser is None else normaliser.unnormalize_obs(raw)
    return {key: part.astype(sample[key].dtype) for key, part in as_parts(raw).items()}


def random_masks(space: spaces.Space, n: int) -> np.ndarray:
    """Return n random masks, each of which allows an action; deterministic for each n."""
    generator, parts = np.random.default_rng(n), []
    for size in choices(space):
        parts.append(generator.random((n, size)) < 0.5)
        parts[-1][np.arange(n), generator.integers(size, size=n)] = True
    return np.concatenate(parts, axis=1)


def load_run(arguments: Export) -> tuple[ActorCriticPolicy, VecNormalize | None, bool]:
    """Return the policy of a run folder, its normaliser or None, and whether it uses masks.

    Nothing is unpickled.

    Raises:
        ImportError, OSError, ValueError: the folder, its environment or an option is invalid.
    """
    if arguments.algo or arguments.normaliser:
        raise ValueError("a run folder has its own --algo and --normaliser; leave them out")
    folder = RunFolder(arguments.path)
    settings = folder.read_settings()
    env = make_env(find_environment(settings.env, arguments.import_), seed=0, n_envs=1, settings=settings)
    try:
        policy, env = restore_policy(read_policy(folder, arguments.checkpoint), settings, env)
        masked = masks_apply(policy, env, settings.hyperparameters)
        return policy, env if isinstance(env, VecNormalize) else None, masked
    finally:
        env.close()


def load_model(arguments: Export) -> tuple[ActorCriticPolicy, VecNormalize | None, bool]:
    """Return the policy of a saved model, its normaliser or None, and whether it uses masks.

    Model and normaliser are unpickled.

    Raises:
        OSError: the model or the normaliser cannot be read.
        ValueError: an option or the normaliser is invalid.
    """
    if arguments.checkpoint:
        raise ValueError("a saved model has no checkpoints; leave --checkpoint out, or name a run folder")
    if not zipfile.is_zipfile(arguments.path):
        raise FileNotFoundError(f"{arguments.path} is no run folder, and no saved model")
    algo = arguments.algo
    if algo not in ALGORITHMS:
        problem = f"unknown algorithm {algo!r}" if algo else "a saved model needs the option --algo"
        raise ValueError(f"{problem}{nearest(algo or '', ALGORITHMS)}")
    model = ALGORITHMS[algo].load(arguments.path, device="cpu")
    path = arguments.normaliser or arguments.path.with_name("vecnormalize.pkl")
    if not (path.is_file() or arguments.normaliser):
        return model.policy, None, model.masked
    try:
        normaliser = pickle.loads(path.read_bytes())
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"cannot read {path} ({error}); name the model's VecNormalize by --normaliser"
        ) from None
    if not isinstance(normaliser, VecNormalize):
        raise ValueError(f"{path} holds no VecNormalize; name the model's by --normaliser")
    return model.policy, normaliser, model.masked


def main(arguments: Export) -> int:
    """Export, and return the exit code."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns about optional packages
    is_run = arguments.path.is_dir()
    out = arguments.out or (arguments.path / "model.onnx" if is_run else arguments.path.with_suffix(".onnx"))
    try:
        if out.exists() and not arguments.force:
            raise FileExistsError(f"{out} exists; add --force to replace it, or choose another --out")
        policy, normaliser, masked = load_run(arguments) if is_run else load_model(arguments)
        export_onnx(policy, out, normaliser, masked=masked)
    except (ValueError, ImportError, OSError, RuntimeError, AssertionError, gym.error.Error) as error:
        show(f"error: {error}{raised_at(error)}", error=True)
        return 2
    show(f"wrote {out}, which agrees with the policy on random observations")
    return 0


if __name__ == "__main__":
    from experiments.command import main as command

    sys.exit(command(["export", *sys.argv[1:]]))
