"""
NPG against VPG: the README's comparison in Python
==================================================

Train the natural policy gradient (NPG) and the vanilla one (VPG) on Pendulum-v1, with the settings in
``configs/`` and five seeds each, and estimate the probability that a run of NPG beats a run of VPG. The KL of
their steps shows why: NPG's is the same in every update, while VPG's starts a hundred times smaller and
varies from run to run. Another learning rate shifts VPG's KL, but does not make it constant.

**Source**: S. Kakade, *A natural policy gradient*, NIPS 2001; the probability of improvement, R. Agarwal et
al., *Deep reinforcement learning at the edge of the statistical precipice*, NeurIPS 2021. ``docs/compare.md``
has four tasks, more steps and a tuned VPG; on one of the tasks, NPG loses.

**Uses**: ``agents.NPG``, which steps with :class:`npg.ExactFisher` and :func:`npg.natural_step`;
``agents.VPG``.
"""

# %%
# Make runs with the settings that ``npg train`` uses.

import os

import numpy as np
from scipy.stats import mannwhitneyu
from stable_baselines3.common.callbacks import BaseCallback

from agents import NPG, VPG
from envs import make_vec_env
from experiments.extras import needs
from experiments.report.score_intervals import improvement_interval
from experiments.settings.configuration import default_config, read_section

with needs("gallery"):
    import matplotlib.pyplot as plt

SMALL = os.environ.get("GALLERY_SMALL") == "1"
STEPS, SEEDS = (1_024, 1) if SMALL else (40_960, 5)


class Log(BaseCallback):
    """Record steps, the mean return of the last 100 episodes, and the KL of the last update."""

    def _on_training_start(self) -> None:
        self.rows = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        kl = self.logger.name_to_value.get("train/kl_divergence_loss", np.nan)
        self.rows.append((self.num_timesteps, np.mean([e["r"] for e in self.model.ep_info_buffer]), kl))


def train(algorithm: type, seed: int) -> np.ndarray:
    """Return the log of one run, one row per update."""
    settings = read_section(default_config(algorithm.__name__.lower()), "Pendulum-v1")
    if SMALL:  # two updates, from a σ that is not 1, so that F is not the identity
        settings |= {"n_envs": 2, "policy_kwargs": {"log_std_init": -0.5}}
    n_envs, policy = settings.pop("n_envs"), settings.pop("policy")
    del settings["n_timesteps"]
    env = make_vec_env("Pendulum-v1", n_envs, seed=seed, vec_env="dummy")
    log = Log()
    algorithm(policy, env, seed=seed, device="cpu", **settings).learn(STEPS, callback=log)
    return np.array(log.rows)


# %%
# Train all runs, and compare their returns over the last 100 episodes. With five runs each, the interval
# cannot be narrower than [0.64, 1.00]. P is Mann and Whitney's U, as a share of all pairs, which SciPy
# computes, too.

logs = {algorithm: np.array([train(algorithm, seed) for seed in range(SEEDS)]) for algorithm in (NPG, VPG)}
npg, vpg = (log[:, -1, 1] for log in logs.values())
chance = improvement_interval([npg], [vpg])
print(f"NPG {npg.round()}, VPG {vpg.round()}")
print(f"P(NPG is better) = {chance.estimate:.2f} [{chance.low:.2f}, {chance.high:.2f}]")
assert np.isclose(chance.estimate, mannwhitneyu(npg, vpg).statistic / (len(npg) * len(vpg)))
assert SMALL or chance.estimate > 0.9

# %%
# The Fisher matrix determines the length of NPG's steps: their KL is what was asked for, 0.02 nats, to within
# the third order. VPG's learning rate is the same in every update, but its KL is not.

target = read_section(default_config("npg"), "Pendulum-v1")["target_kl"]
kl = {algorithm: log[:, 1:, 2] for algorithm, log in logs.items()}
for algorithm, each in kl.items():
    print(f"{algorithm.__name__}: KL {each.min():.5f} to {each.max():.5f}, median {np.median(each):.5f} nats")
assert abs(np.median(kl[NPG]) / target - 1) < 0.2 and kl[NPG].max() < 2 * target
assert SMALL or kl[VPG].max() > 10 * kl[VPG].min()

# %%
# Left: thick lines are means of the seeds. Right: the KL of every update.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for algorithm, colour in ((NPG, "tab:green"), (VPG, "tab:red")):
    steps, returns = logs[algorithm][0, :, 0] / 1000, logs[algorithm][:, :, 1]
    left.plot(steps, returns.T, color=colour, alpha=0.4, linewidth=1)
    left.plot(steps, returns.mean(axis=0), color=colour, linewidth=3, label=algorithm.__name__)
    right.semilogy(steps[1:], kl[algorithm].T, ".", color=colour)
left.set(title="Pendulum-v1", xlabel="environment steps (thousands)", ylabel="return, mean of 100 episodes")
left.legend()
right.axhline(target, color="black", linestyle="--", label="NPG's target_kl")
right.set(title="length of the steps", xlabel="environment steps (thousands)", ylabel="KL(old, new) (nats)")
right.legend()
figure.savefig(os.environ.get("GALLERY_OUT", "npg_against_vpg.png"), dpi=150)
