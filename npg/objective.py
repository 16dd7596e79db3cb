"""The surrogate objective E[ratio · advantage + c · entropy], and the KL that constrains it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from npg import host
from npg.distributions import Distribution
from npg.parameters import FlatParameters
from npg.policy import evaluate
from npg.reduction import Reduce, identity
from npg.scaling import cosine, dot, norm


@dataclass(frozen=True)
class Evaluation:
    """The objective at a candidate θ_old + d.

    Attributes:
        surrogate: mean of ratio · advantage, plus the entropy bonus, in units of the advantage.
        gain: the surrogate minus its value at θ_old.
        kl: KL(π_old ‖ π_candidate), joint over action dimensions, mean over states, in nats.
        surrogate_before: the surrogate at θ_old.
        predicted_gain: gᵀd; NaN if g has not been computed yet.
        cosine: cosine of the angle between g and d; 0 if one of them is 0, NaN if g has not been computed
            yet.
        step_norm: ‖d‖.
    """

    surrogate: float
    gain: float
    kl: float
    surrogate_before: float = 0.0
    predicted_gain: float = 0.0
    cosine: float = 0.0
    step_norm: float = 0.0

    @classmethod
    def of(cls, numbers: Mapping[str, float]) -> Self:
        """Return an evaluation from numbers that include all of its attributes."""
        return cls(**{field.name: numbers[field.name] for field in fields(cls)})


class SurrogateObjective:
    """L(d) = E[π_{θ+d}(a|s) / π_behaviour(a|s) · advantage + c · H(π_{θ+d})] around the parameters θ.

    H is the entropy of a state's actions. Candidates are evaluated by a functional call: the module itself is
    never modified. Schulman et al. 2015, "Trust region policy optimization", eq. 14.

    Args:
        actor: a module whose forward maps observations to an npg distribution.
        observations: input of `actor`, N states.
        actions: N actions, shaped as the distribution's `log_prob` takes them.
        advantages: (N,).
        old_log_prob: log π_behaviour of the actions (N,), in nats; the actor's own by default.
        entropy_coefficient: c, in units of the advantage per nat; None for no bonus: no entropy is computed.
        reduce: maps the mean over this process's states to that over all processes; see `npg.reduction`.

    Raises:
        ValueError: the shapes of actions, advantages and log-probabilities do not match.
    """

    _retains_graph: ClassVar[bool] = False  # after `gradient`, for other gradients

    def __init__(
        self,
        actor: nn.Module,
        observations: Any,
        actions: Tensor,
        advantages: Tensor,
        *,
        old_log_prob: Tensor | None = None,
        entropy_coefficient: float | Tensor | None = None,
        reduce: Reduce = identity,
    ):
        self.parameters = FlatParameters(actor)
        self._actor = actor
        self._observations = observations
        self._actions = actions
        self._advantages = advantages
        self._entropy_coefficient = entropy_coefficient
        self._reduce = reduce
        # Keep the graph for the gradient, which then needs no forward pass of its own.
        with torch.enable_grad():
            policy = evaluate(actor, observations)
            self._log_prob = policy.log_prob(actions)
            self._entropy = self._entropy_of(policy)
        self._gradient: Tensor | None = None
        self._old = policy.snapshot()
        log_prob = self._log_prob.detach()
        self._old_log_prob = log_prob if old_log_prob is None else old_log_prob
        if not log_prob.shape == advantages.shape == self._old_log_prob.shape:
            raise ValueError(
                f"expected one advantage and one log-probability per state, {tuple(log_prob.shape)}; "
                f"got advantages {tuple(advantages.shape)} and old_log_prob "
                f"{tuple(self._old_log_prob.shape)}"
            )
        self._old_ratio = torch.exp(log_prob - self._old_log_prob)
        self._states = log_prob.numel()

    @property
    def data(self) -> dict[str, Any]:
        """The arguments besides actor and reduction."""
        return {
            "observations": self._observations,
            "actions": self._actions,
            "advantages": self._advantages,
            "old_log_prob": self._old_log_prob,
            "entropy_coefficient": self._entropy_coefficient,
        }

    def gradient(self) -> Tensor:
        """Return g = ∇L(0), shape (P,)."""
        if self._gradient is None:
            with torch.enable_grad():
                surrogate = self._mean(torch.exp(self._log_prob - self._old_log_prob), self._entropy)
            self._gradient = self._gradient_of(surrogate)
        return self._gradient

    def _gradient_of(self, mean: Tensor) -> Tensor:
        """Return the gradient (P,) of a mean over this process's states, over those of all processes."""
        parts = torch.autograd.grad(
            mean, self.parameters.tensors, allow_unused=True, retain_graph=self._retains_graph
        )
        return self._reduce(self.parameters.flatten(parts), self._states)

    def surrogate_before(self) -> Tensor:
        """Return L(0), 0-d."""
        return self._reduce(self._mean(self._old_ratio, self._entropy).detach(), self._states)

    def _entropy_of(self, policy: Distribution) -> Tensor | None:
        """Return the entropy per state, or None without a bonus."""
        return None if self._entropy_coefficient is None else policy.entropy()

    def _mean(self, ratio: Tensor, entropy: Tensor | None) -> Tensor:
        """Return the mean of ratio · advantage + c · entropy."""
        value = ratio * self._advantages
        if entropy is not None and self._entropy_coefficient is not None:
            value = value + self._entropy_coefficient * entropy
        return value.mean()

    def evaluate(self, step: Tensor) -> Evaluation:
        """Return surrogate, gain and KL at θ + step, for a step of shape (P,), with one host read.

        They are NaN if θ + step is not finite, even if a saturated activation makes the policy finite.
        """
        return Evaluation.of(host.read(**self.measure(step)))

    @torch.no_grad()
    def measure(self, step: Tensor, gradient: Tensor | None = None) -> dict[str, Tensor]:
        """Return {attribute of `Evaluation`: 0-d tensor on the device}, without a host read.

        Args:
            step: (P,).
            gradient: g, if it is known already; by default the one of `gradient`, if that was called.
        """
        theta = self.parameters.displaced(step)
        finite = torch.stack(torch._foreach_norm(list(theta.values()), math.inf)).isfinite().all()
        candidate = evaluate(self._actor, self._observations, theta)
        ratio = torch.exp(candidate.log_prob(self._actions) - self._old_log_prob)
        # Take the mean of differences: in the difference of two means, small gains are lost to rounding.
        entropy = self._entropy_of(candidate)
        change = None if entropy is None or self._entropy is None else entropy - self._entropy
        gain = self._mean(ratio - self._old_ratio, change)
        surrogate = self._mean(ratio, entropy)
        before = self._mean(self._old_ratio, self._entropy)
        kl = self._old.kl(candidate).mean()
        local = torch.stack([surrogate, gain, kl, before, *self._constraint_changes(ratio)])
        means = self._reduce(local, self._states)
        surrogate, gain, kl = torch.where(finite, means[:3], math.nan).unbind()
        changes = torch.where(finite, means[4:], math.nan).unbind()
        gradient = self._gradient if gradient is None else gradient
        return {
            "surrogate": surrogate,
            "gain": gain,
            "kl": kl,
            "surrogate_before": means[3],
            "predicted_gain": kl.new_tensor(math.nan) if gradient is None else dot(gradient, step),
            "cosine": kl.new_tensor(math.nan) if gradient is None else cosine(gradient, step),
            "step_norm": norm(step),
            **{f"constraint {i}": change for i, change in enumerate(changes)},
        }

    def _constraint_changes(self, ratio: Tensor) -> list[Tensor]:
        """Return the changes of constrained quantities, 0-d each, for ratios (N,); here there are none."""
        return []
