"""Worker processes: DummyVecEnv to the bit, errors that arrive, deaths that cost nothing, nothing left."""

import contextlib
import gc
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from spaces_env import ACTIONS, OBSERVATIONS, SpacesEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env as sb3_make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from agents import TRPO
from envs.workers.worker_error import WorkerError
from envs.workers.worker_vec_env import WorkerVecEnv

REPLACED = "ignore:the worker of environments:RuntimeWarning"
TUPLE = spaces.Tuple((spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3)))


class Talkative(gym.Wrapper):
    """Adds infos of many kinds to steps and resets."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset, with the options in the info."""
        observation, _ = self.env.reset(**kwargs)
        self.steps = 0
        return observation, {"options": kwargs.get("options"), "noise": self.np_random.normal()}

    def step(self, action: Any) -> Any:
        """Step, and tell."""
        observation, reward, terminated, truncated, _ = self.env.step(action)
        self.steps += 1
        info = {"f64": np.float64(reward), "f32": np.float32(reward), "i": np.int64(self.steps), "none": None}
        return observation, reward, terminated, truncated, info | {"array": np.full(2, reward), "text": "x"}


class Moody(gym.Env):
    """Counts its steps; misbehaves as soon as `mood` says so. Action space: two buttons."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)
    mood = ""

    def __init__(self, mood: str = "") -> None:
        self.mood = mood
        self.count = 0
        if mood == "unbuildable":
            raise ValueError("no such robot")

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Show a random number."""
        super().reset(seed=seed)
        self.episode, self.count = self.np_random.normal(), 0
        return np.array([self.count, self.episode], np.float32), {"pid": os.getpid()}

    def step(self, action: Any) -> Any:
        """Count, or misbehave."""
        self.count += 1
        self.misbehave(self.mood)
        return np.array([self.count, self.episode], np.float32), 1.0, False, False, {}

    def misbehave(self, mood: str) -> int:
        """Raise, exit, die or hang; returns the process id when in a good mood."""
        if mood == "raise":
            raise ValueError("a bad mood")
        if mood == "exit":
            sys.exit(3)
        if mood == "die":
            os._exit(7)
        if mood == "hang":
            time.sleep(60)
        return os.getpid()


def moody(*moods: str, n_workers: int = 2, **kwargs: Any) -> WorkerVecEnv:
    """Return one environment a mood."""
    return WorkerVecEnv([partial(Moody, mood) for mood in moods], n_workers=n_workers, **kwargs)


def act(vec_env: VecEnv) -> Any:
    """Step with zeros."""
    return vec_env.step(np.zeros(vec_env.num_envs, np.int64))


