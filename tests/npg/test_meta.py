"""Operators, solvers and steps stay on their device and read it through `npg.host` alone."""

from collections.abc import Callable
from functools import partial
from typing import Any

import oracles
import pytest
import torch
from device_guard import DeviceGuard, HostReadError, MixedDevicesError, device_only
from torch import Tensor, nn

from npg import (
    BlockDiagonalFisher,
    Damped,
    DiagonalFisher,
    EigenvalueCorrectedFisher,
    EmpiricalFisher,
    ExactFisher,
    FiniteDifferenceFisher,
    InvertibleOperator,
    KLHessian,
    KroneckerFisher,
    KroneckerStepper,
    LikelihoodHessian,
    LinearOperator,
    SampledFisher,
    Scaled,
    ShrunkFisher,
    Sum,
    SurrogateObjective,
    conjugate_gradient,
    host,
    natural_direction,
    natural_step,
    trust_region_step,
)

N = 16
DTYPES = (torch.float32, torch.float64)
OPERATORS: dict[str, Callable[[nn.Module, Any, Tensor], LinearOperator]] = {
    "exact": lambda actor, states, actions: ExactFisher(actor, states),
    "exact, micro-batches": lambda actor, states, actions: ExactFisher(actor, states, micro_batch_size=5),
    "finite difference": lambda actor, states, actions: FiniteDifferenceFisher(actor, states),
    "empirical": EmpiricalFisher,
    "sampled": lambda actor, states, actions: SampledFisher(actor, states, samples=2),
    "KL Hessian": lambda actor, states, actions: KLHessian(actor, states),
    "KL Hessian, micro-batches": lambda actor, states, actions: KLHessian(actor, states, micro_batch_size=5),
    "likelihood Hessian": LikelihoodHessian,
    "diagonal": lambda actor, states, actions: DiagonalFisher(actor, states),
    "block diagonal": lambda actor, states, actions: BlockDiagonalFisher(actor, states),
    "K-FAC": lambda actor, states, actions: KroneckerFisher(actor, states),
    "K-FAC, sampled": lambda actor, states, actions: KroneckerFisher(actor, states, samples=1),
    "EKFAC": lambda actor, states, actions: EigenvalueCorrectedFisher(actor, states),
    "shrunk": lambda actor, states, actions: ShrunkFisher(actor, states, states=4),
}
families = pytest.mark.parametrize("family", ["gaussian", "gaussian_of_state", "categorical"])
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def problem(family: str, dtype: torch.dtype) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """Return an actor, N observations, actions and advantages on the meta device."""
    actor = oracles.RandomActor(family)
    observations = oracles.observations(0, N)
    actions = oracles.actions_of(actor, observations)
    actions = actions.to(dtype) if actions.is_floating_point() else actions
    return (
        actor.to("meta", dtype),
        observations.to("meta", dtype),
        actions.to("meta"),
        torch.ones(N, dtype=dtype, device="meta"),
    )


@pytest.mark.covering(2)
@pytest.mark.parametrize("name", OPERATORS)
@families
@dtypes
def test_operators(monkeypatch: pytest.MonkeyPatch, name: str, family: str, dtype: torch.dtype) -> None:
    """Construction, products, and inverses if there are."""
    actor, observations, actions, _ = problem(family, dtype)
    with device_only(monkeypatch) as reads:
        operator = OPERATORS[name](actor, observations, actions)
        vector = torch.ones(operator.size, dtype=dtype, device="meta")
        built = len(reads)
        product = Sum(Damped(operator, 0.1), Scaled(0.5, operator)) @ vector
        assert len(reads) == built, "a product reads nothing"
        if isinstance(operator, InvertibleOperator):
            operator.damped(0.1) @ vector
            operator.solve(vector, 0.1)
            assert len(reads) == built + 1
    assert (product.device.type, product.dtype, product.shape) == ("meta", dtype, vector.shape)


