"""The geometry of the policy's parameters, logged while it trains."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from agents.policy.actor import PolicyActor
from experiments.spectrum_figure import draw
from npg import EmpiricalFisher, ExactFisher, FlatParameters, LikelihoodHessian
from npg.fisher.root_scores import white_noise
from npg.geometry.diagnostics import block_coupling, relative_gap
from npg.geometry.spectrum import Estimate, Spectrum, spectrum
from npg.policy import evaluate
from npg.states import each

PREFIX = "npg/geometry/"
DEFAULT_DAMPING = 0.1
# Passes backward for the diagonal of the Fisher matrix, in whose units blocks are compared: every entry is
# then right to 18 %, the coupling of blocks, which averages over entries, to a percent.
DIAGONAL_PROBES = 64


class GeometryCallback(BaseCallback):
    """Log measures of the policy's Fisher matrix, under `npg/geometry/`.

    At the end of the first rollout and of every k-th after it, of the policy that the coming update starts
    from: size and extreme eigenvalues, condition and effective dimension under damping; how far the empirical
    Fisher matrix and the Hessian of the negative log-likelihood are from the exact Fisher matrix (‖A − F‖ /
    ‖F‖, `npg.relative_gap`); how much of it lies between layers; and a figure of the spectrum,
    which TensorBoard shows. An `_se` after a name means its standard error over random probes; the probes
    are the same every time, so that curves do not show their noise.

    Training with it is the same to the last bit as without. It works with any on-policy SB3 algorithm whose
    action distribution `PolicyActor` knows.

    Args:
        every: k, rollouts from one record to the next.
        max_states: states that are used, evenly strided over the rollout.
        damping: λ, in nats; the agent's own by default, and 0.1 if it has none or 0.
        steps: of Lanczos, per probe.
        probes: random vectors per estimate.

    Raises:
        ValueError: an argument is out of range.
        TypeError: the algorithm is not on-policy.
    """

    model: OnPolicyAlgorithm

    def __init__(
        self,
        every: int = 10,
        *,
        max_states: int = 1024,
        damping: float | None = None,
        steps: int = 20,
        probes: int = 4,
    ):
        super().__init__()
        if min(every, max_states, steps, probes) < 1:
            raise ValueError(
                "GeometryCallback needs every, max_states, steps and probes ≥ 1, "
                f"got {every}, {max_states}, {steps} and {probes}"
            )
        if damping is not None and not 0 < damping < math.inf:
            raise ValueError(f"GeometryCallback needs a damping > 0, got {damping}")
        self.every = every
        self.max_states = max_states
        self.damping = damping
        self.steps = steps
        self.probes = probes
        self._rollouts = 0
        self._draws = True

    def _init_callback(self) -> None:
        if not isinstance(self.model, OnPolicyAlgorithm):
            raise TypeError(f"GeometryCallback needs an on-policy algorithm, got {type(self.model).__name__}")

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self._rollouts % self.every == 0:
            try:
                with undisturbed(self.model.policy):
                    self._record_geometry()
            except FloatingPointError as error:  # the agent decides whether this ends training
                warnings.warn(f"no geometry at step {self.num_timesteps}: {error}", stacklevel=2)
        self._rollouts += 1

    def _record_geometry(self) -> None:
        policy = self.model.policy
        policy.set_training_mode(False)
        actor = PolicyActor(policy)
        observations, actions, log_prob = read(
            self.model.rollout_buffer, self.model.action_space, self.max_states
        )
        actions, _ = actor.unsquash(actions, log_prob)
        fisher = ExactFisher(actor, observations)
        own = getattr(self.model, "cg_damping", None) or getattr(self.model, "damping", None)
        damping = self.damping or own or DEFAULT_DAMPING
        found = spectrum(fisher, steps=self.steps, probes=self.probes)
        dimension = found.effective_dimension(damping)
        empirical = EmpiricalFisher(actor, observations, actions)
        hessian = LikelihoodHessian(actor, observations, actions)
        coupling = block_coupling(
            fisher,
            probed_diagonal(actor, observations, DIAGONAL_PROBES),
            FlatParameters(actor).by_module(),
            probes=self.probes,
        )

        measures: dict[str, float | Estimate] = {
            "parameters": fisher.size,
            "states": len(actions),
            "damping": damping,
            "largest_eigenvalue": found.largest,
            "smallest_eigenvalue": found.smallest,
            "condition": found.condition(damping),
            "trace": found.trace,
            "effective_dimension": dimension,
            "empirical_gap": relative_gap(empirical, fisher, probes=self.probes),
            "hessian_gap": relative_gap(hessian, fisher, probes=self.probes),
            "off_diagonal_mass": coupling.off_diagonal_mass,
        }
        for name, value in measures.items():
            if isinstance(value, Estimate):
                self.logger.record(f"{PREFIX}{name}_se", value.standard_error)
                value = value.value
            self.logger.record(PREFIX + name, value)
        self._record_figure(found, damping, dimension)

    def _record_figure(self, found: Spectrum, damping: float, dimension: Estimate) -> None:
        if not self._draws:
            return
        try:
            figure = draw(found, damping, dimension)
        except ImportError:
            self._draws = False
            warnings.warn(
                "no figure of the spectrum, since matplotlib is missing; pip install 'npg-toolkit[figures]'",
                stacklevel=2,
            )
            return
        self.logger.record(
            f"{PREFIX}spectrum", Figure(figure, close=True), exclude=("stdout", "log", "csv", "json")
        )


@contextmanager
def undisturbed(policy: ActorCriticPolicy) -> Iterator[None]:
    """Restore what reading a policy changes: modes, and SB3's one distribution object."""
    modes = [(module, module.training) for module in policy.modules()]
    distribution = policy.action_dist
    state = dict(vars(distribution))
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        vars(distribution).clear()
        vars(distribution).update(state)


