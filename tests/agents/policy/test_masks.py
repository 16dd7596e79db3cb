"""Masks at a policy: their form, its distributions and actions, and what is rejected."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from masked_env import SPACES, MaskedEnv, sizes_of
from stable_baselines3.common.policies import ActorCriticPolicy

from agents import TRPO, register_distribution
from agents.policy.actor import PolicyActor
from agents.policy.distributions import HEADS
from agents.policy.masks import MaskError, checked_masks, choices
from agents.policy.policies import MlpPolicy
from npg import Bernoulli, Categorical, DiagGaussian, MultiCategorical

N = 6
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())


def make_policy(space: spaces.Space, kind: type[ActorCriticPolicy] = MlpPolicy, **kwargs: Any) -> Any:
    """Return a policy whose last layer is not close to zero."""
    torch.manual_seed(0)
    observations = (
        MaskedEnv(space).observation_space if not isinstance(space, spaces.Box) else spaces.Box(0, 1, (3,))
    )
    policy = kind(observations, space, lambda _: 1e-3, net_arch=[8], **kwargs)
    torch.nn.init.normal_(policy.action_net.weight)
    policy.set_training_mode(False)
    return policy


def masks_of(space: spaces.Space, n: int = N, seed: int = 0) -> np.ndarray:
    """Return random masks, each of which allows something of every choice."""
    generator, parts = np.random.default_rng(seed), []
    for size in sizes_of(space):
        parts.append(generator.random((n, size)) < 0.4)
        parts[-1][np.arange(n), generator.integers(size, size=n)] = True
    return np.concatenate(parts, axis=1)


def allowed(action: np.ndarray, mask: np.ndarray, space: spaces.Space) -> bool:
    """Return whether a mask allows an action."""
    parts = np.split(mask, np.cumsum(sizes_of(space))[:-1])
    return all(part[value] for part, value in zip(parts, np.reshape(action, -1).astype(int), strict=True))


@every_space
def test_the_distribution_is_that_of_the_outputs_on_allowed_actions(space: spaces.Space) -> None:
    """SB3's parametrisation of the last layer, masked."""
    policy, masks = make_policy(space), masks_of(space)
    observations = torch.rand(N, policy.observation_space.shape[0])
    outputs = policy.action_net(policy.mlp_extractor.forward_actor(observations))
    family = {
        spaces.Discrete: Categorical,
        spaces.MultiDiscrete: lambda z: MultiCategorical(z.split(sizes_of(space), -1)),
        spaces.MultiBinary: Bernoulli,
    }[type(space)]
    expected = family(outputs).masked(torch.as_tensor(masks))
    found = PolicyActor(policy)((observations, torch.as_tensor(masks)))
    assert type(found) is type(expected)
    assert all(map(torch.equal, found.coordinates, expected.coordinates))
    # Without masks it is SB3's, up to the normalisation of logits.
    plain = PolicyActor(policy)(observations)
    everything = PolicyActor(policy)((observations, torch.ones_like(torch.as_tensor(masks))))
    assert float(plain.kl(everything).abs().max()) < 1e-6
    actions = expected.sample().float()
    values, log_prob, entropy = policy.evaluate_actions(observations, actions, action_masks=masks)
    assert torch.equal(log_prob, expected.log_prob(actions)) and torch.equal(entropy, expected.entropy())
    assert torch.equal(values, policy.predict_values(observations))


@every_space
def test_predicted_actions_are_allowed(space: spaces.Space) -> None:
    """In the space's dtype, single and batched; the deterministic one is the most likely of the allowed."""
    policy, masks = make_policy(space), masks_of(space)
    observations = np.random.default_rng(1).random((N, policy.observation_space.shape[0]), np.float32)
    for _ in range(20):
        actions, state = policy.predict(observations, action_masks=masks)
        assert state is None and actions.shape == (N, *space.shape)
        assert all(space.contains(a) and allowed(a, m, space) for a, m in zip(actions, masks, strict=True))
    best, _ = policy.predict(observations, deterministic=True, action_masks=masks)
    distribution = policy.get_distribution(torch.as_tensor(observations), action_masks=masks)
    likelihood = distribution.log_prob(torch.as_tensor(best).float())
    for _ in range(50):
        assert bool((distribution.log_prob(distribution.sample().float()) <= likelihood + 1e-6).all())
    for i in range(N):
        single, _ = policy.predict(observations[i], deterministic=True, action_masks=masks[i])
        assert np.array_equal(single, best[i]) and single.shape == space.shape
        single, _ = policy.predict(
            observations[i], deterministic=True, action_masks=masks[i : i + 1].tolist()
        )
        assert np.array_equal(single, best[i])
    torch.manual_seed(5)
    actions, values, log_prob = policy(torch.as_tensor(observations), action_masks=masks)
    assert all(allowed(a, m, space) for a, m in zip(actions.numpy(), masks, strict=True))
    assert actions.shape == (N, *space.shape) and values.shape == (N, 1)
    assert torch.equal(log_prob, distribution.log_prob(actions.float()))


@every_space
def test_a_tie_is_decided_as_without_masks(space: spaces.Space) -> None:
    """A bit that is as likely to be 0 as 1 is 0."""
    policy = make_policy(space)
    torch.nn.init.zeros_(policy.action_net.weight)
    torch.nn.init.zeros_(policy.action_net.bias)
    observations = np.zeros((N, policy.observation_space.shape[0]), np.float32)
    plain, _ = policy.predict(observations, deterministic=True)
    masked, _ = policy.predict(observations, deterministic=True, action_masks=np.ones_like(masks_of(space)))
    assert np.array_equal(masked, plain)


