"""What NPG and TRPO share: the Fisher operator, the solver and the damping of a natural gradient."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from agents.base import PolicyGradientAgent
from agents.hyperparameters import RANGES, check_resolution
from agents.policy.names import check_new
from agents.policy.recurrent.policies import MlpLstmPolicy
from agents.rollout.batch import Batch
from npg import (
    Captured,
    CapturedStep,
    ExactFisher,
    FiniteDifferenceFisher,
    LevenbergMarquardt,
    LinearOperator,
    PolicyStep,
    conjugate_gradient,
)
from npg.natural_direction import Solver
from npg.states import select

MakeFisher = Callable[..., LinearOperator]
FISHERS: dict[str, MakeFisher] = {"exact": ExactFisher, "finite_difference": FiniteDifferenceFisher}
CAPTURABLE = tuple(FISHERS)  # a user's own may read the device, or draw random numbers
RANGES["fisher"] = (
    'the name of a registered Fisher operator, such as "exact", or a callable',
    lambda v: callable(v) or v in FISHERS,
)


def register_fisher(name: str, make: MakeFisher) -> None:
    """Make a Fisher operator available as ``NPG(..., fisher=name)`` and ``TRPO(..., fisher=name)``.

    Args:
        name: the name for the argument `fisher`.
        make: called as ``make(actor, observations)`` in every update, with the keyword `micro_batch_size` if
            the agent's `micro_batch_size` is not None, and with `reduce` (see `npg.reduction`) on several
            ranks.

    Raises:
        ValueError: the name is taken.
    """
    check_new(name, FISHERS, "Fisher operator")
    FISHERS[name] = make


class NaturalGradientAgent(PolicyGradientAgent):
    """An agent that solves (F + λI) x = g by conjugate gradient.

    Args:
        cg_max_steps: maximum number of iterations of conjugate gradient.
        cg_damping: λ in F + λI. With `adaptive_damping` this is the initial value; the attribute has the
            current one.
        cg_tolerance: relative residual at which conjugate gradient stops.
        adaptive_damping: whether to adapt λ after every update to the ratio of actual to predicted gain; see
            `npg.LevenbergMarquardt`.
        target_kl: δ, the largest KL(old ‖ new) of a step, joint over action dimensions, mean over states, in
            nats; a number or a schedule. NPG limits the predicted KL, TRPO the true one.
        sub_sampling_factor: k. F is computed from every k-th state; gradient and evaluation use all states.
        fisher: "exact", "finite_difference" (for modules that cannot be differentiated twice), a name given
            to `register_fisher`, or a function of actor and observations that returns an
            `npg.LinearOperator`.
        micro_batch_size: number of states whose graph F keeps at a time, which limits memory but takes
            longer; None for all states.
        captured: whether to replay the policy step as CUDA graphs, which take less time for small networks on
            a GPU; see `npg.CapturedStep`. In tensor environments, the steps of rollouts are replayed, too. If
            this is not possible, a warning says why.
    """

    resumable: ClassVar[tuple[str, ...]] = (*PolicyGradientAgent.resumable, "cg_damping")

    cg_max_steps: int = 15
    cg_damping: float = 0.1
    target_kl: float | Schedule = 0.01
    sub_sampling_factor: int = 1
    cg_tolerance: float = 1e-8
    adaptive_damping: bool = False
    fisher: str | Callable[[nn.Module, Any], LinearOperator] = "exact"
    micro_batch_size: int | None = None
    captured: bool = False

    def _setup_model(self) -> None:
        super()._setup_model()
        check_resolution(self.policy, target_kl=self.target_kl)
        self._captures: tuple[Any, CapturedStep] | None = None  # and the settings that they are for
        self._obstacle_warned: str | None = None

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_captures", "_obstacle_warned"]

    @property
    def solver(self) -> Solver:
        """Conjugate gradient with this agent's options."""
        return partial(conjugate_gradient, max_iterations=self.cg_max_steps, tolerance=self.cg_tolerance)

    def make_fisher(self, batch: Batch) -> LinearOperator:
        """Return F at every `sub_sampling_factor`-th state of a batch, counted over all ranks."""
        make: MakeFisher = self.fisher if callable(self.fisher) else FISHERS[self.fisher]
        options: dict[str, Any] = {}
        if self.micro_batch_size is not None:
            options["micro_batch_size"] = self.micro_batch_size
        if self.ranks.several:
            options["reduce"] = self.ranks.mean
        first = -self.share.first * self.n_steps % self.sub_sampling_factor
        return make(self.actor, batch.every(self.sub_sampling_factor, first), **options)

    def captured_step(self) -> CapturedStep | None:
        """Return what replays the policy step; None if it is computed without CUDA graphs."""
        if not self.captured:
            return None
        obstacle = self._obstacle_to_capture()
        if obstacle is not None:
            if obstacle != self._obstacle_warned:
                warnings.warn(f"captured=True has no effect: {obstacle}", RuntimeWarning, stacklevel=2)
                self._obstacle_warned = obstacle
            return None
        make, every, options = FISHERS[str(self.fisher)], self.sub_sampling_factor, self._solver_options()
        settings = (self.actor, make, every, options)
        if self._captures is None or self._captures[0] != settings:

            def make_fisher(actor: nn.Module, observations: Any) -> LinearOperator:
                return make(actor, select(observations, slice(None, None, every)))

            self._captures = settings, CapturedStep(self.actor, make_fisher, **(options or {}))
        return self._captures[1]

    def _obstacle_to_capture(self) -> str | None:
        """Return why the policy step cannot be captured; None if it may be possible."""
        own_fisher = type(self).make_fisher is not NaturalGradientAgent.make_fisher
        obstacles = {
            f"CUDA graphs need a CUDA device, and the policy is on {self.device}": (
                not Captured.graph.available(self.device)
            ),
            "the sequences of a recurrent policy have other lengths in every rollout": isinstance(
                self.policy, MlpLstmPolicy
            ),
            "the means of several ranks are not captured": self.ranks.several,
            "micro-batches are not captured; leave micro_batch_size at None": (
                self.micro_batch_size is not None
            ),
            f"only the Fisher operators {' and '.join(map(repr, CAPTURABLE))} are captured": (
                own_fisher or self.fisher not in CAPTURABLE
            ),
            "only conjugate gradient without a preconditioner is captured": self._solver_options() is None,
        }
        return next((obstacle for obstacle, present in obstacles.items() if present), None)

    def _solver_options(self) -> dict[str, Any] | None:
        """Return the options of conjugate gradient; None if the solver is another one, or has others."""
        solver: Any = self.solver
        if not (isinstance(solver, partial) and solver.func is conjugate_gradient and not solver.args):
            return None
        return solver.keywords if solver.keywords.keys() <= {"max_iterations", "tolerance"} else None

    def adapt_damping(self, step: PolicyStep) -> None:
        """With `adaptive_damping`, adapt λ to the ratio of the step's actual to its predicted gain."""
        if self.adaptive_damping:
            self.cg_damping = LevenbergMarquardt().adapted(self.cg_damping, step)
