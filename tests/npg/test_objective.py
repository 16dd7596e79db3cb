"""The surrogate and its KL around the live parameters."""

import math
from copy import deepcopy

import oracles
import pytest
import torch
from oracles import FAMILIES, RandomActor
from torch import Tensor

from npg import Categorical, Evaluation, FlatParameters, SurrogateObjective

N = 12
every_family = pytest.mark.parametrize("family", FAMILIES)


def problem(family: str, seed: int = 0, **options: object) -> tuple[RandomActor, SurrogateObjective, tuple]:
    """Return an actor, its objective on sampled actions, and the batch."""
    actor, observations = RandomActor(family, seed), oracles.observations(seed, N)
    actions = actor(observations).sample(oracles.generator(seed))
    batch = observations, actions, oracles.randn(seed + 1, N)
    return actor, SurrogateObjective(actor, *batch, **options), batch


@torch.no_grad()
def by_hand(
    actor: RandomActor, step: Tensor, batch: tuple, old_log_prob: Tensor, bonus: float = 0.0
) -> Evaluation:
    """Evaluate on a copy that really takes the step, with torch.distributions."""
    observations, actions, advantages = batch
    moved = deepcopy(actor)
    FlatParameters(moved).add_(step)
    old, new = actor(observations), moved(observations)
    ratio = (oracles.log_prob(new, actions) - old_log_prob).exp()
    before = (oracles.log_prob(old, actions) - old_log_prob).exp()
    surrogate = (ratio * advantages + bonus * oracles.entropy(new)).mean()
    gain = surrogate - (before * advantages + bonus * oracles.entropy(old)).mean()
    return Evaluation(float(surrogate), float(gain), float(oracles.kl(old, new).mean()))


def same(a: Evaluation, b: Evaluation) -> None:
    """Assert three equal numbers."""
    for name in ("surrogate", "gain", "kl"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-10, abs=1e-12)


@every_family
@pytest.mark.parametrize("length", [1e-3, 0.3])
def test_a_candidate_is_what_a_moved_copy_is(family: str, length: float) -> None:
    """Surrogate, gain and KL(old ‖ new) are those of a deep copy that took the step."""
    actor, objective, batch = problem(family)
    step = length * oracles.randn(5, objective.parameters.size)
    evaluation = objective.evaluate(step)
    same(evaluation, by_hand(actor, step, batch, oracles.log_prob(actor(batch[0]), batch[1]).detach()))
    assert evaluation.kl > 0


@every_family
def test_old_log_probabilities_weigh_the_samples(family: str) -> None:
    """With a behaviour policy given, the ratio is to that policy, the KL still to the live one."""
    behaviour = -1 + 0.3 * oracles.randn(8, N)
    actor, objective, batch = problem(family, old_log_prob=behaviour)
    step = 0.1 * oracles.randn(5, objective.parameters.size)
    same(objective.evaluate(step), by_hand(actor, step, batch, behaviour))
    nothing = objective.evaluate(torch.zeros_like(step))
    same(nothing, by_hand(actor, 0 * step, batch, behaviour))
    assert (nothing.gain, nothing.kl) == (0, 0)


@every_family
def test_an_entropy_bonus_is_part_of_every_candidate(family: str) -> None:
    """Of surrogate and gain, but not of the KL; at no step, it is part of the surrogate alone."""
    actor, objective, batch = problem(family, entropy_coefficient=0.7)
    step = 0.3 * oracles.randn(5, objective.parameters.size)
    log_prob = oracles.log_prob(actor(batch[0]), batch[1]).detach()
    same(objective.evaluate(step), by_hand(actor, step, batch, log_prob, 0.7))
    nothing = objective.evaluate(0 * step)
    same(nothing, by_hand(actor, 0 * step, batch, log_prob, 0.7))
    assert (nothing.gain, nothing.kl) == (0, 0)
    assert nothing.surrogate_before == nothing.surrogate == float(objective.surrogate_before())


def test_without_a_bonus_no_entropy_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution of one's own need not have one."""
    monkeypatch.setattr(Categorical, "entropy", None)
    _, objective, _ = problem("categorical")
    assert objective.evaluate(0.1 * objective.gradient()).gain > 0


def test_the_gradient_of_the_entropy_alone() -> None:
    """With advantages 0 it is −c p (log p + H) / N per logit, whatever the actions and the ratio."""
    logits = oracles.randn(0, N, 3)
    objective = SurrogateObjective(
        oracles.Table(Categorical(logits)),
        None,
        torch.zeros(N),
        torch.zeros(N, dtype=torch.float64),
        old_log_prob=oracles.randn(1, N),
        entropy_coefficient=0.5,
    )
    log_p = logits.log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1, keepdim=True)
    expected = -0.5 * log_p.exp() * (log_p + entropy) / N
    torch.testing.assert_close(objective.gradient(), expected.flatten())