@every_space
def test_masks_may_have_a_dimension_per_choice(space: spaces.Space) -> None:
    """(n, A, K / A) if all choices are as large as one another, and 0 and 1 instead of bool."""
    masks = masks_of(space)
    assert np.array_equal(checked_masks(masks.astype(np.int8), space, N), masks)
    assert np.array_equal(checked_masks(masks.astype(float).tolist(), space, N), masks)
    if isinstance(space, spaces.MultiBinary):
        assert np.array_equal(checked_masks(masks.reshape(N, -1, 2), space, N), masks)
        assert np.array_equal(checked_masks(masks[0].reshape(-1, 2), space, 1), masks[:1])
        with pytest.raises(MaskError, match=r"\(6, 6\), one row per state"):
            checked_masks(masks.reshape(N, 2, -1), space, N)
    assert sum(choices(space)) == masks.shape[1]


@every_space
def test_wrong_masks_are_rejected(space: spaces.Space) -> None:
    """The message has both shapes, or the value, or which choice has no allowed value."""
    policy, masks = make_policy(space), masks_of(space)
    observations = np.zeros((N, policy.observation_space.shape[0]), np.float32)
    k = masks.shape[1]
    for wrong in (masks[:-1], masks[:, 1:], masks[0], masks.reshape(-1), True, masks[None]):
        with pytest.raises(MaskError, match=rf"masks of shape \({N}, {k}\).*got \("):
            policy.predict(observations, action_masks=wrong)
    for value in (2, 0.5, np.nan, -np.inf):
        with pytest.raises(MaskError, match="True or 1 for an allowed action"):
            policy.predict(observations, action_masks=np.where(masks, value, 0))
    with pytest.raises(MaskError, match=r"one row per state .*; got rows of different lengths"):
        policy.predict(observations, action_masks=[[1], *masks[1:].tolist()])
    with pytest.raises(MaskError, match=r"got \(\), 'none'"):
        policy.predict(observations, action_masks="none")
    masks[3, : sizes_of(space)[0]] = False
    dimension = "" if isinstance(space, spaces.Discrete) else " in dimension 0 of Multi"
    for given in (masks, masks.tolist(), torch.as_tensor(masks)):
        with pytest.raises(MaskError, match=f"the mask of state 3 of 6 allows no action{dimension}"):
            policy.predict(observations, action_masks=given)
    with pytest.raises(MaskError, match=f"the mask allows no action{dimension}"):
        policy.predict(observations[3], action_masks=masks[3])


def test_the_number_of_entries_is_named() -> None:
    """Of many choices of several sizes, too."""
    space = spaces.MultiDiscrete([2, 3] * 5)
    with pytest.raises(MaskError, match=r"masks of shape \(1, 25\), one row per state with 25 entries"):
        checked_masks(np.ones(24), space, 1)


def test_box_actions_have_no_masks() -> None:
    """A continuous action has no entry in a mask."""
    policy = make_policy(spaces.Box(-1, 1, (2,)))
    with pytest.raises(MaskError, match="not for Box"):
        policy.predict(np.zeros(3, np.float32), action_masks=[1, 1])
    with pytest.raises(TypeError, match="DiagGaussian has no single outcomes"):
        DiagGaussian(torch.zeros(2, 2), torch.zeros(2)).masked(torch.ones(2, 2, dtype=torch.bool))


def test_a_head_of_ones_own_is_masked_too() -> None:
    """A registered distribution of a family with single outcomes, with the mode of its own."""
    register_distribution(
        "sharp",
        n_outputs=lambda space: int(space.n),
        make=lambda outputs, _: Categorical(3 * outputs),
        mode=lambda policy: policy.logits.argmax(-1),
    )
    try:
        policy, masks = make_policy(SPACES["discrete"], distribution="sharp"), masks_of(SPACES["discrete"])
        observations = torch.rand(N, 5)
        outputs = policy.action_net(policy.mlp_extractor.forward_actor(observations))
        found = policy.get_distribution(observations, action_masks=masks)
        expected = Categorical(3 * outputs).masked(torch.as_tensor(masks))
        assert torch.equal(found.entropy(), expected.entropy())
        assert torch.equal(found.mode(), expected.logits.argmax(-1))
    finally:
        del HEADS["sharp"]


class OwnHead(MlpPolicy):
    """A policy with its own way from the last layer to the distribution."""

    def _get_action_dist_from_latent(self, latent_pi: torch.Tensor) -> Any:
        return self.action_dist.proba_distribution(action_logits=2 * self.action_net(latent_pi))


class OwnDistribution(MlpPolicy):
    """A policy whose own method takes no masks."""

    def get_distribution(self, obs: Any) -> Any:  # type: ignore[override]
        """Return SB3's distribution."""
        return super().get_distribution(obs)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (ActorCriticPolicy, "ActorCriticPolicy takes none; use 'MlpPolicy'"),
        (OwnDistribution, "OwnDistribution takes none"),
        (OwnHead, "OwnHead makes its distribution in a _get_action_dist_from_latent of its own"),
    ],
)
def test_policies_that_cannot_mask_are_rejected(policy: type[ActorCriticPolicy], message: str) -> None:
    """Before any step, with the way out."""
    with pytest.raises(MaskError, match=rf"(?s){message}.*use_masking=False"):
        TRPO(policy, MaskedEnv(), device="cpu")
    assert not TRPO(policy, MaskedEnv(), device="cpu", use_masking=False).masked
