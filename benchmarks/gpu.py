r"""Verify and measure everything on a GPU, in under ten minutes.

    python benchmarks/gpu.py --out gpu.jsonl           # all parts
    python benchmarks/gpu.py --parts 1 3               # some of them
    python benchmarks/gpu.py --dry-run                 # all parts on the CPU at small sizes, in seconds

| part | what                                                                              |
|------|-----------------------------------------------------------------------------------|
| 1    | device, driver, versions; throughput of matrix products and copies                |
| 2    | the tests marked `gpu`                                                            |
| 3    | products with the Fisher matrix and CG, ours and sb3-contrib's                    |
| 4    | updates of every agent, and its training on CartPole-v1 to a return of 475        |
| 5    | memory and host synchronisations of an update; comparison of two identical runs   |
| 6    | the choice of `device="auto"`, and which device is faster                         |
| 7    | captured and eager steps compared                                                 |
| 8    | training in tensor environments, which never leaves the device                    |

Each part prints tables and appends one line of JSON to --out as soon as it ends. Every part has a time
budget: it measures small sizes first and reports what it left out. If a part raises, the error is reported,
the next part still runs, and the exit code is 1. docs/gpu.md explains the numbers.

The command runs from a plain checkout. It needs Python 3.12 (or 3.11), torch 2.8 or later, NumPy, SciPy,
tensorboard and pytest. A machine that has only these, and no network, lacks 11 wheels, 2.5 MB in total:
gymnasium, farama-notifications, cloudpickle, stable-baselines3, sb3-contrib, tyro, docstring-parser,
typeguard, PyYAML, safetensors, tqdm. pygame, MuJoCo, pandas and matplotlib are not needed. On a machine with
a network, run

    pip download -d wheels -c constraints.txt --no-deps --only-binary=:all: \
        --python-version 3.12 --implementation cp --platform manylinux_2_28_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
        gymnasium farama-notifications cloudpickle stable-baselines3 sb3-contrib \
        tyro docstring-parser typeguard PyYAML safetensors tqdm

and on the machine with the GPU, in the root of the checkout (this does not change the installed packages):

    pip install --no-index --no-deps --target site-packages wheels/*.whl
    PYTHONPATH=$PWD/site-packages python benchmarks/gpu.py --out gpu.jsonl
"""

import importlib
import json
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the packages of this checkout, installed or not

import torch
import tyro
from gpu_parts.part import Part
from gpu_parts.timing import release_memory
from measurement import environment, progress


@dataclass(frozen=True)
class Measurement:
    """One part: its title, its function as "module:function" of gpu_parts, its budget in seconds."""

    title: str
    function: str
    budget: float


INTERRUPTED = 130

# A part may exceed its budget by one measurement. All parts together get `Arguments.seconds`.
PARTS = {
    1: Measurement("Machine", "machine:measure_machine", 20),
    2: Measurement("GPU tests", "gpu_tests:run_gpu_tests", 100),
    3: Measurement("Fisher products", "products:measure_products", 150),
    4: Measurement("Agents", "training:measure_training", 120),
    5: Measurement("Updates", "updates:measure_updates", 60),
    6: Measurement("device=auto", "auto:measure_choice", 60),
    7: Measurement("Captured steps", "captured:compare_captured", 90),
    8: Measurement("Tensor environments", "tensor_envs:measure_tensor_envs", 60),
}


@dataclass(frozen=True)
class Arguments:
    """Measure."""

    parts: tuple[int, ...] = tuple(PARTS)
    """Run these parts."""
    dry_run: bool = False
    """Run on the CPU at small sizes, which only shows that the command works."""
    device: str = "cuda"
    """The GPU; the dry run ignores it."""
    seconds: float = 540
    """Time for all parts together. If earlier parts exceed their budget, later ones get less than theirs."""
    out: Path | None = None
    """Append a line of JSON per part to this file."""


def main(arguments: Arguments) -> int:
    """Run the parts and return the exit code."""
    unknown = sorted(set(arguments.parts) - set(PARTS))
    if unknown:
        print(f"error: there are no parts {unknown}; choose from {sorted(PARTS)}", file=sys.stderr)
        return 2
    device = torch.device("cpu" if arguments.dry_run else arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("error: no CUDA device; try all parts on the CPU with --dry-run", file=sys.stderr)
        return 2
    if arguments.dry_run:
        torch.set_num_threads(1)  # the sizes are small, and other programs may use the cores
    start, failed = time.monotonic(), []
    torch.zeros(1, device=device)  # starts CUDA
    for number in arguments.parts:
        left = arguments.seconds - (time.monotonic() - start)
        measurement = PARTS[number]
        budget = max(min(measurement.budget, left), 0)
        part = Part(measurement.title, device, dry_run=arguments.dry_run, budget=budget)
        try:
            succeeded = run_part(number, part, measurement.function, arguments.out)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        if not succeeded:
            failed.append(number)
        release_memory(device)
    print(f"\n{time.monotonic() - start:.0f} s in all; failed parts: {failed or 'none'}")
    return 1 if failed else 0


def run_part(number: int, part: Part, function: str, out: Path | None) -> bool:
    """Run a part, print and write its results, and return whether it succeeded.

    Raises:
        KeyboardInterrupt: the part was interrupted. Its results so far are printed and written.
    """
    progress(f"part {number}: {part.title}")
    error, status = None, "interrupted"
    try:
        module, _, name = function.partition(":")
        getattr(importlib.import_module(f"gpu_parts.{module}"), name)(part)
        status = "failed" if part.failures else "ok" if part.complete else "incomplete"
    except Exception:
        error, status = traceback.format_exc(), "failed"
    finally:
        print(f"\n## Part {number}: {part.title} ({status}, {part.seconds:.1f} s)\n\n{part.text()}")
        if error is not None:
            print(f"\n{error}")
        sys.stdout.flush()
        write_line(out, number, part, status, error)
    return status != "failed"


def write_line(out: Path | None, number: int, part: Part, status: str, error: str | None) -> None:
    """Append a part's results to the file."""
    if out is None:
        return
    document = {"benchmark": "gpu", "part": number, "status": status, **part.document(), "traceback": error}
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        file.write(
            json.dumps(document | {"environment": environment()}, default=str, ensure_ascii=False) + "\n"
        )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that an interrupted part is written
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
