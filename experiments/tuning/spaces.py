"""The settings that a search varies, for each algorithm, as data.

`--tune` and RL Zoo use the same spaces. n_envs is fixed: at a given number of states per update it hardly
changes learning, and the machine decides its cost. critic_fit and the network are fixed, since they decide
what is compared.
"""

from collections.abc import Mapping

from experiments.tuning.search_setting import Choice, Range, Setting

GAMMA = Range("gamma", 1e-4, 0.2, complement=True)
GAE_LAMBDA = Range("gae_lambda", 0.7, 1.0, log=False)
ROLLOUT = (Choice("n_steps", (16, 32, 64, 128, 256, 512, 1024, 2048)), GAMMA, GAE_LAMBDA)
CRITIC = Range("n_critic_updates", 1, 30, integer=True)
TRUST_REGION = (Range("target_kl", 1e-3, 0.1), Range("cg_damping", 1e-3, 1.0), CRITIC)

SPACES: Mapping[str, tuple[Setting, ...]] = {
    "vpg": (*ROLLOUT, Range("learning_rate", 1e-4, 3e-2), CRITIC),
    "npg": (*ROLLOUT, *TRUST_REGION),
    "trpo": (*ROLLOUT, *TRUST_REGION),
    "acktr": (
        *ROLLOUT,
        Range("learning_rate", 0.03, 2.0),
        Range("target_kl", 1e-3, 0.3),
        Range("damping", 1e-2, 1.0),
        Range("momentum", 0.0, 0.95, log=False),
    ),
    "sb3:ppo": (
        *ROLLOUT,
        Range("learning_rate", 3e-5, 1e-2),
        Choice("batch_size", (32, 64, 128, 256, 512)),
        Range("n_epochs", 1, 20, integer=True),
        Range("clip_range", 0.05, 0.4),
    ),
    "sb3:a2c": (
        Choice("n_steps", (5, 8, 16, 32, 64, 128)),
        GAMMA,
        GAE_LAMBDA,
        Range("learning_rate", 1e-4, 1e-2),
        Range("ent_coef", 0.0, 0.02, log=False),
        Range("vf_coef", 0.1, 1.0),
    ),
    "contrib:trpo": (*ROLLOUT, *TRUST_REGION, Range("learning_rate", 1e-4, 1e-2)),
}