def read(buffer: RolloutBuffer, action_space: spaces.Space, most: int) -> tuple[Any, Tensor, Tensor]:
    """Return observations, actions and log-probabilities of at most so many states of a fresh rollout.

    Not by the buffer's `get`, which would draw from numpy's global generator and reorder the arrays before
    their time. The stride runs along one environment's time after the other's.
    """
    states = buffer.buffer_size * buffer.n_envs
    env, step = np.divmod(np.arange(0, states, -(-states // most)), buffer.buffer_size)

    def pick(array: np.ndarray) -> Tensor:
        return buffer.to_torch(array[step, env])

    observations = each(pick, buffer.observations)  # type: ignore[arg-type]  # arrays
    actions = pick(buffer.actions.astype(np.float32, copy=False))
    if isinstance(action_space, spaces.Discrete):
        actions = actions.long().flatten()
    return observations, actions, pick(buffer.log_probs)


def probed_diagonal(actor: PolicyActor, observations: Any, probes: int) -> Tensor:
    """Return an estimate of diag(F) (P,), unbiased and not negative, by one pass backward per probe.

    With a state's metric B Bᵀ and random signs w, the states' Jᵀ B w add up to a vector g with
    E g gᵀ = N F: the signs of different states do not correlate. An entry's g²/N errs by up to √2 of
    itself. `npg.DiagonalFisher` is exact, but needs an actor that runs under vmap, as SB3's one-hot
    encoding of discrete observations does not.
    """
    source = torch.Generator(actor.policy.device).manual_seed(0)
    parameters = FlatParameters(actor)
    distribution = evaluate(actor, observations)
    metric = distribution.snapshot()
    outputs = [z for z in distribution.coordinates if z.requires_grad]
    total = torch.zeros(parameters.size, dtype=parameters.dtype, device=parameters.device)
    for white in white_noise(metric.coordinates, probes, source):
        roots = metric.fisher_root_product(white)
        moving = [r for r, z in zip(roots, distribution.coordinates, strict=True) if z.requires_grad]
        gradient = torch.autograd.grad(
            outputs, parameters.tensors, moving, retain_graph=True, allow_unused=True
        )
        total += parameters.flatten(gradient).square()
    return total / distribution.coordinates[0].shape[:-1].numel()
