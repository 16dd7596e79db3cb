"""A process that has imported the commands once, and forks one for every hostile folder.

    PYTHONPATH=.:tests python -m faults.hostile_server

A request is {"argv", "output", "seconds"}, in JSON on a line; the reply has the exit code (null after so many
seconds), the seconds of CPU that it took and the peak memory in bytes.
"""

import gc
import json
import os
import resource
import signal
import sys
import time
import traceback
from contextlib import suppress
from typing import Any

import torch._dynamo  # noqa: F401  # the first optimizer imports it

import experiments.evaluate
import experiments.train
from experiments.command import main

with suppress(ImportError):  # extras
    import experiments.export
    import experiments.report.command
    import experiments.report.figures
    import experiments.report.report_page  # noqa: F401


def serve() -> None:
    """Answer until the other side closes."""
    gc.freeze()
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        begun = time.monotonic()
        if (child := os.fork()) == 0:
            os._exit(run(**request))
        status, usage = wait(child, begun + request["seconds"])
        reply = {"code": status, "seconds": usage.ru_utime + usage.ru_stime, "memory": usage.ru_maxrss * 1024}
        print(json.dumps(reply), flush=True)


def run(argv: list[str], output: str, **_: Any) -> int:
    """Do what `npg ARGV` does; return the exit code."""
    opened = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    null = os.open(os.devnull, os.O_RDONLY)
    for descriptor, source in ((0, null), (1, opened), (2, opened)):
        os.dup2(source, descriptor)
    code = 1
    try:
        code = main(argv)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def wait(child: int, deadline: float) -> tuple[int | None, resource.struct_rusage]:
    """Return how a process ended and what it took; kill it at the deadline, which counts as no code."""
    late = False
    while True:
        ended, status, usage = os.wait4(child, 0 if late else os.WNOHANG)
        if ended:
            return None if late else os.waitstatus_to_exitcode(status), usage
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            late = True
        time.sleep(0.002)


if __name__ == "__main__":
    serve()
