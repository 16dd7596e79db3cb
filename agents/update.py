"""One update: batch -> policy step and critic fit -> statistics -> log."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from agents.critic import CriticFit
from agents.divergence import count_rejections
from agents.hyperparameters import present_value
from agents.policy.actor import PolicyActor
from agents.policy.snapshot import Snapshot
from agents.policy.statistics import observe
from agents.ranks import check_same_numbers
from agents.rollout.batch import Batch, standardise
from agents.rollout.threads import threads, update_threads
from agents.update_log import measure, record_update
from npg import PolicyStep, Rejection, SurrogateObjective, host

if TYPE_CHECKING:
    from agents.base import PolicyGradientAgent

CHECKED_EVERY = 10  # updates; the checksum of a 64-wide policy takes less than a millisecond


def update(agent: "PolicyGradientAgent") -> None:
    """Update policy and critic from the rollout buffer, on all ranks together."""
    ranks = agent.ranks
    # With dropout, the policy's KL to itself would not be 0; batch norm would change the policy.
    agent.policy.set_training_mode(False)
    if agent.actor.policy is not agent.policy:  # the user replaced it
        agent.actor = PolicyActor(agent.policy)
    agent.actor.masked = agent.masked
    agent._update_learning_rates()
    batch = Batch.from_buffer(agent.rollout_buffer, agent.action_space)
    advantages = standardise(batch.advantages, ranks) if agent.normalize_advantage else batch.advantages
    actions, old_log_prob = agent.actor.unsquash(batch.actions, batch.old_log_prob)
    bonus = present_value("ent_coef", agent.ent_coef, agent._current_progress_remaining)
    objective = agent.make_objective(
        batch,
        actions,
        advantages,
        old_log_prob=old_log_prob,
        entropy_coefficient=bonus or None,
        reduce=ranks.mean,
    )
    before = Snapshot([*agent.policy.parameters(), *agent.policy.buffers()], agent.policy.optimizer)
    step, fit = step_and_fit(agent, batch, objective)
    observe(agent.policy, batch.observations, batch.actions, ranks)
    numbers = host.read(policy=before.still_finite(), **measure(agent.policy, batch, ranks))
    if not numbers.pop("policy"):  # a step or fit of the user's own may write anything
        before.restore()
        step = PolicyStep.without_candidate(objective, Rejection.NON_FINITE_SURROGATE)
        fit = CriticFit(math.nan, True)
    agent._n_updates += 1
    if agent._n_updates % CHECKED_EVERY == 0:
        check_same_numbers(ranks, agent.policy.state_dict().values(), f"update {agent._n_updates}")
    record_update(agent, step, fit, numbers)
    count_rejections(agent, step, fit, batch, objective)


def step_and_fit(
    agent: "PolicyGradientAgent", batch: Batch, objective: SurrogateObjective
) -> tuple[PolicyStep, CriticFit]:
    """Take the policy step and fit the critic, in parallel if the result is the same."""
    critic = agent.make_critic()
    if not agent._fits_in_parallel(critic):
        step = take_step(agent, batch, objective)
        with threads(update_threads(agent.policy, critic.batch_size or len(batch))):
            return step, critic.fit(batch)
    with threads(max(torch.get_num_threads() // 2, 1)), ThreadPoolExecutor(1) as executor:
        fit = executor.submit(critic.fit, batch)
        step = take_step(agent, batch, objective)
        return step, fit.result()


def take_step(agent: "PolicyGradientAgent", batch: Batch, objective: SurrogateObjective) -> PolicyStep:
    """Compute the policy step and, if it is accepted, add it to the parameters."""
    step = agent.policy_step(batch, objective)
    if step.accepted:
        objective.parameters.add_(step.displacement, known_finite=True)
    return step
