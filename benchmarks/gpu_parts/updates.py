"""Part 5: memory, host synchronisations and repeatability of updates."""

import linecache
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from gpu_parts.cartpole import AGENTS, Stopwatch, make_agent, train
from gpu_parts.part import Part
from gpu_parts.timing import PeakMemory
from gpu_parts.training import DRY_SETTINGS

ROOT = Path(__file__).parents[2]
PACKAGES = tuple(f"{ROOT / package}/" for package in ("npg", "agents", "envs"))
SYNCHRONISATION = "synchronizing CUDA operation"  # what torch's warning says
MEMORY_UPDATE, COUNTED_UPDATE, UPDATES = 2, 3, 4  # the first two include initialisation


def measure_updates(part: Part) -> None:
    """Measure one update of every agent, then train every agent twice."""
    if part.device.type != "cuda":
        part.note("no CUDA device: peak memory is unknown and no synchronisation is counted")
    elif not counts_a_known_one(part.device):
        part.fail("torch did not report a known synchronisation; the counts below are too low")
    for position, algo in enumerate(AGENTS):
        if part.out_of_time(", ".join(AGENTS[position:])):
            return
        with part.attempt(f"{algo}, one update"):
            measure_update(part, algo)
        with part.attempt(f"{algo}, two runs"):
            compare_runs(part, algo)


def measure_update(part: Part, algo: str) -> None:
    """Measure the memory of one update and count the synchronisations of the next one."""
    agent = make_agent(algo, part.device, **(DRY_SETTINGS if part.dry_run else {}))
    memory, counts = PeakMemory(part.device), Counter[str]()

    def around(update: int) -> AbstractContextManager[Any]:
        if update == MEMORY_UPDATE:
            return memory
        return count_synchronisations(counts) if update == COUNTED_UPDATE else nullcontext()

    train(agent, UPDATES, Stopwatch(part.device, around))
    agent.env.close()
    part.add(
        "update",
        agent=algo,
        batch=agent.n_steps * agent.n_envs,
        **{
            "peak MiB": memory.mib,
            "of it the update's MiB": memory.extra_mib,
            "synchronisations": counts.total() if part.device.type == "cuda" else None,
        },
    )
    for line, count in counts.most_common():
        part.add("synchronisations of an update", agent=algo, count=count, line=line)


@contextmanager
def count_synchronisations(counts: Counter[str]) -> Iterator[None]:
    """Count, per line of our code, the operations inside the block for which the host waits for the GPU.

    torch finds most of these operations, but not all. It issues one warning per operation.
    """
    cuda = torch.cuda.is_available()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        show = warnings.showwarning

        def count(message: Warning | str, *arguments: Any, **options: Any) -> None:
            if SYNCHRONISATION in str(message):
                counts[line_of_ours(sys._getframe(1))] += 1
            else:
                show(message, *arguments, **options)

        warnings.showwarning = count
        if cuda:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            if cuda:
                torch.cuda.set_sync_debug_mode("default")


def counts_a_known_one(device: torch.device) -> bool:
    """Return whether reading a number from the GPU is counted."""
    number, counts = torch.ones(1, device=device), Counter[str]()
    with count_synchronisations(counts):
        number.item()
    return counts.total() > 0


def line_of_ours(frame: FrameType | None) -> str:
    """Return the innermost line of our packages on the stack, with its code."""
    while frame is not None and not frame.f_code.co_filename.startswith(PACKAGES):
        frame = frame.f_back
    if frame is None:
        return "outside of npg, agents and envs"
    path, number = frame.f_code.co_filename, frame.f_lineno
    code = linecache.getline(path, number).strip().replace("|", "\\|")
    return f"{Path(path).relative_to(ROOT)}:{number} `{code}`"


def compare_runs(part: Part, algo: str) -> None:
    """Report whether two training runs with the same seed end with the same bits in every tensor."""
    first, second = (final_state(part, algo) for _ in range(2))
    equal = all(torch.equal(first[name], second[name]) for name in first)
    part.add("two identical runs", agent=algo, device=str(part.device), **{"bitwise equal": equal})
    if not equal and part.device.type == "cpu":
        part.fail(f"{algo}: two runs with the same seed on the CPU differ")


def final_state(part: Part, algo: str) -> dict[str, torch.Tensor]:
    """Return the policy's tensors at the end of a short training run."""
    agent = make_agent(algo, part.device, **(DRY_SETTINGS if part.dry_run else {}))
    train(agent, UPDATES, Stopwatch(part.device))
    agent.env.close()
    return {name: value.clone() for name, value in agent.policy.state_dict().items()}
