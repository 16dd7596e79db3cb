"""Levenberg-Marquardt damping: its closed forms, its bounds, and steps that leave λ unchanged."""

import math
from dataclasses import replace

import pytest
import torch
from oracles import Dense, RandomActor, generator, observations, randn
from torch import Tensor

from npg import (
    LevenbergMarquardt,
    PolicyStep,
    Rejection,
    Solution,
    Status,
    SurrogateObjective,
    natural_step,
    trust_region_step,
)

RULE = LevenbergMarquardt(factor=2.0, minimum=1e-3, maximum=10.0)
SOLUTION = Solution(torch.ones(2), 1, 0.0, Status.CONVERGED)


def step(ratio: float = 1.0, damping: float = 0.1, **changes: object) -> PolicyStep:
    """Return an accepted step whose gain is a multiple of the predicted one."""
    taken = PolicyStep(
        torch.ones(2), None, 0.0, gain=4 * ratio, predicted_gain=4.0, damping=damping, solution=SOLUTION
    )
    return replace(taken, **changes)


class Toy:
    """max gᵀd + ½ κ dᵀd: at κ = 0 the linear prediction is exact, a large κ < 0 makes it badly wrong."""

    def __init__(self, curvature: float):
        self.curvature = curvature
        self.g = torch.tensor([1.0, -2.0], dtype=torch.float64)
        self.fisher = Dense(torch.diag(torch.tensor([1.0, 1e-3], dtype=torch.float64)))

    def gradient(self) -> Tensor:
        """Return g (2,)."""
        return self.g

    def measure(self, d: Tensor) -> dict[str, Tensor]:
        """Return the exact gain of a displacement (2,), and the quadratic KL."""
        gain = self.g @ d + 0.5 * self.curvature * d @ d
        return {
            "surrogate": gain,
            "gain": gain,
            "kl": 0.5 * d @ (self.fisher @ d),
            "surrogate_before": torch.zeros(()),
            "predicted_gain": self.g @ d,
            "cosine": self.g @ d / (self.g.norm() * d.norm()),
            "step_norm": d.norm(),
        }

    def ascend(self, steps: int, damping: float = 0.1) -> tuple[list[float], list[PolicyStep]]:
        """Return the λ and the account of every step, all from the same point."""
        dampings, taken = [damping], []
        for _ in range(steps):
            taken.append(natural_step(self, self.fisher, target_kl=0.01, damping=dampings[-1]))
            dampings.append(RULE.adapted(dampings[-1], taken[-1]))
        return dampings, taken


def test_damping_falls_to_its_minimum_where_the_prediction_is_exact() -> None:
    """On a linear objective ρ = 1: λ halves every step, to the minimum, and stays there."""
    dampings, taken = Toy(0.0).ascend(10)
    assert all(one.gain == pytest.approx(one.predicted_gain) for one in taken)
    assert dampings[:7] == pytest.approx([0.1 / 2**k for k in range(7)])
    assert dampings[7:] == [RULE.minimum] * 4


def test_damping_rises_until_the_prediction_holds() -> None:
    """A concave objective makes long moves in flat directions of F fail; damping corrects ρ, and λ stays."""
    dampings, taken = Toy(-5.0).ascend(12, damping=0.01)
    ratios = [one.gain / one.predicted_gain for one in taken]
    assert ratios[0] < RULE.low and dampings[1] == 0.02
    assert dampings == sorted(dampings) and ratios == sorted(ratios)
    assert RULE.low <= ratios[-1] <= RULE.high
    assert dampings[-1] == dampings[-2] < RULE.maximum


def test_damping_rises_to_its_maximum_where_nothing_mends_the_prediction() -> None:
    """With a fall along every direction λ doubles every step, up to the maximum."""
    dampings, _ = Toy(-1e6).ascend(8)
    assert dampings == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])


def test_a_quadratic_surrogate_with_fishers_curvature_leaves_it() -> None:
    """The undamped step d = F⁻¹g on gᵀd − ½dᵀFd gains half of gᵀd: ρ = ½, between the thresholds."""
    F, d = torch.diag(torch.tensor([2.0, 0.5])), torch.tensor([0.5, 4.0])
    g = F @ d
    predicted = float(g @ d)
    one = step(gain=predicted - float(0.5 * d @ F @ d), predicted_gain=predicted)
    assert one.gain / one.predicted_gain == 0.5
    assert RULE.adapted(0.1, one) == 0.1


@pytest.mark.parametrize(
    ("ratio", "multiple"),
    [
        (-1.0, 2.0),
        (0.0, 2.0),
        (math.nextafter(0.25, 0), 2.0),
        (0.25, 1.0),
        (0.5, 1.0),
        (0.75, 1.0),
        (math.nextafter(0.75, 1), 0.5),
        (1.0, 0.5),
        (30.0, 0.5),
        (math.inf, 0.5),
        (-math.inf, 2.0),
        (math.nan, 2.0),
    ],
)
def test_every_ratio_has_its_side(ratio: float, multiple: float) -> None:
    """Below ¼ λ rises, above ¾ it falls, between and on the boundaries it stays; NaN is no agreement."""
    assert RULE.adapted(0.1, step(ratio)) == 0.1 * multiple