def children() -> set[int]:
    """Return the ids of all living descendants of this process."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    found: set[int] = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_dead(pids: set[int], seconds: float = 10.0) -> None:
    """Wait for processes to end, and fails if they do not."""
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still alive: {[pid for pid in pids if alive(pid)]}"
        time.sleep(0.02)


def shared_memory() -> set[str]:
    """Return the files in /dev/shm, without semaphores of multiprocessing, which other tests use."""
    return {p.name for p in Path("/dev/shm").iterdir() if p.is_file() and not p.name.startswith("sem.mp-")}


def assert_no_more_memory(before: set[str], seconds: float = 5.0) -> None:
    """Assert that no file stays behind; those that other processes create for a moment disappear."""
    deadline = time.monotonic() + seconds
    while more := shared_memory() - before:
        assert time.monotonic() < deadline, f"left behind: {more}"
        time.sleep(0.02)


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> Iterator[None]:
    """Keep one vector open, so that all others use its fork server instead of starting theirs."""
    vec_env = moody("")
    gc.collect()
    gc.freeze()  # the tests below collect often
    yield
    gc.unfreeze()
    vec_env.close()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No test leaves a process, an open file or shared memory behind."""
    before, memory, files = children(), shared_memory(), set(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert children() <= before
    assert_no_more_memory(memory)
    assert len(os.listdir("/proc/self/fd")) <= len(files)


def assert_same(first: Any, second: Any) -> None:
    """Assert that two nested values are equal to the bit and of the same types."""
    if isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    elif isinstance(first, np.ndarray | np.generic):
        assert type(first) is type(second)
        assert first.dtype == second.dtype
        assert first.shape == second.shape
        assert first.tobytes() == second.tobytes()
    else:
        assert type(first) is type(second)
        assert first == second


def without_time(infos: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return infos without the seconds that Monitor measured."""
    for info in infos:
        info.get("episode", {}).pop("t", None)
    return infos


def history(vec_env: VecEnv, actions: list[Any]) -> list[Any]:
    """Return everything that a rollout, a second reset with options and two more steps give."""
    seen = [vec_env.reset(), list(vec_env.reset_infos)]
    for action in actions:
        observations, rewards, dones, infos = vec_env.step(action)
        seen += [observations, rewards, dones, without_time(infos), list(vec_env.reset_infos)]
    vec_env.seed(99)
    vec_env.set_options({"difficulty": 3})
    seen += [vec_env.reset(), list(vec_env.reset_infos), vec_env.step(actions[0])[0]]
    vec_env.set_options(None)
    return [*seen, vec_env.reset(), list(vec_env.reset_infos)]


SPACES = [(name, "discrete") for name in OBSERVATIONS] + [("box", name) for name in ACTIONS]


@pytest.mark.covering(1)
@pytest.mark.parametrize("n_workers", [1, 2, 5])
@pytest.mark.parametrize(("observation", "action"), [*SPACES, ("tuple", "box")])
def test_equals_dummy_vec_env_bitwise(observation: str, action: str, n_workers: int) -> None:
    """Observations, rewards, dones, infos and reset infos, in any number of workers, dividing or not."""
    observation_space = {**OBSERVATIONS, "tuple": TUPLE}[observation]
    action_space = ACTIONS[action]
    action_space.seed(0)
    n_envs = 5
    actions = [np.array([action_space.sample() for _ in range(n_envs)]) for _ in range(23)]

    def build() -> gym.Env:
        # Copies: in one process environments would draw from one space's generator.
        return Talkative(SpacesEnv(deepcopy(observation_space), action_space))

    kwargs = {"n_workers": n_workers}
    dummy = sb3_make_vec_env(build, n_envs, seed=3)
    workers = sb3_make_vec_env(build, n_envs, seed=3, vec_env_cls=WorkerVecEnv, vec_env_kwargs=kwargs)
    assert workers.observation_space == dummy.observation_space
    assert workers.action_space == dummy.action_space
    assert workers.metadata == dummy.metadata
    assert_same(history(workers, actions), history(dummy, actions))
    workers.close()


@pytest.mark.mujoco
def test_equals_dummy_vec_env_on_hopper() -> None:
    """The same, with a physics engine and with actions in another dtype than the space's."""
    actions = list(np.random.default_rng(0).uniform(-1, 1, (60, 3, 3)))
    actions[::2] = [action.astype(np.float32) for action in actions[::2]]
    make = partial(gym.make, gym.spec("Hopper-v5"))
    vec_envs = [sb3_make_vec_env(make, 3, seed=1, vec_env_cls=cls) for cls in (WorkerVecEnv, DummyVecEnv)]
    assert_same(*(history(vec_env, actions) for vec_env in vec_envs))
    vec_envs[0].close()


@pytest.mark.parametrize("last", [0, 1])
def test_the_worker_on_the_parents_core_is_woken_last(last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Woken first, it could run in the place of the parent, and the other workers would wait for it."""
    vec_env = WorkerVecEnv([partial(gym.make, "CartPole-v1")] * 2, n_workers=2)
    vec_env.reset()
    workers = vec_env._pool.workers
    woken = []
    for worker, core in zip(workers, (5, 7), strict=True):
        monkeypatch.setattr(worker, "core", core)
        send = worker.send_step
        monkeypatch.setattr(worker, "send_step", lambda b, w=worker, send=send: woken.append(w) or send(b))
    monkeypatch.setattr("envs.workers.worker_vec_env.current_core", lambda: workers[last].core)
    vec_env.step(np.array([0, 1]))
    vec_env.close()
    assert woken == [workers[1 - last], workers[last]]


def test_results_are_the_callers_to_keep() -> None:
    """Neither later steps nor resets write into what was returned, and writing into it is safe."""
    vec_env = moody("", "")
    kept = [vec_env.reset(), *(act(vec_env)[0] for _ in range(4)), vec_env.reset()]
    assert [int(observations[0, 0]) for observations in kept] == [0, 1, 2, 3, 4, 0]
    for observations in kept:
        observations[:] = np.nan
    assert act(vec_env)[0][0, 0] == 1
    vec_env.close()


def test_an_environment_may_keep_its_action() -> None:
    """An action is not a view of memory that the next step overwrites."""

    class Keeper(Moody):
        action_space = spaces.Box(-1, 1, (1,), np.float32)
        kept: tuple[np.ndarray, ...] = ()

        def step(self, action: np.ndarray) -> Any:
            self.kept = (*self.kept, action)
            return super().step(action)

    vec_env = WorkerVecEnv([Keeper], n_workers=1)  # pickled by value: a class local to a function
    vec_env.reset()
    for value in (0.25, 0.5):
        vec_env.step(np.full((1, 1), value, np.float32))
    assert [float(action[0]) for action in vec_env.get_attr("kept")[0]] == [0.25, 0.5]
    vec_env.close()


def test_attributes_methods_and_wrappers_by_index() -> None:
    """Indices reach across workers, in any order, repeated or negative; missing ones raise."""
    vec_env = WorkerVecEnv([lambda: Monitor(Moody()), *[lambda: Moody()] * 4], n_workers=2)
    vec_env.set_attr("mood", "good", indices=[3, 1])
    assert vec_env.get_attr("mood") == ["", "good", "", "good", ""]
    assert vec_env.get_attr("mood", indices=3) == ["good"]
    assert vec_env.get_attr("mood", indices=[3, 0, 3, -1]) == ["good", "", "good", ""]
    assert vec_env.env_is_wrapped(Monitor) == [True, False, False, False, False]
    assert vec_env.env_is_wrapped(Monitor, indices=[4, 0]) == [False, True]
    pids = vec_env.env_method("misbehave", mood="")
    assert pids[0] == pids[1] == pids[2] != pids[3] == pids[4]  # contiguous blocks
    assert os.getpid() not in pids
    assert vec_env.has_attr("mood")
    assert not vec_env.has_attr("colour")
    with pytest.raises(AttributeError, match="colour"):
        vec_env.get_attr("colour")
    with pytest.raises(IndexError):
        vec_env.get_attr("mood", indices=5)
    vec_env.close()


def test_images() -> None:
    """`get_images` and `render` show what a DummyVecEnv shows."""
    build = partial(gym.make, "Catch-v0", render_mode="rgb_array")
    vec_envs = [cls([build] * 3) for cls in (WorkerVecEnv, DummyVecEnv)]
    for vec_env in vec_envs:
        vec_env.seed(0)
        vec_env.reset()
    assert vec_envs[0].render_mode == "rgb_array"
    assert_same(list(vec_envs[0].get_images()), list(vec_envs[1].get_images()))
    assert_same(vec_envs[0].render(), vec_envs[1].render())
    vec_envs[0].close()


def test_vec_normalize_on_top() -> None:
    """A wrapper of SB3 computes the same statistics as over a DummyVecEnv."""
    results = []
    for cls in (WorkerVecEnv, DummyVecEnv):
        vec_env = VecNormalize(sb3_make_vec_env("CartPole-v1", 3, seed=0, vec_env_cls=cls))
        vec_env.reset()
        for _ in range(40):
            observations, rewards, _, infos = act(vec_env)
        results.append(
            [observations, rewards, vec_env.obs_rms.mean, vec_env.ret_rms.var, without_time(infos)]
        )
        vec_env.close()
    assert_same(*results)


@pytest.mark.parametrize("mood", ["raise", "exit"])
def test_an_exception_arrives_with_traceback_and_index(mood: str) -> None:
    """It names the environment and the line; its fellows can still be asked, and all be closed."""
    vec_env = moody("", "", "", mood)
    vec_env.reset()
    with pytest.raises(WorkerError, match="environment 3 raised") as caught:
        act(vec_env)
    assert caught.value.env_index == 3
    message = str(caught.value)
    assert ("ValueError: a bad mood" if mood == "raise" else "SystemExit: 3") in message
    assert "in misbehave" in message
    assert vec_env.get_attr("count") == [1, 1, 1, 1]
    vec_env.set_attr("mood", "")
    vec_env.reset()
    assert act(vec_env)[0][3, 0] == 1
    assert vec_env.replacements == 0
    vec_env.close()


def test_an_environment_that_cannot_be_built() -> None:
    """The constructor raises with index and traceback, and leaves nothing."""
    with pytest.raises(WorkerError, match=r"environment 2 raised ValueError: no such robot") as caught:
        moody("", "", "unbuildable")
    assert caught.value.env_index == 2
    assert "in __init__" in str(caught.value)


def test_one_environment_for_all_is_rejected() -> None:
    """As by DummyVecEnv: a closure over one environment would make several of it."""
    env = Moody()
    with pytest.raises(WorkerError, match="environment of its own"):
        WorkerVecEnv([lambda: env] * 2, n_workers=1)


@pytest.mark.parametrize("kwargs", [{"n_workers": 0}, {"timeout": 0.0}, {"env_fns": []}])
def test_wrong_arguments(kwargs: dict[str, Any]) -> None:
    """They are rejected before a process starts."""
    with pytest.raises(ValueError, match="expected environments"):
        WorkerVecEnv(**{"env_fns": [Moody], **kwargs})


def test_calls_out_of_order() -> None:
    """Each is rejected with what to do, and none hangs."""
    vec_env = moody("", "")
    zeros = np.zeros(2, np.int64)
    with pytest.raises(WorkerError, match=r"call reset\(\)"):
        vec_env.step(zeros)
    vec_env.reset()
    with pytest.raises(WorkerError, match=r"call step_async\(\)"):
        vec_env.step_wait()
    with pytest.raises(ValueError, match="actions of shape"):
        vec_env.step(np.zeros(3, np.int64))
    vec_env.step_async(zeros)
    with pytest.raises(WorkerError, match="pending step"):
        vec_env.step_async(zeros)
    with pytest.raises(WorkerError, match="pending step"):
        vec_env.get_attr("mood")
    assert vec_env.step_wait()[0][0, 0] == 1
    vec_env.step_async(zeros)
    assert vec_env.reset()[0, 0] == 0  # cancels the step
    vec_env.step_async(zeros)
    vec_env.close()
    vec_env.close()
    for call in (vec_env.reset, vec_env.step_wait, partial(vec_env.get_attr, "mood"), partial(act, vec_env)):
        with pytest.raises(WorkerError, match="closed"):
            call()


def kill(vec_env: WorkerVecEnv, index: int, how: int = signal.SIGKILL) -> None:
    """Send a signal to the worker of an environment."""
    os.kill(vec_env.env_method("misbehave", "", indices=index)[0], how)


def assert_cut(vec_env: WorkerVecEnv, before: np.ndarray, cut: list[int], result: Any) -> None:
    """Assert that a step cut some episodes where they were before, and that the rest went on."""
    observations, rewards, dones, infos = result
    for index in range(vec_env.num_envs):
        if index in cut:
            assert (rewards[index], dones[index]) == (0.0, True)
            assert list(infos[index]) == ["TimeLimit.truncated", "terminal_observation", "worker_replaced"]
            assert infos[index]["TimeLimit.truncated"]
            assert infos[index]["worker_replaced"]
            assert_same(infos[index]["terminal_observation"], before[index])
            assert observations[index, 0] == 0  # the first of an episode
            assert observations[index, 1] != before[index, 1]  # and of another one
        else:
            assert (rewards[index], dones[index]) == (1.0, False)
            assert infos[index] == {"TimeLimit.truncated": False}
            assert_same(observations[index], before[index] + np.float32([1, 0]))


@pytest.mark.filterwarnings(REPLACED)
def test_a_dead_worker_is_replaced_and_its_episodes_truncated() -> None:
    """Dead before the step, dead before another call, and again: each cut is told once, at the next step."""
    vec_env = moody("", "", "", "", "")
    vec_env.seed(0)
    vec_env.reset()
    before = act(vec_env)[0]
    kill(vec_env, 3)
    result = act(vec_env)
    assert_cut(vec_env, before, [3, 4], result)
    assert (vec_env.replacements, vec_env.reset_infos[3]["pid"]) == (1, vec_env.reset_infos[4]["pid"])

    kill(vec_env, 0)
    assert vec_env.get_attr("count") == [0, 0, 0, 0, 0]  # asked of the replacement
    assert_cut(vec_env, result[0], [0, 1, 2], act(vec_env))
    before = act(vec_env)[0]
    assert list(before[:, 0]) == [1, 1, 1, 2, 2]

    kill(vec_env, 0)
    first = vec_env.reset()  # tells of no cut: it begins anew anyway
    assert_cut(vec_env, first, [], act(vec_env))
    assert vec_env.replacements == 3
    vec_env.close()


@pytest.mark.filterwarnings(REPLACED)
def test_replacements_are_seeded_alike_in_every_run_and_apart_from_the_first() -> None:
    """The same death gives the same new episodes; they are not those of the dead worker."""
    runs = []
    for _ in range(2):
        vec_env = moody("", "", "")
        vec_env.seed(5)
        episodes = [vec_env.reset()[:, 1]]
        for _ in range(2):
            kill(vec_env, 0)
            episodes.append(act(vec_env)[0][:, 1])
        runs.append(np.array(episodes))
        vec_env.close()
    assert_same(*runs)
    assert len(np.unique(runs[0][:, :2])) == 6
    assert len(np.unique(runs[0][:, 2])) == 1


@pytest.mark.parametrize("how", ["stopped", "hangs"])
def test_a_worker_that_hangs_is_replaced_after_the_timeout(how: str) -> None:
    """SIGSTOP stands for blocked C code: only SIGKILL ends it."""
    vec_env = moody("", "", timeout=0.3)
    before = vec_env.reset()
    if how == "stopped":
        kill(vec_env, 1, signal.SIGSTOP)
    else:
        vec_env.set_attr("mood", "hang", indices=1)
    start = time.monotonic()
    with pytest.warns(RuntimeWarning, match=r"environments 1 to 1 did not answer for 0.3 s"):
        assert_cut(vec_env, before, [1], act(vec_env))
    assert time.monotonic() - start < 10
    before = vec_env.reset()
    assert_cut(vec_env, before, [], act(vec_env))
    vec_env.close()


class Slow(Moody):
    """Takes its time for everything, in a block more than a timeout."""

    def __init__(self, pause: float) -> None:
        super().__init__()
        self.pause = pause
        time.sleep(pause)

    def reset(self, **kwargs: Any) -> Any:
        """Wait."""
        time.sleep(self.pause)
        return super().reset(**kwargs)

    def misbehave(self, mood: str) -> int:
        """Wait, in a step or a call."""
        time.sleep(self.pause)
        return super().misbehave(mood)


def test_the_timeout_is_of_one_environment_and_not_of_a_block() -> None:
    """Building, resetting, stepping and asking five environments of 0.2 s each; the timeout is 0.6 s."""
    vec_env = WorkerVecEnv([partial(Slow, 0.2)] * 5, n_workers=1, timeout=0.6)
    start = time.monotonic()
    vec_env.reset()
    assert act(vec_env)[0][:, 0].tolist() == [1] * 5
    vec_env.env_method("misbehave", "")
    assert time.monotonic() - start > 3 * 0.9
    assert vec_env.replacements == 0
    vec_env.close()


@pytest.mark.filterwarnings(REPLACED)
@pytest.mark.parametrize("when", ["step", "reset", "call"])
def test_timeouts_of_several_workers_do_not_add_up(when: str) -> None:
    """Six stuck workers take one timeout, and their replacements start side by side."""
    vec_env = moody(*[""] * 6, n_workers=6, timeout=1.0)
    before = vec_env.reset()
    if when == "step":
        vec_env.set_attr("mood", "hang")
    else:
        for index in range(6):
            kill(vec_env, index, signal.SIGSTOP)
    start = time.monotonic()
    if when == "step":
        assert_cut(vec_env, before, list(range(6)), act(vec_env))
    elif when == "reset":
        vec_env.reset()
    else:
        assert vec_env.get_attr("count") == [0] * 6
    assert 0.9 < time.monotonic() - start < 3.5
    assert vec_env.replacements == 6
    vec_env.close()


def test_systems_without_fork_are_told_what_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows."""
    monkeypatch.delattr(os, "fork")
    with pytest.raises(NotImplementedError, match="use vec_env='dummy' or 'subproc'"):
        moody("")


@pytest.mark.filterwarnings(REPLACED)
def test_three_deaths_in_a_row_raise() -> None:
    """An environment that kills each worker does not do so for ever, and the rest can be closed."""
    vec_env = moody("", "die")
    vec_env.reset()
    act(vec_env)  # the first death
    act(vec_env)
    with pytest.raises(WorkerError, match=r"3 deaths in a row: .* 1 to 1 exited with code 7"):
        act(vec_env)
    assert vec_env.replacements == 2
    vec_env.close()
    with pytest.raises(WorkerError, match="3 deaths in a row"):
        WorkerVecEnv([lambda: os._exit(0)])


@pytest.mark.filterwarnings(REPLACED)
def test_deaths_with_steps_between_do_not_raise() -> None:
    """Only deaths in a row count."""
    vec_env = moody("", "")
    vec_env.reset()
    for _ in range(4):
        kill(vec_env, 0)
        assert act(vec_env)[2].tolist() == [True, False]
        assert act(vec_env)[2].tolist() == [False, False]
    assert vec_env.replacements == 4
    vec_env.close()


class Killer(BaseCallback):
    """Kill a random worker at random steps, and counts transitions, dones and cuts."""

    def __init__(self, kills: int, steps: int) -> None:
        super().__init__()
        generator = random.Random(0)
        self.when = set(generator.sample(range(1, steps - 1), kills))
        self.generator = generator
        self.transitions = self.cuts = 0
        self.buffers: list[int] = []

    def _on_step(self) -> bool:
        workers = self.training_env.unwrapped._pool.workers
        self.transitions += len(self.locals["infos"])
        self.cuts += sum("worker_replaced" in info for info in self.locals["infos"])
        if self.n_calls in self.when:
            os.kill(self.generator.choice(workers)._pid, signal.SIGKILL)
        return True

    def _on_rollout_end(self) -> None:
        self.buffers.append(self.model.rollout_buffer.pos * self.model.n_envs)


@pytest.mark.filterwarnings(REPLACED)
@pytest.mark.slow
def test_a_worker_killed_fifty_times_in_one_run() -> None:
    """Training ends normally, each rollout is full, and no transition is lost or counted twice."""
    n_envs, n_steps, updates = 4, 64, 8
    vec_env = sb3_make_vec_env(
        "CartPole-v1", n_envs, seed=0, vec_env_cls=WorkerVecEnv, vec_env_kwargs={"n_workers": 2}
    )
    killer = Killer(50, n_steps * updates)
    model = TRPO("MlpPolicy", vec_env, n_steps=n_steps, batch_size=64, n_critic_updates=1, seed=0)
    model.learn(n_envs * n_steps * updates, callback=killer)
    assert model.num_timesteps == killer.transitions == n_envs * n_steps * updates
    assert killer.buffers == [n_steps * n_envs] * updates
    assert vec_env.replacements == 50
    assert killer.cuts == 50 * 2
    vec_env.close()


SCRIPT = """
import os, signal, sys, time
import gymnasium as gym, numpy as np
from envs.workers.worker_vec_env import WorkerVecEnv

class Local(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2)
    pause = 0.0
    def reset(self, **kwargs):
        return np.zeros(1, np.float32), {}
    def step(self, action):
        time.sleep(self.pause)
        return np.zeros(1, np.float32), 0.0, False, False, {}
    def pid(self):
        return os.getpid()

vec_env = WorkerVecEnv([Local] * 4, n_workers=2)  # no __main__ guard, and a class of this script
vec_env.reset()
processes = [*vec_env.env_method("pid", indices=[0, 2]), vec_env._pool.workers[0]._fork_server._process.pid]
print(*processes, flush=True)
"""
ENDINGS = {
    "killed": "time.sleep(60)",
    "killed beside a fork": "if os.fork() == 0:\n    time.sleep(8)\n    os._exit(0)\ntime.sleep(60)",
    # The fork has a copy of the object, whose end must not be that of the workers.
    "ends without close": """
if os.fork() == 0:
    sys.exit()
os.wait()
vec_env.step([0] * 4)
assert not vec_env.replacements
""",
    "interrupted": """
vec_env.set_attr("pause", 0.3)
try:
    while True:
        vec_env.step(np.zeros(4, int))
except KeyboardInterrupt:
    observations, _, dones, infos = vec_env.step(np.zeros(4, int))
    assert dones.all() and all(info["worker_replaced"] for info in infos)
    vec_env.close()
    assert not any(map(os.path.exists, [f"/proc/{pid}" for pid in processes]))
""",
}


def test_collected_without_close() -> None:
    """The garbage collector ends the workers of a vector that nobody closed, cycles included."""
    vec_env = moody("", "")
    vec_env.cycle = vec_env
    pids = set(vec_env.env_method("misbehave", ""))
    assert len(pids) == 2
    del vec_env
    gc.collect()
    assert not any(alive(pid) for pid in pids)


@pytest.mark.parametrize(
    "ending", [name if name == "killed" else pytest.param(name, marks=pytest.mark.slow) for name in ENDINGS]
)
def test_nothing_outlives_the_parent(ending: str, tmp_path: Path) -> None:
    """However the parent ends, its workers and their fork server end too, and leave no memory."""
    memory = shared_memory()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + ENDINGS[ending])
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as parent:
        assert parent.stdout is not None
        pids = {int(pid) for pid in parent.stdout.readline().split()}
        assert len(pids) == 3
        if ending == "interrupted":
            time.sleep(0.5)
            for pid in (parent.pid, *pids):  # as a terminal does to the whole group, or worse
                os.kill(pid, signal.SIGINT)
        if ending.startswith("killed"):
            assert all(alive(pid) for pid in pids)
            parent.kill()
        else:
            assert parent.wait(30) == 0
        wait_until_dead(pids)
    assert_no_more_memory(memory)


@pytest.mark.filterwarnings(REPLACED)
def test_the_fork_server_may_die_too() -> None:
    """Its workers keep running, and a new one replaces those that die. Last, as the others share it."""
    vec_env = moody("", "")
    before = vec_env.reset()
    os.kill(vec_env._pool.workers[0]._fork_server._process.pid, signal.SIGKILL)
    assert_cut(vec_env, before, [], result := act(vec_env))
    kill(vec_env, 0)
    assert_cut(vec_env, result[0], [0], act(vec_env))
    vec_env.close()


@pytest.mark.filterwarnings(REPLACED)
def test_a_replacement_that_cannot_be_built_is_replaced_again(tmp_path: Path) -> None:
    """What is half ready is not asked to step or reset."""
    broken = tmp_path / "broken"
    vec_env = WorkerVecEnv([lambda: Moody("unbuildable" if broken.exists() else "")] * 2, n_workers=2)
    vec_env.reset()
    broken.touch()
    kill(vec_env, 1)
    with pytest.raises(WorkerError, match="no such robot"):
        act(vec_env)
    broken.unlink()
    vec_env.reset()
    observations = act(vec_env)[0]
    assert list(observations[:, 0]) == [1, 1]
    vec_env.close()
