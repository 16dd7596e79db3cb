"""Everything in `npg` on a GPU gives what it gives on the CPU, and stays there."""

import copy
from collections.abc import Callable
from typing import Any

import oracles
import pytest
import torch
from oracles import FAMILIES
from torch import Tensor, nn

from npg import (
    BlockDiagonalFisher,
    Damped,
    DiagonalFisher,
    EigenvalueCorrectedFisher,
    EmpiricalFisher,
    ExactFisher,
    FiniteDifferenceFisher,
    KLHessian,
    KroneckerFisher,
    KroneckerStepper,
    LikelihoodHessian,
    SampledFisher,
    ShrunkFisher,
    SurrogateObjective,
    conjugate_gradient,
    spectrum,
    trust_region_step,
)

# The CPU against itself shows that the tests themselves hold.
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
N = 64

OF_OBSERVATIONS: dict[str, Callable[..., Any]] = {
    kind.__name__: kind
    for kind in (
        ExactFisher,
        KLHessian,
        FiniteDifferenceFisher,
        DiagonalFisher,
        BlockDiagonalFisher,
        KroneckerFisher,
        EigenvalueCorrectedFisher,
        ShrunkFisher,
    )
}
OF_ACTIONS: dict[str, Callable[..., Any]] = {
    kind.__name__: kind for kind in (EmpiricalFisher, LikelihoodHessian)
}


def problem(device: str, family: str = "gaussian") -> tuple[nn.Module, Tensor, Tensor]:
    """Return an actor, observations and actions, the same numbers on every device."""
    actor = oracles.RandomActor(family)
    observations = oracles.observations(0, N)
    actions = oracles.actions_of(actor, observations)
    return copy.deepcopy(actor).to(device), observations.to(device), actions.to(device)


def close(ours: Tensor, reference: Tensor, device: str, tolerance: float = 1e-9) -> None:
    """Assert that a result on a device is the CPU's."""
    assert ours.device.type == device
    scale = float(reference.abs().max())
    torch.testing.assert_close(ours.cpu(), reference, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [*OF_OBSERVATIONS, *OF_ACTIONS])
def test_every_operator_is_the_same_matrix(name: str, family: str, device: str) -> None:
    """Products with one vector agree."""
    products = []
    for where in ("cpu", device):
        actor, observations, actions = problem(where, family)
        if name in OF_ACTIONS:
            fisher = OF_ACTIONS[name](actor, observations, actions)
        else:
            fisher = OF_OBSERVATIONS[name](actor, observations)
        products.append(fisher @ oracles.randn(1, fisher.size).to(where))
    close(products[1], products[0], device, 1e-6 if name == "FiniteDifferenceFisher" else 1e-9)


@pytest.mark.parametrize("device", DEVICES)
def test_micro_batches_and_samples_stay_on_the_device(device: str) -> None:
    """Micro-batches give the whole batch's product; a generator of the device's own draws the samples."""
    actor, observations, _ = problem(device)
    vector = oracles.randn(1, ExactFisher(actor, observations).size).to(device)
    whole = ExactFisher(actor, observations) @ vector
    close(ExactFisher(actor, observations, micro_batch_size=10) @ vector, whole.cpu(), device)
    generator = torch.Generator(device).manual_seed(0)
    sampled = SampledFisher(actor, observations, samples=2000, generator=generator) @ vector
    assert sampled.device.type == device
    assert float(torch.cosine_similarity(sampled, whole, dim=0)) > 0.95


@pytest.mark.parametrize("device", DEVICES)
def test_the_trust_region_step_is_the_same(device: str) -> None:
    """Gradient, direction, line search and what they report."""
    steps = []
    for where in ("cpu", device):
        actor, observations, actions = problem(where)
        objective = SurrogateObjective(actor, observations, actions, oracles.randn(2, N).to(where))
        steps.append(trust_region_step(objective, ExactFisher(actor, observations)))
    assert steps[0].accepted and steps[1].accepted
    close(steps[1].displacement, steps[0].displacement, device, 1e-7)
    assert steps[1].scalars() == pytest.approx(steps[0].scalars(), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["DiagonalFisher", "KroneckerFisher", "EigenvalueCorrectedFisher"])
def test_inverses_and_preconditioned_systems_are_the_same(name: str, device: str) -> None:
    """A closed inverse, and conjugate gradient with it as a preconditioner."""
    solutions = []
    for where in ("cpu", device):
        actor, observations, _ = problem(where)
        inverse = OF_OBSERVATIONS[name](actor, observations).inverse(0.1)
        fisher = Damped(ExactFisher(actor, observations), 0.1)
        b = oracles.randn(3, fisher.size).to(where)
        solution = conjugate_gradient(fisher, b, max_iterations=8, preconditioner=inverse)
        assert solution.iterations == 8
        solutions.append(torch.stack([inverse @ b, solution.x]))
    close(solutions[1], solutions[0], device, 1e-7)


@pytest.mark.parametrize("device", DEVICES)
def test_kronecker_steps_and_spectra_are_the_same(device: str) -> None:
    """Two steps with momentum, and the eigenvalues of F."""
    results = []
    for where in ("cpu", device):
        actor, observations, _ = problem(where)
        stepper = KroneckerStepper(KroneckerFisher(actor), damping=0.1)
        for seed in (4, 5):
            stepper.observe(observations)
            gradient = oracles.randn(seed, stepper.fisher.parameters.space[0]).to(where)
            step = stepper.displacement(gradient, step_size=0.1, target_kl=0.01)
            stepper.keep(step)
        results.append((step, spectrum(ExactFisher(actor, observations)).largest))
    close(results[1][0], results[0][0], device, 1e-7)
    assert results[1][1] == pytest.approx(results[0][1], rel=1e-6)
