"""Log measures of the policy's Fisher matrix during training."""

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
from agents.policy.recurrent.policies import MlpLstmPolicy
from agents.rollout.batch import Batch
from experiments.spectrum_figure import draw
from npg import EmpiricalFisher, ExactFisher, FlatParameters, LikelihoodHessian
from npg.fisher.root_scores import white_noise
from npg.geometry.diagnostics import block_coupling, relative_gap
from npg.geometry.spectrum import Estimate, Spectrum, spectrum
from npg.policy import evaluate
from npg.states import each, select

PREFIX = "npg/geometry/"
DEFAULT_DAMPING = 0.1
# Backward passes for the diagonal of the Fisher matrix, which sets the units in which blocks are compared.
# With 64, the standard error of an entry is at most 18 %, and that of the blocks' coupling, an average over
# entries, about 1 %.
DIAGONAL_PROBES = 64


class GeometryCallback(BaseCallback):
    """Log measures of the policy's Fisher matrix F, under `npg/geometry/`.

    At the end of the first rollout and of every k-th rollout after it, before the update, it logs:

    - the number of parameters, extreme eigenvalues, and trace of F;
    - its condition number and effective dimension under damping;
    - the relative distances ‖A − F‖ / ‖F‖ of the empirical Fisher matrix and of the Hessian of the negative
      log-likelihood from the exact F (`npg.relative_gap`);
    - the share of F that lies between layers;
    - a figure of the spectrum, which TensorBoard shows.

    Names that end in `_se` are standard errors over random probes. The probes are the same every time, so
    curves do not show their noise.

    Of a recurrent policy, whole sequences are used, and the Hessian is left out, since recurrent layers have
    no second derivatives by their parameters.

    The callback does not change training, bit for bit. It works with any on-policy SB3 algorithm whose action
    distribution `PolicyActor` supports.

    Args:
        every: k, the number of rollouts per record.
        max_states: largest number of states that are used, evenly spaced over the rollout.
        damping: λ, in nats; None for the agent's own, or 0.1 if it has none or 0.
        steps: Lanczos steps per probe.
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
            "off_diagonal_mass": coupling.off_diagonal_mass,
        }
        if not isinstance(policy, MlpLstmPolicy):
            hessian = LikelihoodHessian(actor, observations, actions)
            measures["hessian_gap"] = relative_gap(hessian, fisher, probes=self.probes)
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
    """Restore on exit what evaluating a policy changes: training modes, and SB3's distribution object."""
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
    """Return the actor's inputs, actions and log-probabilities of at most `most` states of a new rollout.

    The buffer's `get` is not used, since it draws from NumPy's global generator and reorders the arrays. The
    states are evenly spaced in the concatenation of the environments' trajectories.
    """
    states = buffer.buffer_size * buffer.n_envs
    if hasattr(buffer, "recurrent_states"):
        batch = Batch.from_buffer(buffer, action_space)
        lengths = np.array(batch.observations.lengths)
        sequences = np.arange(0, len(lengths), -(-states // most))
        fits = np.cumsum(lengths[sequences]) <= most
        sequences = sequences[: max(fits.sum(), 1)]
        rows = torch.as_tensor(batch.observations.states_of(sequences))
        return select(batch.inputs, rows), batch.actions[rows], batch.old_log_prob[rows]
    env, step = np.divmod(np.arange(0, states, -(-states // most)), buffer.buffer_size)

    def pick(array: np.ndarray) -> Tensor:
        return buffer.to_torch(array[step, env])

    masks = getattr(buffer, "action_masks", None)
    observations: Any = buffer.observations
    inputs = each(pick, observations if masks is None else (observations, masks))
    actions = pick(buffer.actions).float()
    if isinstance(action_space, spaces.Discrete):
        actions = actions.long().flatten()
    return inputs, actions, pick(buffer.log_probs)


def probed_diagonal(actor: PolicyActor, observations: Any, probes: int) -> Tensor:
    """Return an unbiased, non-negative estimate of diag(F), (P,), by one backward pass per probe.

    With a state's metric B Bᵀ and random signs w, the sum of Jᵀ B w over N states is a vector g with
    E g gᵀ = N F, since the signs of different states are uncorrelated. The relative standard error of g²/N is
    at most √2 per entry. `npg.DiagonalFisher` is exact, but needs an actor that runs under vmap, which SB3's
    one-hot encoding of discrete observations does not.
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