@pytest.mark.covering(2)
@families
@dtypes
@pytest.mark.parametrize("preconditioned", [False, True])
def test_solves(
    monkeypatch: pytest.MonkeyPatch, family: str, dtype: torch.dtype, preconditioned: bool
) -> None:
    """Conjugate gradient reads once, with a warm start and a preconditioner too."""
    actor, observations, *_ = problem(family, dtype)
    with device_only(monkeypatch) as reads:
        fisher = ExactFisher(actor, observations)
        b = torch.ones(fisher.size, dtype=dtype, device="meta")
        preconditioner = KroneckerFisher(actor, observations).inverse(0.1) if preconditioned else None
        reads.clear()
        solution = conjugate_gradient(
            Damped(fisher, 0.1), b, preconditioner=preconditioner, x0=b if preconditioned else None
        )
        assert len(reads) == 1
        natural_direction(fisher, b)
    assert solution.x.device.type == "meta"


@pytest.mark.covering(1)
@families
@dtypes
def test_steps(monkeypatch: pytest.MonkeyPatch, family: str, dtype: torch.dtype) -> None:
    """An accepted step costs one read for its solve and one for its candidate; writing it costs none."""
    actor, observations, actions, advantages = problem(family, dtype)
    old_log_prob = torch.zeros(N, dtype=dtype, device="meta")
    for take in (natural_step, partial(natural_step, step_size=0.1), trust_region_step):
        with device_only(monkeypatch) as reads:
            objective = SurrogateObjective(
                actor, observations, actions, advantages, old_log_prob=old_log_prob
            )
            step = take(objective, ExactFisher(actor, observations))
            assert step.accepted and len(reads) == 2
            objective.parameters.add_(step.displacement, known_finite=True)
            assert len(reads) == 2
            objective.parameters.add_(step.displacement)


@pytest.mark.covering(1)
@families
@dtypes
def test_kronecker_steps(monkeypatch: pytest.MonkeyPatch, family: str, dtype: torch.dtype) -> None:
    """A refresh of factors and inverses reads once, an update without one not at all."""
    actor, observations, *_ = problem(family, dtype)
    with device_only(monkeypatch) as reads:
        stepper = KroneckerStepper(
            KroneckerFisher(actor, samples=1), damping=0.1, factor_interval=2, inverse_interval=2
        )
        gradient = torch.ones(stepper.fisher.size, dtype=dtype, device="meta")
        for expected in (1, 1, 2):
            stepper.observe(observations)
            stepper.keep(stepper.displacement(gradient, step_size=0.5, target_kl=0.01))
            assert len(reads) == expected


def test_the_guard_sees_what_a_gpu_would_not_forgive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads and mixtures that torch's meta device lets pass."""
    on_device, on_cpu = torch.ones(3, 3, device="meta"), torch.ones(3, 3)
    mixtures: list[Callable[[], Any]] = [
        lambda: on_device @ on_cpu,
        lambda: torch.empty(3, 3, device="meta").copy_(on_cpu),
        lambda: on_device[torch.arange(2)],
        lambda: torch.where(on_device > 0, on_cpu, on_device),
    ]
    reads: list[Callable[[], Any]] = [
        lambda: on_device.sum().item(),
        lambda: float(on_device.sum()),
        lambda: bool(on_device.any()),
        lambda: int(on_device.sum()),
        lambda: on_device.cpu(),
        lambda: on_device.tolist(),
        lambda: torch.equal(on_device, on_device),
    ]
    with DeviceGuard():
        for mixture in mixtures:
            with pytest.raises(MixedDevicesError):
                mixture()
        for read in reads:
            with pytest.raises((HostReadError, NotImplementedError, RuntimeError)):
                read()
        on_device * torch.tensor(2.0)  # a scalar of the CPU is allowed
    with device_only(monkeypatch) as names:
        assert host.read(kl=on_device.sum(), other=on_device.sum()) == {"kl": 1e-3, "other": 1.0}
        assert names == [("kl", "other")]
