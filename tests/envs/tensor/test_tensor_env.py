"""What every tensor environment promises: no read by the host, states in place, seeds, and full states."""

from typing import Any

import pytest
import torch
from device_guard import DeviceGuard
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from envs import TensorEnv, TensorStep, UnknownEnvironmentError, make_tensor_env, make_vec_env
from envs.tensor.mujoco.mujoco_task import MujocoTask
from envs.tensor.registry import TENSOR_ENVS
from envs.tensor.tensor_task import TensorTask

ROBOTS = sorted(name for name, task in TENSOR_ENVS.items() if issubclass(task, MujocoTask))  # type: ignore[arg-type]
TASKS = sorted(TENSOR_ENVS.keys() - set(ROBOTS))
TASKS_AND_ROBOTS = [*TASKS, *(pytest.param(name, marks=pytest.mark.slow) for name in ROBOTS)]
FIELDS = tuple(TensorStep.__annotations__)
# They read a number, or have a result whose shape the host must know.
READS = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::is_nonzero",
    "aten::nonzero",
    "aten::masked_select",
}


class NoReads(TorchDispatchMode):
    """Makes a read by the host an error."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run anything else."""
        assert func.name() not in READS, f"{func.name()} reads from the device"
        return func(*args, **(kwargs or {}))


def actions_for(env: TensorEnv, seed: int = 0) -> Tensor:
    """Return random actions."""
    env.action_space.seed(seed)
    actions = [torch.as_tensor(env.action_space.sample()) for _ in range(env.num_envs)]
    return torch.stack(actions).to(env.device)


def make(name: str, n: int = 4, **kwargs: Any) -> TensorTask:
    """Return environments with short episodes; skip the test if they need a package that is not installed."""
    if name in ROBOTS:
        pytest.importorskip("mujoco_warp")
    env = make_tensor_env(name, n, **{"seed": 0, "max_episode_steps": 5, **kwargs})
    assert isinstance(env, TensorTask)
    return env


def walk(env: TensorEnv, steps: int = 12) -> list[Tensor]:
    """Return everything that some steps return."""
    step_results = (env.step(actions_for(env, seed)) for seed in range(steps))
    return [getattr(step, name) for step in step_results for name in FIELDS]


