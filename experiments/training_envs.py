"""The training environments of a run, shared by its ranks."""

from stable_baselines3.common.vec_env import VecEnv

from agents.ranks import ONE, Ranks
from envs import make_vec_env
from experiments.algorithms import PEERS
from experiments.normalised import normalised
from experiments.settings.run_settings import RunSettings


def check_ranks(settings: RunSettings, ranks: Ranks) -> None:
    """Check that a run can be made on several ranks.

    Raises:
        ValueError: it has fewer environments than ranks, or the algorithm is not ours.
    """
    if not ranks.several:
        return
    if settings.algo in PEERS:
        raise ValueError(f"{settings.algo} trains in one process; start it without torchrun")
    if settings.n_envs < ranks.size:
        raise ValueError(
            f"{settings.n_envs} environments cannot be shared by {ranks.size} ranks; raise --n-envs, or "
            "lower torchrun's --nproc-per-node"
        )


def environments_of(settings: RunSettings, ranks: Ranks) -> list[int]:
    """Return the number of environments of each rank."""
    least, more = divmod(settings.n_envs, ranks.size)
    return [least + (rank < more) for rank in range(ranks.size)]


def make_env(settings: RunSettings, step: int = 0, ranks: Ranks = ONE) -> VecEnv:
    """Create this rank's training environments.

    The seed of an environment is the run's plus its index among those of all ranks plus `step`, so that
    resuming repeats no episode.
    """
    counts = environments_of(settings, ranks)
    env = make_vec_env(
        settings.env,
        counts[ranks.rank],
        seed=settings.seed + step + sum(counts[: ranks.rank]),
        vec_env=settings.vec_env,
        env_kwargs={"device": settings.device} if settings.vec_env == "tensor" else None,
        worker_timeout=settings.worker_timeout or None,
    )
    return normalised(env, settings.hyperparameters["gamma"]) if settings.normalize else env
