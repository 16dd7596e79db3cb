"""Derivatives that need an actor to be differentiated twice, or that finite differences approximate."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from npg.distributions import Coordinates, Distribution
from npg.fisher.chain import ChainJacobian, jacobian_of
from npg.fisher.jacobian import DifferenceJacobian, Jacobian, NotTwiceDifferentiableError
from npg.kernels import differentiable_kernels
from npg.policy import evaluate

AnyJacobian = Jacobian | ChainJacobian | DifferenceJacobian
T = TypeVar("T")

EXACT = (nullcontext, differentiable_kernels)  # tried in this order
# {actor: {kind of derivatives: index into EXACT, or its length for finite differences}}
_WAYS: WeakKeyDictionary[nn.Module, dict[str, int]] = WeakKeyDictionary()


def linearise(
    actor: nn.Module,
    kind: str,
    evaluated: Callable[[], Distribution],
    exact: Callable[[Distribution], T],
    by_differences: Callable[[Distribution], T],
    multiply: Callable[[T], object],
    *,
    policy: Distribution | None = None,
) -> T:
    """Return derivatives of an actor: exact ones if torch can compute them, else approximate ones.

    The first call for an actor finds out, and warns of finite differences; later calls do the same. Fused
    attention and cuDNN's recurrent layers are replaced by kernels with a second derivative.

    Args:
        actor: the actor.
        kind: the kind of derivatives, since one kind may be possible, and another one not.
        evaluated: returns the policy with its graph.
        exact: makes the derivatives from the policy.
        by_differences: makes their approximation from the policy.
        multiply: multiplies derivatives by some vector. Many functions that torch can differentiate only once
            raise RuntimeError only then.
        policy: the policy with its graph, if it has been evaluated by torch's usual kernels.

    Raises:
        TypeError: the actor cannot be differentiated at all.
    """
    ways = _WAYS.setdefault(actor, {})
    problem = ""
    for way in range(ways.get(kind, 0), len(EXACT)):
        with EXACT[way]():
            present = evaluated() if way or policy is None else policy
            try:
                made = exact(present)
                if kind not in ways:
                    multiply(made)
            except torch.OutOfMemoryError:
                raise
            except (NotTwiceDifferentiableError, RuntimeError) as error:
                problem = problem or first_line(error)
            else:
                ways[kind] = way
                return made
    policy = evaluated() if policy is None else policy
    made = by_differences(policy)
    if ways.get(kind) != len(EXACT):
        try:
            multiply(made)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise TypeError(
                f"{type(actor).__name__} cannot be differentiated: {first_line(error)}"
            ) from error
        ways[kind] = len(EXACT)
        accuracy = torch.finfo(policy.coordinates[0].dtype).eps ** 0.5
        warnings.warn(
            f"{type(actor).__name__} cannot be differentiated twice ({problem}): Fisher products use finite "
            f"differences, with relative errors of about {accuracy:.0e}",
            RuntimeWarning,
            stacklevel=2,
        )
    return made


def first_line(error: Exception) -> str:
    """Return the first line of an error's message; those of torch may have many."""
    return str(error).partition("\n")[0]


def jacobian_at(
    actor: nn.Module,
    observations: Any,
    tensors: Mapping[str, Tensor],
    outputs_of: Callable[[Distribution], Coordinates],
    *,
    theta: Mapping[str, Tensor] | None = None,
    policy: Distribution | None = None,
    exact: bool = True,
) -> tuple[Distribution, AnyJacobian]:
    """Return the policy, and the Jacobian of functions of it with respect to some parameters.

    Args:
        actor: maps observations to an npg distribution.
        observations: input of the actor.
        tensors: {name: parameter to differentiate by}.
        outputs_of: returns the functions' values, tensors (N, ...).
        theta: {name: tensor} in place of the actor's parameters; None for its own.
        policy: see `linearise`.
        exact: whether to use finite differences only if necessary.
    """

    def evaluated() -> Distribution:
        return evaluate(actor, observations, theta)

    def by_differences(policy: Distribution) -> tuple[Distribution, AnyJacobian]:
        base = [tensor.detach().clone() for tensor in tensors.values()]  # the policy may move

        def displaced(steps: Sequence[Tensor]) -> Coordinates:
            moved = dict(zip(tensors, torch._foreach_add(base, list(steps)), strict=True))
            return outputs_of(evaluate(actor, observations, {**(theta or {}), **moved}))

        return policy, DifferenceJacobian(outputs_of(policy), tensors.values(), displaced)

    def multiply(made: tuple[Distribution, AnyJacobian]) -> None:
        pushed = made[1].push_forward([torch.ones_like(tensor) for tensor in tensors.values()])
        made[1].pull_back(pushed)

    if not exact:
        return by_differences(evaluated())
    return linearise(
        actor,
        "jacobian",
        evaluated,
        lambda policy: (policy, jacobian_of(outputs_of(policy), tensors.values())),
        by_differences,
        multiply,
        policy=policy,
    )