def assert_equal(left: list[Tensor], right: list[Tensor]) -> None:
    """Compare bit for bit."""
    assert len(left) == len(right)
    assert all(
        one.dtype == other.dtype and torch.equal(one, other) for one, other in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("name", TASKS_AND_ROBOTS)
def test_no_step_reads_from_the_device(name: str) -> None:
    """Neither a number nor a count, also where episodes end."""
    env = make(name)
    actions = actions_for(env)
    with NoReads():
        env.reset()
        for _ in range(7):
            env.step(actions)


@pytest.mark.parametrize("name", TASKS)
def test_a_step_runs_on_the_device_alone(name: str) -> None:
    """On the meta device, which has no numbers, and where no tensor may come from the CPU."""
    env = make(name, device="meta")
    actions = actions_for(env)
    with DeviceGuard():
        env.reset()
        step = env.step(actions)
    assert {getattr(step, field).device.type for field in FIELDS} == {"meta"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", TASKS)
def test_shapes_and_types(name: str, dtype: torch.dtype) -> None:
    """Floats have the environments' type, whatever that of the actions; all else is the space's."""
    env = make(name, dtype=dtype)
    space = env.observation_space
    expected = dtype if torch.empty(0, dtype=dtype).numpy().dtype.kind == space.dtype.kind else None
    actions = actions_for(env)
    for given in (actions, actions.double() if actions.is_floating_point() else actions.int()):
        step = env.step(given)
        for observations in (step.observations, step.final_observations, env.reset()):
            assert observations.shape == (4, *space.shape)
            assert observations.dtype == (expected or torch.as_tensor(space.sample()).dtype)
        assert step.rewards.dtype == dtype and step.rewards.shape == (4,)
        for flag in (step.terminated, step.truncated):
            assert flag.dtype == torch.bool and flag.shape == (4,)


@pytest.mark.parametrize("name", TASKS_AND_ROBOTS)
def test_results_are_new_and_the_state_stays_where_it_is(name: str) -> None:
    """A CUDA graph replays a step on the same memory; what a step returned must not change later."""
    env = make(name)
    places = env.state.data_ptr(), env.elapsed.data_ptr()
    first = env.reset()
    results = [first, *walk(env, 1)]
    copies = [each.clone() for each in results]
    walk(env)
    assert_equal(results, copies)
    state = env.state_dict()
    for each in results:
        each.fill_(1)
    assert_equal([*env.state_dict().values()], [*state.values()])
    env.load_state_dict(state)
    env.reset()
    assert (env.state.data_ptr(), env.elapsed.data_ptr()) == places


@pytest.mark.parametrize("name", TASKS_AND_ROBOTS)
def test_a_state_is_complete(name: str) -> None:
    """From it, other environments of the task make the same steps, bit for bit; it is a copy."""
    env, other = make(name), make(name, seed=1)
    walk(env, 3)
    state = env.state_dict()
    expected = walk(env)
    other.load_state_dict(state)
    assert_equal(walk(other), expected)


@pytest.mark.parametrize("name", TASKS_AND_ROBOTS)
def test_seeds(name: str) -> None:
    """Equal seeds give equal walks, at construction and later."""
    env, other = make(name, seed=7), make(name, seed=8)
    env.reset()
    first = walk(env)
    other.reset()
    for each in (env, other):
        each.seed(7)
        each.reset()
    second = walk(env)
    assert_equal(walk(other), second)
    again = make(name, seed=7)
    again.reset()
    assert_equal(walk(again), first)


def test_environments_have_their_own_random_numbers() -> None:
    """Of one seed and of two; an unknown seed is random."""
    first = make("CartPole-v1").reset()
    assert len(torch.unique(first, dim=0)) == 4
    assert not torch.equal(first, make("CartPole-v1", seed=1).reset())
    assert not torch.equal(make("CartPole-v1", seed=None).reset(), make("CartPole-v1", seed=None).reset())


def test_a_state_of_other_environments_is_rejected() -> None:
    """Another number of them, or another task, which says how to make them."""
    state = make("CartPole-v1").state_dict()
    for other in (make("CartPole-v1", 3), make("Pendulum-v1"), make("CartPole-v1", dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"expected state .* got \(4, 4\).*make the environments with"):
            other.load_state_dict(state)


def test_unknown_tasks_name_those_that_exist() -> None:
    """The error lists them and says what to do."""
    with pytest.raises(
        UnknownEnvironmentError, match=r"Acrobot-v1, Ant-v5, CartPole-v1.*vec_env='auto'.*register_tensor_env"
    ):
        make_vec_env("CliffWalking-v1", 2, vec_env="tensor")
    with pytest.raises(UnknownEnvironmentError, match="did you mean 'CartPole-v1'"):
        make_vec_env("CartPole-v7", 2, vec_env="tensor")


@pytest.mark.gpu
@pytest.mark.parametrize("name", TASKS_AND_ROBOTS)
def test_a_captured_step_is_the_eager_one(name: str) -> None:
    """A CUDA graph of one step gives what the same steps give without it."""
    eager, captured = make(name, device="cuda"), make(name, device="cuda")
    actions = actions_for(eager)
    for env in (eager, captured):
        env.step(actions)  # loads kernels
        env.seed(3)
        env.reset()
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(captured.generator)
    with torch.cuda.graph(graph):
        results = captured.step(actions)
    captured.load_state_dict(eager.state_dict())
    for _ in range(12):
        expected = eager.step(actions)
        graph.replay()
        for field in FIELDS:
            torch.testing.assert_close(getattr(results, field), getattr(expected, field))
