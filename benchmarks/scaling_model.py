"""A model of the time per update on W ranks: computation, and α + bytes/β for every collective.

A collective takes a number of steps, each a message between two ranks. Two kinds are modelled:

    ring    gloo: all-reduce and all-gather pass parts around a ring, a broadcast goes down a binomial tree.
            Each message waits for one that says that the receiver is ready, so a step takes two latencies.
    tree    NCCL for small tensors: reduction up a tree and broadcast down it, one latency per step.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

RANKS = tuple(2**i for i in range(11))
LEAST_EFFICIENCY = 0.5


@dataclass(frozen=True)
class Link:
    """What connects the ranks.

    Attributes:
        kind: "ring" or "tree".
        latency: seconds of a message from one rank to another.
        bandwidth: bytes per second.
        overhead: seconds per step that the software takes.
    """

    kind: str
    latency: float
    bandwidth: float = 1.25e9
    overhead: float = 0.0

    def seconds(self, collective: str, size: float, ranks: int) -> float:
        """Return the time of one collective.

        Args:
            collective: "all_reduce", "all_gather" or "broadcast".
            size: bytes that each rank contributes.
            ranks: W.
        """
        if ranks == 1:
            return 0.0
        depth, transfer = math.ceil(math.log2(ranks)), size / self.bandwidth
        if self.kind == "tree":
            step = self.latency + self.overhead
            return {
                "all_reduce": 2 * depth * step + 2 * transfer,
                "all_gather": depth * step + (ranks - 1) * transfer,
                "broadcast": depth * step + transfer,
            }[collective]
        step = 2 * self.latency + self.overhead
        return {
            "all_reduce": 2 * (ranks - 1) * (step + transfer / ranks),
            "all_gather": (ranks - 1) * (step + transfer),
            "broadcast": depth * (step + transfer),
        }[collective]


@dataclass(frozen=True)
class Collectives:
    """The collectives of one kind in one part of an update.

    Attributes:
        part: the part of the update.
        kind: "all_reduce", "all_gather" or "broadcast".
        calls: their number.
        size: bytes that each rank contributes to all of them together.
    """

    part: str
    kind: str
    calls: float
    size: float


@dataclass(frozen=True)
class Update:
    """What one update of an agent takes.

    Attributes:
        fixed: seconds on one rank, whatever the number of states.
        per_state: seconds per state.
        per_minibatch: seconds per minibatch of the critic.
        collectives: those of an update with `counted_states` states in all.
        counted_states: see `collectives`.
        passes: the critic's passes over the minibatches; 0 if its fit takes the whole batch.
        batch_size: states of all ranks in a minibatch.
    """

    fixed: float
    per_state: float
    per_minibatch: float
    collectives: Sequence[Collectives]
    counted_states: int
    passes: int = 0
    batch_size: int = 128

    def minibatches(self, states: int) -> int:
        """Return the number of minibatches of an update with that many states in all."""
        return self.passes * math.ceil(states / self.batch_size)

    def seconds(self, states: int, ranks: int, link: Link) -> float:
        """Return the time of an update with that many states per rank."""
        total = states * ranks
        computation = self.fixed + self.per_state * states + self.per_minibatch * self.minibatches(total)
        return computation + self.communication(total, ranks, link)

    def communication(self, total: int, ranks: int, link: Link) -> float:
        """Return the seconds in collectives of an update with `total` states in all."""
        seconds = 0.0
        for found in self.collectives:
            calls, size = found.calls, found.size / found.calls
            if self.passes and found.part == "critic fit":
                if found.kind != "broadcast":  # one per minibatch; in each pass, two for the number of states
                    own = 2 * self.passes if found.kind == "all_gather" else 0
                    calls = own + (calls - own) * self.minibatches(total) / self.minibatches(
                        self.counted_states
                    )
                else:  # the order of all states
                    size *= total / self.counted_states
            seconds += calls * link.seconds(found.kind, size, ranks)
        return seconds

    def weak(self, states: int, link: Link, ranks: int) -> float:
        """Return the efficiency with a constant number of states per rank: 1 if the time does not grow."""
        return self.seconds(states, 1, link) / self.seconds(states, ranks, link)

    def strong(self, total: int, link: Link, ranks: int) -> float:
        """Return the speed-up with a constant number of states in all."""
        return self.seconds(total, 1, link) / self.seconds(total // ranks, ranks, link)


def last_efficient(efficiency: Callable[[int], float]) -> int:
    """Return the largest W up to which the efficiency is at least 50 %."""
    return max(W for W in RANKS if all(efficiency(w) >= LEAST_EFFICIENCY for w in RANKS if w <= W))


def table(updates: dict[str, Update], links: dict[str, Link], weak: int, strong: int) -> list[dict[str, Any]]:
    """Return a row per agent with where it stops scaling on each link.

    A cell has the largest W with half the weak efficiency, then the W with the largest strong speed-up.

    Args:
        updates: {agent: its update}.
        links: {name: link}.
        weak: states per rank.
        strong: states in all.
    """
    rows = []
    for agent, update in updates.items():
        row: dict[str, Any] = {"agent": agent}
        for name, link in links.items():
            last = last_efficient(partial(update.weak, weak, link))
            speedups = {update.strong(strong, link, W): W for W in RANKS}
            row[name] = f"{last} / {speedups[max(speedups)]} ({max(speedups):.3g}x)"
        rows.append(row)
    return rows


def fit(
    times: dict[tuple[int, int], float], minibatches: Callable[[int, int], int]
) -> tuple[float, float, float]:
    """Return seconds of an update: fixed, per state and per minibatch.

    Args:
        times: {(states, batch size): seconds on one rank}: two numbers of states with the same batch size
            and, if there are minibatches, the last entry with another batch size.
        minibatches: returns their number, for states and batch size; 0 without.
    """
    (few, size), (many, _), *other = times
    per_minibatch = 0.0
    if other:
        fewer = minibatches(many, size) - minibatches(many, other[0][1])
        per_minibatch = max((times[many, size] - times[other[0]]) / fewer, 0.0)
    less, more = (times[n, size] - per_minibatch * minibatches(n, size) for n in (few, many))
    per_state = max((more - less) / (many - few), 0.0)
    return max(less - per_state * few, 0.0), per_state, per_minibatch
