"""A process that has imported train.py once, and forks a run of it on demand.

    PYTHONPATH=.:tests python -m faults.server

A run then begins in milliseconds in place of the seconds that its imports take, which makes hundreds of
kills affordable. Requests and replies are JSON, one a line: {"command", "argv", "faults", "environ",
"output", "phases"} starts a run and is answered by its process id; {"wait": pid, "seconds": s} by its exit
code, or null where it runs on.
"""

import atexit
import gc
import json
import os
import sys
import time
import traceback
from contextlib import suppress
from typing import Any

import torch._dynamo  # noqa: F401  # the first optimizer imports it, in a second and a half
from faults.injection import arm
from faults.phases import Phases

import experiments.evaluate
import experiments.train  # noqa: F401
from experiments.command import main

with suppress(ImportError):
    import gymnasium.envs.mujoco.hopper_v5  # noqa: F401


def serve() -> None:
    """Answer until the other side closes."""
    gc.freeze()  # a fork's collector then leaves the shared pages alone
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        if "wait" in request:
            reply = wait(**request)
        elif (reply := os.fork()) == 0:
            end(run(request))
        print(json.dumps(reply), flush=True)


def run(request: dict[str, Any]) -> int:
    """Do what `python train.py ARGV` or another command does, with faults; return the exit code."""
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    for descriptor, source in ((0, null), (1, output), (2, output)):
        os.dup2(source, descriptor)
    os.environ |= request["environ"]
    os.setpgid(0, 0)
    if request["phases"]:
        Phases.watch(request["phases"])
    arm(request["faults"])
    try:
        return main([request["command"], *request["argv"]])
    except Exception:
        traceback.print_exc()
        return 1


def end(code: int) -> None:
    """End as an interpreter does, less the two seconds in which it clears its memory."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wait(wait: int, seconds: float) -> int | None:
    """Return how a run ended, negative for a signal, or None if it did not within these seconds."""
    deadline = time.monotonic() + seconds
    while not (ended := os.waitpid(wait, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            return None
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(ended[1])


if __name__ == "__main__":
    serve()
