"""Numbers that are not finite, or overflow, at every place where they can come up while an agent learns."""

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from episodes import Episodes
from free_costs import ALGORITHMS
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from agents import TRPO, NonFiniteError
from agents.base import PolicyGradientAgent
from agents.critic import MinibatchCritic
from agents.divergence import MOST_REJECTIONS
from agents.policy.normalisation import RunningMoments
from experiments.run.agent_state import take_agent
from experiments.run.plain_data import to_bytes
from npg import (
    Categorical,
    ExactFisher,
    KroneckerFisher,
    KroneckerStepper,
    PolicyStep,
    Rejection,
    SurrogateObjective,
)

N_ENVS, N_STEPS = 2, 8
BATCH = N_ENVS * N_STEPS
NAN, INF = float("nan"), float("inf")
HUGE = 1e38  # finite, with sums and squares that are not
VALUES = (NAN, INF, -INF, HUGE, -1e25)

ENVIRONMENT = ("observation", "last observation", "first observation", "reward", "every reward")
UPDATE = (
    "policy output",
    "value",
    "advantages",
    "returns",
    "log_probs",
    "gradient",
    "surrogate",
    "gain",
    "kl",
)
CRITIC = ("critic loss", "critic gradient")
NATURAL = {"npg": ("product",), "trpo": ("product",), "acktr": ("statistics", "displacement")}


def places(algo: str) -> tuple[str, ...]:
    """Return the places that an algorithm has."""
    return ENVIRONMENT + UPDATE + CRITIC + NATURAL.get(algo, ())


class Faulty(gym.Wrapper):
    """Puts a bad value where `place` says, after `wait` steps."""

    place, value, wait = "", 0.0, 0

    def _now(self, place: str) -> bool:
        return self.place == place and self.wait <= 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict]:
        """Begin an episode."""
        observation, info = self.env.reset(**kwargs)
        if self._now("first observation"):
            observation[0] = self.value
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Take a step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.wait -= 1
        if self._now("observation") or ((terminated or truncated) and self._now("last observation")):
            observation[-1] = self.value
        reward = self.value if self._now("reward") else float(reward)
        return observation, reward, terminated, truncated, info


def make_env(env_id: str) -> VecEnv:
    """Return environments of short episodes that can be made faulty."""

    def one() -> gym.Env:
        return Monitor(Faulty(gym.wrappers.TimeLimit(gym.make(env_id).unwrapped, 7)))

    return DummyVecEnv([one] * N_ENVS)


def make_agent(algo: str, critic_fit: str, env_id: str, normalised: str) -> PolicyGradientAgent:
    """Return a tiny agent, normalised by its policy ("own"), by VecNormalize ("vec") or not ("")."""
    own = normalised == "own"
    options: dict[str, Any] = {"batch_size": 8, "n_critic_updates": 2}
    if algo in ("npg", "trpo"):
        options["adaptive_damping"] = own
    if algo == "acktr":
        options |= {"factor_interval": 2, "inverse_interval": 3}
    else:
        options["critic_fit"] = critic_fit
    env = make_env(env_id)
    return ALGORITHMS[algo](
        "MlpPolicy",
        VecNormalize(env) if normalised == "vec" else env,
        n_steps=N_STEPS,
        seed=0,
        device="cpu",
        policy_kwargs={"net_arch": [4], "normalize_observations": own, "normalize_returns": own},
        **options,
    )


