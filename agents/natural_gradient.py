"""What NPG and TRPO share: the Fisher operator, the solver and the damping of a natural gradient."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from agents.base import PolicyGradientAgent
from agents.hyperparameters import RANGES, check_resolution
from agents.policy.names import check_new
from agents.rollout.batch import Batch
from npg import (
    ExactFisher,
    FiniteDifferenceFisher,
    LevenbergMarquardt,
    LinearOperator,
    PolicyStep,
    conjugate_gradient,
)
from npg.natural_direction import Solver

MakeFisher = Callable[..., LinearOperator]
FISHERS: dict[str, MakeFisher] = {"exact": ExactFisher, "finite_difference": FiniteDifferenceFisher}
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

    def _setup_model(self) -> None:
        super()._setup_model()
        check_resolution(self.policy, target_kl=self.target_kl)

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
        return make(self.actor, batch.select(slice(first, None, self.sub_sampling_factor)), **options)

    def adapt_damping(self, step: PolicyStep) -> None:
        """With `adaptive_damping`, adapt λ to the ratio of the step's actual to its predicted gain."""
        if self.adaptive_damping:
            self.cg_damping = LevenbergMarquardt().adapted(self.cg_damping, step)