@pytest.mark.parametrize("predicted_gain", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("gain", [-1.0, 0.0, 1.0])
def test_a_prediction_of_no_gain_raises_it(gain: float, predicted_gain: float) -> None:
    """Two negative numbers have a positive ratio; it confirms nothing."""
    assert RULE.adapted(0.1, step(gain=gain, predicted_gain=predicted_gain)) == 0.2


@pytest.mark.parametrize(("ratio", "multiple"), [(0.1, 2.0), (0.5, 1.0), (1.0, 1.0)])
def test_a_shortened_step_never_lowers_it(ratio: float, multiple: float) -> None:
    """Shortening makes any prediction look good, and happened because the full step did not."""
    assert RULE.adapted(0.1, step(ratio, backtracks=1)) == 0.1 * multiple


@pytest.mark.parametrize("reason", Rejection)
def test_a_rejected_step_raises_it_if_a_system_was_solved(reason: Rejection) -> None:
    """What F led to was rejected: λ rises. Where the gradient ruled a step out, λ had no part in it."""
    rejected = step(rejection=reason, gain=0.0, predicted_gain=0.0)
    assert RULE.adapted(0.1, rejected) == 0.2
    assert RULE.adapted(0.1, replace(rejected, solution=None, damping=0.0)) == 0.1


@pytest.mark.parametrize("bad", [0.0, math.nan])
def test_a_gradient_without_direction_says_nothing(bad: float) -> None:
    """Zero or NaN advantages leave λ as it was, whichever rule made the step."""
    actor, states = RandomActor("gaussian"), observations(0)
    actions = actor(states).sample(generator(0))
    objective = SurrogateObjective(actor, states, actions, bad * randn(1, 5))
    for rule in (natural_step, trust_region_step):
        one = rule(objective, Dense(torch.eye(objective.parameters.size).double()), damping=0.3)
        assert not one.accepted
        assert RULE.adapted(0.3, one) == 0.3


def test_the_damping_that_was_used_is_the_one_that_adapts() -> None:
    """A second attempt solved with 1.0 in place of 0.1: its good ratio halves 1.0, its bad one doubles it."""
    assert [RULE.adapted(0.1, step(ratio, damping=1.0)) for ratio in (1.0, 0.5, 0.0)] == [0.5, 1.0, 2.0]
    toy = Toy(0.0)
    toy.fisher = Dense(torch.diag(torch.tensor([1.0, -0.2], dtype=torch.float64)))
    toy.g = torch.tensor([1.0, 0.1], dtype=torch.float64)
    one = natural_step(toy, toy.fisher, damping=0.1)
    assert one.accepted and one.damping == 1.0
    assert RULE.adapted(0.1, one) == 0.5


def test_zero_is_a_place_to_begin() -> None:
    """From λ = 0, which no factor could change, the next λ is the minimum for every step."""
    for one in (step(1.0, 0.0), step(0.0, 0.0), step(0.0, 0.0, rejection=Rejection.KL_ABOVE_TARGET)):
        assert RULE.adapted(0.0, one) == RULE.minimum


def test_always_finite_and_within_the_bounds() -> None:
    """Any λ and any account of a step give a number between minimum and maximum."""
    numbers = (-math.inf, -1.0, 0.0, 1e-308, 0.5, 1.0, 1e308, math.inf, math.nan)
    for damping in (0.0, 5e-324, 1e-3, 0.1, 10.0, 1e308):
        for gain in numbers:
            for predicted in numbers:
                for changes in ({}, {"rejection": Rejection.NO_IMPROVEMENT}, {"solution": None}):
                    one = step(gain=gain, predicted_gain=predicted, damping=damping, **changes)
                    assert RULE.minimum <= RULE.adapted(damping, one) <= RULE.maximum


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
def test_a_wrong_damping_is_named(bad: float) -> None:
    """λ is a finite number, at least 0."""
    with pytest.raises(ValueError, match="damping must be a finite number ≥ 0"):
        RULE.adapted(bad, step())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 1.0}, "factor must be a finite number above 1, got 1.0"),
        ({"factor": math.nan}, "factor must be"),
        ({"low": 0.8}, "expected low ≤ high, got 0.8 and 0.75"),
        ({"minimum": 0.0}, "expected 0 < minimum ≤ maximum"),
        ({"maximum": math.inf}, "expected 0 < minimum ≤ maximum"),
        ({"minimum": 2.0, "maximum": 1.0}, "got 2.0 and 1.0"),
    ],
)
def test_a_wrong_rule_is_named(options: dict[str, float], message: str) -> None:
    """The error says what was expected and what came, before any step."""
    with pytest.raises(ValueError, match=message):
        LevenbergMarquardt(**options)