class Injection:
    """Puts a bad value into one place, as long as it is entered.

    Args:
        agent: of `make_agent`.
        place: one of `places`.
        value: the bad one.
        rng: chooses environment, call and entry.
    """

    def __init__(self, agent: PolicyGradientAgent, place: str, value: float, rng: np.random.Generator):
        self.agent, self.place, self.value, self.rng = agent, place, value, rng

    def bad(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor with one entry times the value, and so its gradient."""
        flat = tensor.reshape(-1).clone()
        i = int(self.rng.integers(len(flat)))
        flat[i] = flat[i] * self.value
        return flat.view_as(tensor)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inject."""
        with pytest.MonkeyPatch.context() as patch:
            self._start(patch)
            yield

    def _spoil(self, patch: pytest.MonkeyPatch, owner: Any, name: str, latest: int = 1) -> None:
        """Spoil what a function returns, from one of its next `latest` calls on."""
        real, calls, first = getattr(owner, name), itertools.count(), int(self.rng.integers(latest))

        def spoilt(*args: Any, **kwargs: Any) -> Any:
            result = real(*args, **kwargs)
            return self.bad(result) if next(calls) >= first else result

        patch.setattr(owner, name, spoilt)

    def _start(self, patch: pytest.MonkeyPatch) -> None:
        agent = self.agent
        if self.place in ENVIRONMENT:
            self._spoil_environment(patch)
        elif self.place == "policy output":
            self._spoil(patch, agent.policy.action_net, "forward", 2 * N_STEPS)
        elif self.place == "value":
            self._spoil(patch, agent.policy.value_net, "forward", 6)
        elif self.place in ("advantages", "returns", "log_probs"):
            self._spoil_buffer(patch)
        elif self.place == "gradient":
            self._spoil(patch, SurrogateObjective, "gradient")
        elif self.place == "product":
            self._spoil(patch, ExactFisher, "matvec", 6)
        elif self.place in ("surrogate", "gain", "kl"):
            evaluate = SurrogateObjective.evaluate
            field = {self.place: self.value}
            patch.setattr(SurrogateObjective, "evaluate", lambda *args: replace(evaluate(*args), **field))
        elif self.place == "critic loss":
            self._spoil(patch, torch.nn.functional, "mse_loss", 2)
        elif self.place == "critic gradient":
            self._spoil_critic_gradient(patch)
        elif self.place == "statistics":
            self._spoil_statistics(patch)
        else:
            assert self.place == "displacement"
            self._spoil(patch, KroneckerStepper, "displacement", 3)

    def _spoil_buffer(self, patch: pytest.MonkeyPatch) -> None:
        collect = self.agent.collect_rollouts

        def collected(*args: Any, **kwargs: Any) -> bool:
            result = collect(*args, **kwargs)
            entry = int(self.rng.integers(N_STEPS)), int(self.rng.integers(N_ENVS))
            getattr(self.agent.rollout_buffer, self.place)[entry] = self.value
            return result

        patch.setattr(self.agent, "collect_rollouts", collected)

    def _spoil_critic_gradient(self, patch: pytest.MonkeyPatch) -> None:
        find = torch.autograd.grad
        spoilt = self.agent.policy.value_net.weight

        def grad(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            found = find(outputs, inputs, *args, **kwargs)
            inputs = [inputs] if isinstance(inputs, torch.Tensor) else inputs
            return tuple(self.bad(g) if p is spoilt else g for p, g in zip(inputs, found, strict=True))

        patch.setattr(torch.autograd, "grad", grad)

    def _spoil_statistics(self, patch: pytest.MonkeyPatch) -> None:
        statistics = KroneckerFisher._statistics

        def spoilt(*args: Any) -> Any:
            values = statistics(*args)
            name = list(values)[int(self.rng.integers(len(values)))]
            return values | {name: tuple(map(self.bad, values[name]))}

        patch.setattr(KroneckerFisher, "_statistics", spoilt)

    def _spoil_environment(self, patch: pytest.MonkeyPatch) -> None:
        envs = [env.env for env in self.agent.env.unwrapped.envs]
        everywhere = self.place == "every reward"
        for faulty in envs if everywhere else [envs[int(self.rng.integers(N_ENVS))]]:
            patch.setattr(faulty, "place", "reward" if everywhere else self.place)
            patch.setattr(faulty, "value", self.value)
            patch.setattr(faulty, "wait", 0 if everywhere else int(self.rng.integers(N_STEPS)))
        if self.place == "first observation":
            faulty.wait = 0
            self.agent._last_obs = None


def numbers(agent: PolicyGradientAgent) -> dict[str, Any]:
    """Return all that is kept from one update to the next."""
    env = agent.get_vec_normalize_env()
    statistics = (
        {} if env is None else {"obs": vars(env.obs_rms), "ret": vars(env.ret_rms), "sum": env.returns}
    )
    return {
        "checkpoint": take_agent(agent),
        "statistics": statistics,
        "copy": getattr(agent, "actor_vector", None),
        "deviation": getattr(getattr(agent, "critic", None), "deviation", None),
    }


def learn(agent: PolicyGradientAgent, place: str, value: float, rng: np.random.Generator) -> str:
    """Make one update, with a fault at `place` ("" for none), and return how it ended.

    Whatever that is: all numbers that are kept are finite, and an actor without a step is bitwise as before.
    """
    theta = [p.detach().clone() for p in agent.actor.parameters()]
    counts, fits = dict(agent.outcomes), agent.critic_rejected
    ending = ""
    try:
        if place:
            with Injection(agent, place, value, rng).active():
                agent.learn(BATCH, log_interval=None, reset_num_timesteps=False)
        else:
            agent.learn(BATCH, log_interval=None, reset_num_timesteps=False)
    except NonFiniteError as error:
        ending = "diagnosis, " if "consecutive" in str(error) else "ended"
    to_bytes(numbers(agent))
    reasons = [reason for reason, count in agent.outcomes.items() if count != counts[reason]]
    if reasons != ["accepted"]:
        assert all(map(torch.equal, theta, agent.actor.parameters()))
    if ending == "ended":
        assert not reasons and agent.critic_rejected == fits
        return ending
    return ending + reasons[0] + (", critic rejected" if agent.critic_rejected > fits else "")


def torment(
    algo: str, critic_fit: str, env_id: str, normalised: str, value: float, updates: int, seed: int
) -> Counter[tuple[str, str]]:
    """Let every second update meet a fault, and return how often each place ended how.

    A value that is no number leaves no trace: the updates between the faults never meet one.
    """
    rng = np.random.default_rng([seed, *map(ord, algo + critic_fit + env_id + normalised)])
    order = rng.permutation(places(algo))
    agent = make_agent(algo, critic_fit, env_id, normalised)
    outcomes: Counter[tuple[str, str]] = Counter()
    for update in range(updates):
        place = str(order[update // 2 % len(order)]) if update % 2 == 0 else ""
        outcome = learn(agent, place, value, rng)
        outcomes[place, outcome] += 1
        if not place and not np.isfinite(value):
            assert "non_finite" not in outcome and "critic" not in outcome and "ended" not in outcome
    return outcomes


CASES = [
    (algo, critic_fit, env_id, normalised)
    for algo in ALGORITHMS
    for critic_fit in (("minibatch",) if algo == "acktr" else ("minibatch", "lbfgs"))
    for env_id in ("CartPole-v1", "Pendulum-v1")
    for normalised in ("", "own", "vec")
]
quiet = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")


@pytest.mark.covering(2)
@quiet
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(("algo", "critic_fit", "env_id", "normalised"), CASES[::5])
def test_no_bad_number_is_kept(
    algo: str, critic_fit: str, env_id: str, normalised: str, value: float
) -> None:
    """Faults at random places: parameters, optimizers, averages, checkpoint stay finite; learning goes on."""
    assert torment(algo, critic_fit, env_id, normalised, value, updates=8, seed=0)["", "accepted"]


@quiet
@pytest.mark.slow
@pytest.mark.parametrize(("algo", "critic_fit", "env_id", "normalised"), CASES)
def test_no_bad_number_is_kept_in_10_000_updates(
    algo: str, critic_fit: str, env_id: str, normalised: str
) -> None:
    """The same for every agent, critic, task and normaliser: 42 of them, 240 updates each."""
    outcomes: Counter[tuple[str, str]] = Counter()
    for value in VALUES:
        outcomes += torment(algo, critic_fit, env_id, normalised, value, updates=48, seed=1)
    assert outcomes.total() == 240
    assert {place for place, _ in outcomes} == {"", *places(algo)}


@quiet
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_consecutive_rejections_end_the_run_with_a_diagnosis(algo: str) -> None:
    """Rewards whose sums overflow: nothing is learned, and the tenth update says what and since when."""
    agent = make_agent(algo, "minibatch", "Pendulum-v1", "")
    rng = np.random.default_rng(0)
    for update in range(2 * MOST_REJECTIONS - 2):  # a good update between them begins the count anew
        learn(agent, "returns" if update != MOST_REJECTIONS - 1 else "", NAN, rng)
    learn(agent, "", NAN, rng)
    assert agent.rejections == []
    done, steps = agent._n_updates, agent.num_timesteps
    theta = [p.detach().clone() for p in agent.policy.parameters()]
    with Injection(agent, "every reward", HUGE, rng).active():
        agent._last_obs = None
        found = (
            rf"{MOST_REJECTIONS} consecutive updates.* the first at update {done + 1}, step {steps + BATCH} "
        )
        found += (
            rf"\(.*critic\), the last at update {done + MOST_REJECTIONS}, .*returns with \d+ of {BATCH} NaN"
        )
        with pytest.raises(NonFiniteError, match=found):
            agent.learn(100 * BATCH, reset_num_timesteps=False)
    assert agent._n_updates == done + MOST_REJECTIONS
    assert all(map(torch.equal, theta, agent.policy.parameters()))
    assert agent.logger.name_to_value["train/critic_rejected"] == agent.critic_rejected >= MOST_REJECTIONS
    assert learn(agent, "", NAN, rng) == "accepted"


@quiet
def test_an_overflow_in_vec_normalize_is_found() -> None:
    """A variance of infinity would turn all that follows into a finite 0; it is named and put back."""
    agent = make_agent("npg", "minibatch", "Pendulum-v1", "vec")
    env = agent.get_vec_normalize_env()
    rng = np.random.default_rng(0)
    assert learn(agent, "", NAN, rng) == "accepted"
    variance = env.obs_rms.var.copy()
    found = "obs_rms of VecNormalize overflowed.*an observation"
    with Injection(agent, "observation", HUGE, rng).active(), pytest.raises(NonFiniteError, match=found):
        agent.learn(BATCH, reset_num_timesteps=False)
    assert np.array_equal(env.obs_rms.var, variance)


@quiet
def test_an_infinite_return_that_clipping_hides_is_found() -> None:
    """A frozen VecNormalize clips an infinite reward; the episode's return shows it."""
    agent = make_agent("npg", "minibatch", "Pendulum-v1", "vec")
    agent.get_vec_normalize_env().training = False
    faults = Injection(agent, "reward", INF, np.random.default_rng(0)).active()
    with faults, pytest.raises(NonFiniteError, match="non-finite return of an episode"):
        agent.learn(2 * BATCH)


class Saturated(torch.nn.Module):
    """An actor whose hidden units hide what is infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))

    def forward(self, observations: torch.Tensor) -> Categorical:
        """Return the distribution."""
        return Categorical(self.net(observations))


def test_an_infinite_weight_is_no_candidate() -> None:
    """Surrogate and KL stay finite under it; the step is refused all the same."""
    actor, states = Saturated(), torch.ones(4, 1)
    objective = SurrogateObjective(actor, states, torch.tensor([0, 1, 0, 1]), torch.ones(4))
    step = torch.zeros(objective.parameters.size)
    assert Rejection.of_numbers(objective.evaluate(step)) is None
    step[0] = INF
    with torch.no_grad():
        hidden = torch.func.functional_call(actor, objective.parameters.displaced(step), states)
    assert torch.isfinite(hidden.logits).all()
    assert Rejection.of_numbers(objective.evaluate(step)) is Rejection.NON_FINITE_SURROGATE


def test_kronecker_averages_do_not_keep_an_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old and new statistics are finite, the distance between them is not: the averages stay as they were."""
    fisher = KroneckerFisher(Saturated(), torch.ones(4, 1))
    extreme = {name: tuple(torch.full_like(v, 3e38) for v in own) for name, own in fisher.averages.items()}
    opposite = {name: tuple(-v for v in own) for name, own in extreme.items()}
    fisher.averages = extreme
    monkeypatch.setattr(KroneckerFisher, "_statistics", lambda *args: dict(opposite))
    with pytest.raises(FloatingPointError, match="averages stay"):
        fisher.update(torch.ones(4, 1), decay=0.5)
    assert fisher.averages is extreme


def test_running_moments_that_would_overflow_stay() -> None:
    """Finite values whose squares are not, in float64, change nothing."""
    moments = RunningMoments((2,))
    moments.update(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
    before = {name: value.clone() for name, value in moments.named_buffers()}
    moments.update(torch.tensor([[1e200, 0.0], [-1e200, 0.0]], dtype=torch.float64))
    assert all(torch.equal(before[name], value) for name, value in moments.named_buffers())


class Normed(FlattenExtractor):
    """Features through batch norm."""

    def __init__(self, observation_space: gym.Space):
        super().__init__(observation_space)
        self.norm = torch.nn.BatchNorm1d(self.features_dim)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return normed observations."""
        return self.norm(super().forward(observations))


def test_batch_norm_does_not_keep_an_overflow() -> None:
    """Its running variance stays where it was when an observation is too large to be squared."""
    kwargs = {"features_extractor_class": Normed}
    env = DummyVecEnv([lambda: Episodes([1.0, 0.0], observations=[0.0, 1e30, 1.0])])
    agent = TRPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu", policy_kwargs=kwargs)
    agent.learn(16)
    buffers = dict(agent.policy.named_buffers())
    assert any("running_var" in name for name in buffers)
    assert all(torch.isfinite(value).all() for value in buffers.values())


@pytest.mark.covering(1)
@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize("reward", [0.0, 1.0, 1e15])
def test_equal_rewards_and_observations_are_no_fault(algo: str, reward: float) -> None:
    """Without any variance to divide by, nothing is refused for its numbers, and all stay finite."""
    env = DummyVecEnv([lambda: Episodes([reward] * 4, observations=[1.0] * 5)])
    own = {"normalize_observations": True, "normalize_returns": True}
    agent = ALGORITHMS[algo]("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu", policy_kwargs=own)
    agent.learn(5 * 8)
    to_bytes(numbers(agent))
    assert agent.critic_rejected == 0
    assert not any(count for reason, count in agent.outcomes.items() if "non_finite" in reason)


def spoil_actor(agent: PolicyGradientAgent, step: PolicyStep) -> PolicyStep:
    """Write NaN into the policy, and report a step of 0."""
    next(agent.actor.parameters()).data.fill_(NAN)
    return replace(step, displacement=torch.zeros_like(step.displacement), rejection=None)


def spoil_critic(agent: PolicyGradientAgent, step: PolicyStep) -> PolicyStep:
    """Write NaN into one number of the critic."""
    agent.actor.critic_parameters()[0].data.view(-1)[0] = NAN
    return step


def spoil_moments(agent: PolicyGradientAgent, step: PolicyStep) -> PolicyStep:
    """Write NaN by the policy's optimizer, which remembers it."""
    parameter = agent.actor.critic_parameters()[-1]
    parameter.grad = torch.full_like(parameter, NAN)
    agent.policy.optimizer.step()
    return step


OWN_STEPS = {
    "returned": lambda agent, step: replace(step, displacement=step.displacement * NAN, rejection=None),
    "infinite": lambda agent, step: replace(step, displacement=step.displacement + INF, rejection=None),
    "actor": spoil_actor,
    "critic": spoil_critic,
    "moments": spoil_moments,
}


@pytest.mark.covering(2)
@pytest.mark.parametrize("name", OWN_STEPS)
@pytest.mark.parametrize("critic_fit", ["minibatch", "lbfgs"])
@pytest.mark.parametrize("algo", ["vpg", "trpo"])
def test_a_step_of_the_users_own_brings_no_nan(
    name: str, algo: str, critic_fit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it writes or reports: all is undone and counted, and ten of them end the run."""
    agent = make_agent(algo, critic_fit, "CartPole-v1", "own").learn(2 * BATCH)
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    moments = {name: before.pop(name) for name in list(before) if "observation_normaliser" in name}
    if name in ("critic", "moments"):  # no thread may fit what the step writes
        monkeypatch.setattr(agent, "_fits_in_parallel", lambda critic: False)
    own, step = OWN_STEPS[name], type(agent).policy_step
    monkeypatch.setattr(
        type(agent), "policy_step", lambda self, batch, objective: own(self, step(self, batch, objective))
    )
    rejected = agent.outcomes["non_finite_surrogate"]
    agent.learn(BATCH, log_interval=None, reset_num_timesteps=False)
    after = agent.policy.state_dict()
    assert moments.keys() < after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert agent.outcomes["non_finite_surrogate"] == rejected + 1 and agent.critic_rejected >= 1
    assert agent.logger.name_to_value["npg/rejected/non_finite_surrogate"] == rejected + 1
    to_bytes(take_agent(agent))
    with pytest.raises(NonFiniteError, match=f"{MOST_REJECTIONS} consecutive"):
        agent.learn(20 * BATCH, reset_num_timesteps=False)
    monkeypatch.undo()
    assert learn(agent, "", NAN, np.random.default_rng(0)) == "accepted"


def test_a_critic_of_the_users_own_brings_no_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even into the actor, which is none of its parameters."""
    agent = make_agent("trpo", "minibatch", "CartPole-v1", "").learn(BATCH)
    theta = [p.detach().clone() for p in agent.policy.parameters()]
    fit = MinibatchCritic._losses

    def spoilt(self: MinibatchCritic, batch: Any) -> Any:
        self.policy.action_net.bias.data.fill_(NAN)
        return fit(self, batch)

    monkeypatch.setattr(MinibatchCritic, "_losses", spoilt)
    agent.learn(BATCH, reset_num_timesteps=False)
    assert all(map(torch.equal, theta, agent.policy.parameters())) and agent.critic_rejected == 1
