"""End a run whose updates keep producing NaN or infinity."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from agents.critic import CriticFit
from agents.policy.recurrent.sequences import Sequences
from agents.rollout.batch import Batch
from agents.rollout.finite import NonFiniteError
from npg import PolicyStep, Rejection, SurrogateObjective

if TYPE_CHECKING:
    from agents.base import PolicyGradientAgent

# A single bad batch does no harm: its update is skipped, and the next batch is different. After ten in a row,
# with policy and critic unchanged, the rollouts or the networks cannot be expected to recover.
MOST_REJECTIONS = 10


def count_rejections(
    agent: "PolicyGradientAgent",
    step: PolicyStep,
    fit: CriticFit,
    batch: Batch,
    objective: SurrogateObjective,
) -> None:
    """Add an entry to `agent.rejections` if the update produced NaN or infinity; otherwise empty the list.

    Raises:
        NonFiniteError: `MOST_REJECTIONS` consecutive updates did; the message has a diagnosis.
    """
    reasons = [str(step.rejection)] if step.rejection is not None and step.rejection.non_finite else []
    reasons += ["non_finite_critic"] * fit.rejected
    if not reasons:
        agent.rejections = []
        return
    agent.rejections.append(f"update {agent._n_updates}, step {agent.num_timesteps} ({', '.join(reasons)})")
    if len(agent.rejections) >= MOST_REJECTIONS:
        rejections, agent.rejections = agent.rejections, []  # a user who continues starts counting anew
        gradient = objective.parameters.unflatten(objective.gradient())
        named = dict(zip(objective.parameters.names, gradient, strict=True))
        raise diagnosis(rejections, step.rejection, batch, named)


def diagnosis(
    rejections: list[str], last: Rejection | None, batch: Batch, gradients: dict[str, Tensor]
) -> NonFiniteError:
    """Return the error that ends a run after too many consecutive rejections.

    Args:
        rejections: what was rejected and when, one entry per update.
        last: why the last policy step was rejected; None if only the critic's fit was.
        batch: the last update's batch.
        gradients: {name of a parameter: gradient of the last update's objective}.
    """
    parts = {name: part for name, part in vars(batch).items() if part is not None}
    if isinstance(batch.observations, Sequences):
        parts = parts | {"observations": batch.observations.observations}
    tensors = {
        name: value
        for name, part in parts.items()
        for name, value in (
            {f"{name}[{key}]": value for key, value in part.items()}
            if isinstance(part, dict)
            else {name: part}
        ).items()
    } | {f"gradient of {name}": value for name, value in gradients.items()}
    return NonFiniteError(
        f"training diverged: {len(rejections)} consecutive updates produced NaN or infinity and were "
        f"skipped: the first at {rejections[0]}, the last at {rejections[-1]}. In the last: "
        f"{'; '.join(describe(tensors))}. Parameters, optimizers and averages hold the last finite numbers. "
        "Check for rewards or observations that are too large (VecNormalize, or normalize_observations and "
        "normalize_returns in policy_kwargs, scale them), then for a learning rate or target_kl that is too "
        "high." + (f" About {last}: {last.advice}." if last is not None else "")
    )


def describe(tensors: dict[str, Any]) -> list[str]:
    """Return a phrase per tensor that is not finite, or a summary of all tensors if all are finite."""
    phrases, bad = [], []
    for name, tensor in tensors.items():
        finite = torch.isfinite(tensor)
        largest = float(tensor[finite].abs().amax()) if bool(finite.any()) else 0.0
        phrases.append(f"{name} up to {largest:.3g}")
        if not bool(finite.all()):
            bad.append(f"{name} with {int((~finite).sum())} of {tensor.numel()} NaN or infinite")
    return bad or [f"all finite, with {', '.join(phrases)}"]
