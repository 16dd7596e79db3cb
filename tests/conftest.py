"""Options of the suite: its processes and threads, and what it skips."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from covering import choose_covering

# Torch and NumPy read it when they are imported; test processes and subprocesses inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
# A shell's background job ignores Ctrl-C, and so would the subprocesses that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The processes of SubprocVecEnv import SB3 once, not once each.
multiprocessing.set_forkserver_preload(["envs"])

MOST_PROCESSES = 8  # each needs up to 1.5 GB with the runs that it starts, and more gain little


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the conformance suite be pointed at any SB3 algorithm."""
    parser.addoption(
        "--algorithm",
        action="append",
        metavar="MODULE:CLASS",
        help="run tests/agents/conformance on this on-policy SB3 algorithm in place of ours; repeatable",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite in one process per core, and everything else in this process.

    `-n` is not in addopts: a test that is named on the command line starts sooner in one process, where
    `--pdb`, `-s` and breakpoints work, and `-p no:xdist` would be an error. An `-n` on the command line
    overrides this; `-n 0` runs the whole suite in this process. Work stealing gives each process a contiguous
    part of the suite, so that the fixtures of a module are rarely made twice.
    """
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    in_worker = "PYTEST_XDIST_WORKER" in os.environ
    if not whole or in_worker or config.option.usepdb or not config.pluginmanager.has_plugin("xdist"):
        return
    if config.option.numprocesses is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        config.option.numprocesses = min(cores, MOST_PROCESSES)
    if config.option.dist == "no":
        config.option.dist = "worksteal"


@pytest.hookimpl(tryfirst=True)  # before slow tests are deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what a test marked `covering` can do without; skip what needs a CUDA device."""
    tests: dict[Any, list[pytest.Function]] = {}
    for item in items:
        others = item.get_closest_marker("slow") or item.get_closest_marker("gpu")
        if item.get_closest_marker("covering") and not others:
            tests.setdefault((item.path, item.function), []).append(item)
    for cases in tests.values():
        (strength,) = cases[0].get_closest_marker("covering").args
        chosen = choose_covering([case.callspec.params for case in cases], strength)
        for i in set(range(len(cases))) - chosen:
            cases[i].add_marker(pytest.mark.slow)

    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="module", autouse=True)
def _kept_fork_server() -> Iterator[None]:
    """Let the tests of a file share the process from which workers are forked, whose start takes 2 s.

    Without this, it ends with its last worker. A test that changes what the process inherits, e.g. the
    current folder, gets a new one.
    """
    module = sys.modules.get("envs.workers.fork_server")
    if module is None:  # a test that starts workers imports it
        yield
        return
    kept: dict[str, Any] = {}
    shared = module.ForkServer.shared

    def keep(cls: type) -> Any:
        environ = {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}
        inherited = repr((os.getcwd(), sys.path, environ))
        if inherited not in kept:
            kept.clear()
            kept[inherited] = shared()
        return shared()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.ForkServer, "shared", classmethod(keep))
        yield
    kept.clear()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small matrices gain nothing from threads, and on one thread every floating-point sum is repeatable."""
    import torch

    torch.set_num_threads(1)
