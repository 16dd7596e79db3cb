"""One rank of the scaling benchmark: makes the measurements that rank 0 reads from its input, one per line.

It is started by `scaling_group.RankGroup`. A rank uses one core of its own, and one thread.
"""

import dataclasses
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import distributed_c10d

from agents import ALGORITHMS, PolicyGradientAgent
from agents.ranks import Ranks
from envs import make_vec_env
from experiments.process_group import process_group

TENSOR_COLLECTIVES = ("all_reduce", "all_gather", "broadcast")
SINGLE, CHAINS, CHAIN = (
    100,
    10,
    10,
)  # of each collective that is timed: single calls, chains, calls in a chain
OTHER = "other"


@dataclass(frozen=True)
class Task:
    """What to measure: updates of one agent.

    Attributes:
        algo: name of the algorithm.
        env: id of the environment.
        vec_env: kind of vector environment.
        states: steps per rank and update.
        n_envs: environments per rank.
        width: units in each of the two hidden layers of actor and critic.
        updates: updates per measurement.
        settings: the agent's other settings.
    """

    algo: str
    env: str = "Hopper-v5"
    vec_env: str = "dummy"
    states: int = 2048
    n_envs: int = 64
    width: int = 64
    updates: int = 4
    settings: dict[str, Any] = field(default_factory=dict)


class Meter:
    """The time of each part of an update, and the collectives in it."""

    def __init__(self) -> None:
        self.part = OTHER
        self.restart()

    def restart(self) -> None:
        """Set everything to zero."""
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[tuple[str, str]] = Counter()
        self.bytes: Counter[tuple[str, str]] = Counter()
        self.waited = 0.0

    @contextmanager
    def measuring(self, part: str) -> Iterator[None]:
        """Add the block's time to a part."""
        before, self.part = self.part, part
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start
            self.part = before

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose time is added to a part."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.measuring(part):
                return function(*args, **kwargs)

        return timed

    def count_collectives(self) -> None:
        """Count, from now on, the collectives of tensors; one of objects consists of two or more of these."""
        for name in TENSOR_COLLECTIVES:
            counted = self._counted(name, getattr(dist, name))
            setattr(dist, name, counted)
            setattr(distributed_c10d, name, counted)

    def _counted(self, name: str, collective: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            sent: Tensor = args[1] if name == "all_gather" else args[0]
            self.calls[self.part, name] += 1
            self.bytes[self.part, name] += sent.numel() * sent.element_size()
            start = time.perf_counter()
            try:
                return collective(*args, **kwargs)
            finally:
                self.waited += time.perf_counter() - start

        return counted


METER = Meter()


def make(task: Task) -> PolicyGradientAgent:
    """Return an agent whose parts are timed."""
    torch.manual_seed(0)
    agent = ALGORITHMS[task.algo](
        "MlpPolicy",
        make_vec_env(task.env, task.n_envs, seed=dist.get_rank(), vec_env=task.vec_env),
        n_steps=task.states // task.n_envs,
        seed=0,
        device="cpu",
        policy_kwargs={"net_arch": [task.width, task.width]},
        **task.settings,
    )
    make_critic = agent.make_critic

    def timed_critic() -> Any:
        critic = make_critic()
        critic.fit = METER.wrap("critic fit", critic.fit)  # type: ignore[method-assign]
        return critic

    agent.make_critic = timed_critic  # type: ignore[method-assign]
    agent.policy_step = METER.wrap("policy step", agent.policy_step)  # type: ignore[method-assign]
    agent.collect_rollouts = METER.wrap("rollout", agent.collect_rollouts)  # type: ignore[method-assign]
    # A second thread gains nothing on one core, and the parts could not be timed.
    agent._fits_in_parallel = lambda critic: False  # type: ignore[method-assign]
    return agent


def time_updates(agent: PolicyGradientAgent, task: Task) -> dict[str, Any]:
    """Return seconds, seconds of the processor on this rank, and collectives, all per update."""
    total = agent.ranks.size * agent.n_steps * agent.n_envs
    dist.barrier()
    METER.restart()
    start, used = time.perf_counter(), time.process_time()
    agent.learn(task.updates * total, reset_num_timesteps=agent.num_timesteps == 0, log_interval=None)
    seconds = time.perf_counter() - start
    parts = {name: METER.seconds[name] for name in ("rollout", "policy step", "critic fit")}
    parts["other"] = seconds - sum(parts.values())
    parts["in collectives"] = METER.waited
    return {
        "steps_per_s": task.updates * total / seconds,
        "update": seconds / task.updates,
        "cpu": (time.process_time() - used) / task.updates,
        "parts": {name: value / task.updates for name, value in parts.items()},
        "collectives": [
            [part, name, calls / task.updates, METER.bytes[part, name] / task.updates]
            for (part, name), calls in sorted(METER.calls.items())
        ],
        "actor": sum(p.numel() for p in agent.actor.parameters()),
    }


def time_collectives(sizes: list[int]) -> dict[str, list[float]]:
    """Return seconds of each collective, of tensors by bytes and of objects: the least, and in a chain.

    The least of single calls is that without other programs. Chains of calls give the median time per call.
    """
    ranks = Ranks.current()
    calls: dict[str, Callable[[], Any]] = {
        "gather of objects": lambda: ranks.gather((1, True), "a measurement"),
        "broadcast of an object": lambda: ranks.first(1, "a measurement"),
    }
    for size in sizes:
        tensor = torch.ones(size // 4)
        calls[f"all_reduce {size}"] = lambda tensor=tensor: dist.all_reduce(tensor)  # type: ignore[misc]
        parts = [torch.ones(size // 4) for _ in range(ranks.size)]
        calls[f"all_gather {size}"] = lambda parts=parts: dist.all_gather(parts, parts[0])  # type: ignore[misc]
        calls[f"broadcast {size}"] = lambda tensor=tensor: dist.broadcast(tensor, 0)  # type: ignore[misc]
    found = {}
    for name, call in calls.items():
        single = time_calls(call, SINGLE, 1)
        found[name] = [float(single.min()), float(time_calls(call, CHAINS, CHAIN).median())]
    return found


def time_calls(call: Callable[[], Any], repetitions: int, chain: int) -> Tensor:
    """Return the seconds per call on the slowest rank, (repetitions,)."""
    times = []
    for _ in range(repetitions):
        dist.barrier()
        start = time.perf_counter()
        for _ in range(chain):
            call()
        times.append((time.perf_counter() - start) / chain)
    slowest = torch.tensor(times)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return slowest


def serve(requests: TextIO, replies: TextIO) -> None:
    """Measure on all ranks together what rank 0 reads, until its input ends."""
    agents: dict[str, PolicyGradientAgent] = {}
    while True:
        request = [requests.readline() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(request, 0)
        if not request[0]:
            break
        content = json.loads(request[0])
        if "sizes" in content:
            reply: dict[str, Any] = time_collectives(content["sizes"])
        else:
            task = Task(**content)
            key = json.dumps(asdict(dataclasses.replace(task, updates=0)))
            if key not in agents:
                agents[key] = make(task)
            reply = time_updates(agents[key], task)
        if dist.get_rank() == 0:
            print(json.dumps(reply), file=replies, flush=True)
    for agent in agents.values():
        assert agent.env is not None
        agent.env.close()


def main() -> None:
    """Join the ranks, each on a core of its own, and measure."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["RANK"]) % len(cores)]})
    torch.set_num_threads(1)
    replies, sys.stdout = sys.stdout, sys.stderr  # nothing else may appear among the replies
    METER.count_collectives()
    with process_group("cpu", 600.0):
        serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
