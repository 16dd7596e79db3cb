"""Make updates from given batches, and store the result: run by torchrun on several ranks, or in one process.

torchrun --nproc-per-node 2 --module rank_updates OUT CASE...
"""

import itertools
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import distributed as dist

from agents import ALGORITHMS, PolicyGradientAgent
from agents.policy.distributions import HEADS
from agents.policy.recurrent.sequences import Sequences
from agents.rollout.batch import Batch
from npg.states import select

ENVS, STEPS, UPDATES = 11, 4, 2
RECURRENT, MASKED = "recurrent", "masked"  # families of their own, with categorical distributions
BOX = spaces.Box(-1, 1, (2,))
SPACES: dict[str, spaces.Space] = {"gaussian": BOX, "categorical": spaces.Discrete(3)}
SPACES |= dict.fromkeys(HEADS, BOX)


class Case(NamedTuple):
    """What is updated; its name on the command line is algo-fit-family-normalised."""

    algo: str
    fit: str
    family: str
    normalised: bool

    def __str__(self) -> str:
        return f"{self.algo}-{self.fit}-{self.family}-{'normalised' if self.normalised else 'raw'}"

    @classmethod
    def of(cls, name: str) -> "Case":
        """Return the case with a name."""
        algo, fit, family, normalised = name.split("-")
        return cls(algo, fit, family, normalised == "normalised")


FITS = [(algo, fit) for algo in ("vpg", "npg", "trpo") for fit in ("lbfgs", "minibatch")]
CASES = [
    Case(algo, fit, family, normalised)
    for (algo, fit), family, normalised in itertools.product(
        [*FITS, ("acktr", "whole"), ("acktr", "parts")], ("gaussian", "categorical"), (False, True)
    )
]
CASES += [Case(algo, fit, RECURRENT, True) for algo, fit in FITS]
CASES += [Case(algo, fit, MASKED, True) for algo, fit in [*FITS[1:4], ("acktr", "whole")]]
CASES += [Case(algo, fit, family, True) for (algo, fit), family in itertools.product(FITS[1:3], HEADS)]


class Still(gym.Env[np.ndarray, Any]):
    """An environment with the right spaces; it is never stepped."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,))

    def __init__(self, family: str):
        self.action_space = SPACES.get(family, spaces.Discrete(3))

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:  # type: ignore[override]
        """Return zeros."""
        return np.zeros(3, np.float32), {}


def make(case: Case, n_envs: int) -> PolicyGradientAgent:
    """Return an agent of float64."""
    options: dict[str, Any] = {"n_critic_updates": 3}
    if case.algo == "acktr":  # without sampling, so that the ranks' random numbers do not matter
        options |= {"fisher_samples": None, "batch_size": 11 if case.fit == "parts" else None}
        options |= {"factor_interval": 1, "inverse_interval": 1}
    else:
        options |= {"critic_fit": case.fit} | ({"batch_size": 11} if case.fit == "minibatch" else {})
    if case.normalised:
        options["ent_coef"] = 0.3
    if case.algo in ("npg", "trpo"):
        # Every k-th sequence is counted per rank.
        options |= {"sub_sampling_factor": 1 if case.family == RECURRENT else 5, "adaptive_damping": True}
        options["cg_max_steps"] = 8  # later iterations amplify the rounding of a product
    torch.set_default_dtype(torch.float64)
    agent: PolicyGradientAgent = ALGORITHMS[case.algo](
        "MlpLstmPolicy" if case.family == RECURRENT else "MlpPolicy",
        DummyVecEnv([lambda: Still(case.family)] * n_envs),
        n_steps=STEPS,
        seed=0,
        device="cpu",
        policy_kwargs={
            "net_arch": [5],
            "distribution": case.family if case.family in HEADS else None,
            "normalize_observations": case.normalised,
            "normalize_returns": case.normalised,
            **({"lstm_hidden_size": 3} if case.family == RECURRENT else {}),
        },
        **options,
    )
    torch.set_default_dtype(torch.float32)
    agent._setup_learn(10**6)
    return agent


def joined(policy: Any, family: str, generator: torch.Generator) -> Batch:
    """Return a batch of all environments' states."""
    n = ENVS * STEPS

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    observations: Any = 2 * normal(n, 3) + 1
    first = observations[:, 0]
    discrete = family in ("categorical", RECURRENT, MASKED)
    actions = torch.randint(3, (n,), generator=generator) if discrete else normal(n, 2)
    actions = actions.tanh() if family == "beta" else actions
    if family == RECURRENT:
        starts = np.arange(STEPS * ENVS).reshape(STEPS, ENVS) % 5 == 0
        observations = Sequences.of_rollout(observations, starts, policy.zero_states(ENVS) + 0.5)
    masks = None
    if family == MASKED:
        masks = torch.rand(n, 3, generator=generator) < 0.4
        masks[torch.arange(n), actions] = True
    values, log_prob, _ = policy.evaluate_actions(observations, actions, action_masks=masks)
    noise = 0.1 * normal(n)
    return Batch(
        observations,
        actions,
        log_prob.detach() + noise,
        values.detach().flatten(),
        normal(n) + first,
        3 * normal(n) + 5,
        masks,
    )


@mock.patch("stable_baselines3.common.policies.preprocess_obs", lambda obs, *_, **__: obs.double())
def result_of(case: Case) -> dict[str, Any]:
    """Return everything that `UPDATES` updates leave behind."""
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    shares = [ENVS // size + (r < ENVS % size) for r in range(size)]
    agent = make(case, shares[rank])
    first = STEPS * sum(shares[:rank])
    part = slice(first, first + STEPS * shares[rank])
    generator = torch.Generator().manual_seed(1)
    for update in range(UPDATES):
        whole = joined(agent.policy, case.family, generator)
        mine = Batch(*(select(value, part) for value in vars(whole).values() if value is not None))
        torch.manual_seed(update)
        with mock.patch.object(Batch, "from_buffer", return_value=mine):
            agent.train()
    logged = {k: v for k, v in agent.logger.name_to_value.items() if not k.startswith("time/")}
    resumable = agent.resumable_state()
    resumable.pop("recurrent_states", None)  # of this rank's environments
    return {"tensors": agent.policy.state_dict(), "logged": logged, "resumable": resumable}


def main(out: Path, *names: str) -> None:
    """Store {name of a case: result} of this rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    results = {name: result_of(Case.of(name)) for name in names}
    torch.save(results, out / f"rank-{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
