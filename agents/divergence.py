"""When numbers that are not finite end a run, and what it then says."""

from typing import Any

import torch
from torch import Tensor

from agents.rollout.batch import Batch
from agents.rollout.finite import NonFiniteError

# One bad batch passes by itself: nothing was learned from it, and the next one is another. Ten of them under
# a policy and a critic that did not move say that what they were drawn from, or the network, gives no others.
MOST_REFUSALS = 10


def diagnosis(refusals: list[str], batch: Batch, gradients: dict[str, Tensor]) -> NonFiniteError:
    """Return the error that ends a run after too many refusals in a row.

    Args:
        refusals: what was refused and when, an update each.
        batch: of the last update.
        gradients: of its objective, {name of a parameter: gradient}.
    """
    tensors = {
        name: value
        for name, part in vars(batch).items()
        for name, value in (
            {f"{name}[{key}]": value for key, value in part.items()}
            if isinstance(part, dict)
            else {name: part}
        ).items()
    } | {f"gradient of {name}": value for name, value in gradients.items()}
    return NonFiniteError(
        f"{len(refusals)} updates in a row met numbers that are not finite, and learned nothing: the first "
        f"at {refusals[0]}, the last at {refusals[-1]}. In the last: {'; '.join(described(tensors))}. "
        "Parameters, optimizers and averages hold the last good numbers. Look for rewards or observations "
        "too large (VecNormalize, or normalize_observations and normalize_returns in policy_kwargs, scale "
        "them), then for a learning rate or target_kl too high."
    )


def described(tensors: dict[str, Any]) -> list[str]:
    """Return a phrase for every tensor that is not finite, or for all where each of them is."""
    phrases, bad = [], []
    for name, tensor in tensors.items():
        finite = torch.isfinite(tensor)
        largest = float(tensor[finite].abs().amax()) if bool(finite.any()) else 0.0
        phrases.append(f"{name} up to {largest:.3g}")
        if not bool(finite.all()):
            bad.append(f"{name} with {int((~finite).sum())} of {tensor.numel()} NaN or infinite")
    return bad or [f"all finite, with {', '.join(phrases)}"]