@every_family
@pytest.mark.parametrize(("weighted", "bonus"), [(False, None), (True, None), (True, 0.4)])
def test_the_gradient_is_that_of_the_surrogate(family: str, weighted: bool, bonus: float | None) -> None:
    """The gradient equals central differences of `evaluate`, and autograd through torch.distributions."""
    behaviour = -1 + 0.3 * oracles.randn(8, N) if weighted else None
    options = {"old_log_prob": behaviour, "entropy_coefficient": bonus}
    actor, objective, (observations, actions, advantages) = problem(family, **options)
    gradient, h = objective.gradient(), 1e-5
    assert gradient.shape == (objective.parameters.size,)
    assert not gradient.requires_grad
    differences = torch.tensor(
        [
            (objective.evaluate(h * e).surrogate - objective.evaluate(-h * e).surrogate) / (2 * h)
            for e in torch.eye(objective.parameters.size, dtype=torch.float64)
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(gradient, differences, rtol=1e-6, atol=1e-8)
    theta = oracles.flat_parameters(actor)
    policy = oracles.as_function(actor, observations)
    old = oracles.log_prob(policy(theta), actions) if behaviour is None else behaviour

    def surrogate(vector: Tensor) -> Tensor:
        ratio = (oracles.log_prob(policy(vector), actions) - old).exp()
        return (ratio * advantages + (bonus or 0) * oracles.entropy(policy(vector))).mean()

    torch.testing.assert_close(gradient, torch.func.grad(surrogate)(theta), rtol=1e-10, atol=1e-12)


@every_family
def test_no_step_has_no_gain_and_no_kl(family: str) -> None:
    """At step 0 gain and KL are exactly zero, in float64 and in float32."""
    _, objective, (_, _, advantages) = problem(family)
    nothing = objective.evaluate(torch.zeros(objective.parameters.size, dtype=torch.float64))
    assert (nothing.gain, nothing.kl) == (0, 0)
    assert nothing.surrogate == pytest.approx(float(advantages.mean()))


def test_small_gains_keep_their_relative_accuracy() -> None:
    """In float32, huge advantages where the policy stays do not drown the gain of where it moves."""
    table = oracles.Table(Categorical(torch.zeros(3, 2)))
    advantages = torch.tensor([1.0, 1e6, 3e6])
    objective = SurrogateObjective(table, None, torch.zeros(3), advantages)
    step = torch.tensor([1e-2, 0, 0, 0, 0, 0])
    ratio = 2 / (1 + math.exp(-1e-2))
    assert objective.evaluate(step).gain == pytest.approx((ratio - 1) / 3, rel=1e-4)


@every_family
def test_the_live_policy_is_never_touched(family: str) -> None:
    """Neither gradient nor evaluate changes a parameter, a .grad, a buffer or the random generator."""
    actor, objective, _ = problem(family)
    before = {name: value.clone() for name, value in actor.state_dict().items()}
    objects, state = [id(p) for p in actor.parameters()], torch.get_rng_state()
    objective.gradient()
    for length in (1.0, 1e3, torch.nan, torch.inf):
        objective.evaluate(length * torch.ones(objective.parameters.size, dtype=torch.float64))
    assert all(torch.equal(value, before[name]) for name, value in actor.state_dict().items())
    assert [id(p) for p in actor.parameters()] == objects
    assert all(p.grad is None for p in actor.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "family",
    FAMILIES,
)
def test_old_means_old_after_the_parameters_moved(family: str) -> None:
    """π_old is that of construction, also once the step is taken."""
    actor, objective, batch = problem(family)
    copy, step = deepcopy(actor), 0.2 * oracles.randn(5, objective.parameters.size)
    old = oracles.log_prob(copy(batch[0]), batch[1]).detach()
    FlatParameters(actor).add_(step)
    same(objective.evaluate(torch.zeros_like(step)), by_hand(copy, step, batch, old))


def test_gradient_and_evaluation_survive_no_grad() -> None:
    """A caller's no_grad context does not change the gradient."""
    _, objective, _ = problem("bernoulli")
    expected = objective.gradient()
    with torch.no_grad():
        assert torch.equal(objective.gradient(), expected)


def test_reduce_sees_gradient_and_evaluation() -> None:
    """What is averaged over processes is g and the four means of a candidate, in one call each."""
    _, objective, batch = problem("gaussian")
    sent: list[Tensor] = []
    _, reduced, _ = problem("gaussian", reduce=lambda t, _: sent.append(t) or 2 * t)
    step = 0.1 * oracles.randn(5, objective.parameters.size)
    assert torch.equal(reduced.gradient(), 2 * objective.gradient())
    plain, doubled = objective.evaluate(step), reduced.evaluate(step)
    assert [t.numel() for t in sent] == [objective.parameters.size, 4]
    for name in ("surrogate", "gain", "kl"):
        assert getattr(doubled, name) == 2 * getattr(plain, name)
    actor = RandomActor("gaussian")
    halves = [SurrogateObjective(actor, *half) for half in zip(*(x.chunk(2) for x in batch), strict=True)]
    torch.testing.assert_close(sum(half.gradient() for half in halves) / 2, objective.gradient())
    assert sum(half.evaluate(step).kl for half in halves) / 2 == pytest.approx(plain.kl)


def test_shapes_that_do_not_fit_are_rejected() -> None:
    """Advantages (N, 1) would broadcast to (N, N); they raise instead, and so do other misfits."""
    actor, _, (observations, actions, advantages) = problem("gaussian")
    for wrong in (advantages.unsqueeze(-1), advantages[:1], advantages[:-1], advantages.sum()):
        with pytest.raises(ValueError, match=r"one advantage and one log-probability per state, \(12,\)"):
            SurrogateObjective(actor, observations, actions, wrong)
        with pytest.raises(ValueError, match="old_log_prob"):
            SurrogateObjective(actor, observations, actions, advantages, old_log_prob=wrong)
    with pytest.raises(ValueError, match="actions must have shape"):
        SurrogateObjective(actor, observations, actions[:, :1], advantages)
    with pytest.raises(ValueError, match="at least one state"):
        SurrogateObjective(actor, observations[:0], actions[:0], advantages[:0])
