"""The actor view of an SB3 policy."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from agents.policy.actor import LARGE, PolicyActor, sample_observations
from agents.policy.distributions import to_npg
from npg import ExactFisher, FlatParameters, SurrogateObjective

OBSERVATIONS = spaces.Box(-1, 1, (3,), np.float32)
ACTIONS = {
    "box": spaces.Box(-1, 1, (2,), np.float32),
    "discrete": spaces.Discrete(4),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "multi_binary": spaces.MultiBinary(3),
}


def make_policy(actions: gym.Space, **kwargs: object) -> ActorCriticPolicy:
    """Return an SB3 policy with weights that make every output matter."""
    torch.manual_seed(0)
    return ActorCriticPolicy(OBSERVATIONS, actions, lambda _: 1e-3, ortho_init=False, **kwargs)


@pytest.mark.parametrize("name", ACTIONS)
def test_actor_gives_the_policys_probabilities(name: str) -> None:
    """log_prob and entropy of the npg distribution equal those of SB3's."""
    policy = make_policy(ACTIONS[name])
    observations = torch.randn(20, 3)
    actions, _, log_prob = policy(observations)
    distribution = PolicyActor(policy)(observations)
    assert torch.allclose(distribution.log_prob(actions), log_prob, atol=1e-6)
    entropy = policy.get_distribution(observations).entropy()
    assert torch.allclose(distribution.entropy(), entropy, atol=1e-6)


def test_actor_value_is_not_changed_by_the_next_call() -> None:
    """SB3 reuses one distribution object; the npg value of an earlier call stays what it was."""
    actor = PolicyActor(make_policy(ACTIONS["box"]))
    first = actor(torch.zeros(1, 3))
    mean = first.mean.clone()
    actor(torch.ones(1, 3))
    assert torch.equal(first.mean, mean)


def test_parameters_are_those_of_the_actor() -> None:
    """Of SB3's policy: the policy network, the action net and log_std; and the rest is the critic's."""
    policy = make_policy(ACTIONS["box"])
    actor = PolicyActor(policy)
    names = {name.removeprefix("policy.") for name in FlatParameters(actor).names}
    assert names == {n for n, _ in policy.named_parameters() if "value" not in n}
    critic = {id(p) for p in actor.critic_parameters()}
    assert critic == {id(p) for n, p in policy.named_parameters() if "value" in n}
    assert actor.unreached_names() == []


class Misnamed(ActorCriticPolicy):
    """A policy whose names say the opposite of what they do."""

    def _build(self, lr_schedule: object) -> None:
        super()._build(lr_schedule)
        self.my_value_head = self.action_net
        self.pi = self.value_net
        self.action_net = nn.Sequential(self.my_value_head)
        self.value_net = nn.Sequential(self.pi)
        self.idle = nn.Linear(2, 2)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1))


def test_names_mean_nothing() -> None:
    """A layer called value that reaches the distribution is the actor's; unused ones belong to neither."""
    policy = Misnamed(OBSERVATIONS, ACTIONS["discrete"], lambda _: 1e-3)
    actor = PolicyActor(policy)
    own = {id(p) for p in FlatParameters(actor).tensors}
    critic = {id(p) for p in actor.critic_parameters()}
    assert {id(p) for p in policy.my_value_head.parameters()} <= own
    assert {id(p) for p in policy.pi.parameters()} <= critic
    assert actor.unreached_names() == ["idle.weight", "idle.bias"]


class Extractor(BaseFeaturesExtractor):
    """A feature extractor with parameters."""

    def __init__(self, observation_space: gym.Space):
        super().__init__(observation_space, 4)
        self.layer = nn.Linear(3, 4)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the features."""
        return self.layer(observations)


def test_shared_features_belong_to_the_actor() -> None:
    """What policy and value both read is moved by the policy step alone."""
    policy = make_policy(ACTIONS["discrete"], features_extractor_class=Extractor)
    actor = PolicyActor(policy)
    shared = {id(p) for p in policy.features_extractor.parameters()}
    assert shared <= {id(p) for p in FlatParameters(actor).tensors}
    assert not shared & {id(p) for p in actor.critic_parameters()}


def test_frozen_parameters_stay_out() -> None:
    """A parameter with requires_grad=False is neither the actor's nor reported as unreached."""
    policy = make_policy(ACTIONS["box"])
    policy.log_std.requires_grad_(False)
    actor = PolicyActor(policy)
    assert "policy.log_std" not in FlatParameters(actor).names
    assert actor.unreached_names() == []


@pytest.mark.parametrize("squash", [False, True])
def test_gsde_gives_the_policys_ratios(squash: bool) -> None:
    """Log-probabilities before the tanh differ from SB3's, but their ratios are the same."""
    policy = make_policy(ACTIONS["box"], use_sde=True, squash_output=squash, log_std_init=-1.0)
    actor = PolicyActor(policy)
    observations = torch.randn(20, 3)
    policy.reset_noise(20)
    actions, _, old = policy(observations)
    inner, inner_old = actor.unsquash(actions, old)
    assert torch.allclose(actor(observations).log_prob(inner), inner_old, atol=1e-4)
    with torch.no_grad():
        policy.action_net.bias.add_(0.1)
    ratio = actor(observations).log_prob(inner) - inner_old
    expected = policy.get_distribution(observations).log_prob(actions) - old
    assert torch.allclose(ratio, expected, atol=1e-4)


def test_gsde_fisher_sees_what_the_line_search_sees() -> None:
    """The exact KL of a small step along a feature weight is ½ dᵀFd, the variance's path included."""
    policy = make_policy(ACTIONS["box"], use_sde=True)
    actor = PolicyActor(policy)
    observations = torch.randn(200, 3)
    fisher = ExactFisher(actor, observations)
    objective = SurrogateObjective(actor, observations, torch.zeros(200, 2), torch.ones(200))
    feature_weight = objective.parameters.names.index("policy.mlp_extractor.policy_net.0.weight")
    parts = [torch.zeros_like(p) for p in objective.parameters.tensors]
    parts[feature_weight].normal_(std=0.01)
    step = objective.parameters.flatten(parts)
    assert objective.evaluate(step).kl == pytest.approx(float(step @ (fisher @ step)) / 2, rel=0.05)


def test_unknown_distribution_is_named() -> None:
    """A distribution without an npg counterpart is rejected, and the error says what is known."""
    with pytest.raises(TypeError, match=r"SquashedDiagGaussianDistribution.*expected .*categorical"):
        to_npg(SquashedDiagGaussianDistribution(2).proba_distribution(torch.zeros(1, 2), torch.zeros(2)))


def test_non_finite_candidates_reach_the_steps_own_checks() -> None:
    """Validation in torch validation would raise on a NaN mean, before the step can refuse it by name."""
    policy = make_policy(ACTIONS["box"])
    actor = PolicyActor(policy)
    with torch.no_grad():
        policy.action_net.bias.fill_(float("nan"))
    assert actor(torch.zeros(1, 3)).mean.isnan().all()
    with pytest.raises(ValueError, match="constraint"):
        policy.get_distribution(torch.zeros(1, 3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_example_observations_are_small_if_their_space_allows(dtype: type) -> None:
    """Networks overflow at bounds as wide as the range of floats; others are obeyed."""
    largest = np.finfo(dtype).max if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    wide = sample_observations(spaces.Box(-largest, largest, (100,), dtype), 20)
    assert wide.dtype == dtype and 5 < np.abs(wide).max() <= LARGE
    above = sample_observations(spaces.Box(1000, largest, (3,), dtype), 5)
    assert (above == 1000).all()
