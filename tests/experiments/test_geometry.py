"""The geometry callback measures any policy, and changes nothing."""

import copy
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from spaces_env import ACTIONS, OBSERVATIONS, SpacesEnv, policy_for
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Figure, KVWriter, Logger, configure
from torch import Tensor, nn

from agents import TRPO
from agents.policy.distributions import HEADS
from agents.rollout.batch import Batch
from experiments.geometry import GeometryCallback, probed_diagonal, read
from experiments.spectrum_figure import draw
from npg import EmpiricalFisher, ExactFisher
from npg.fisher.diagonal import DiagonalFisher
from npg.geometry.spectrum import Estimate, Spectrum, spectrum

SCALARS = {
    "parameters",
    "states",
    "damping",
    "largest_eigenvalue",
    "smallest_eigenvalue",
    "condition",
    "trace",
    "trace_se",
    "effective_dimension",
    "effective_dimension_se",
    "empirical_gap",
    "empirical_gap_se",
    "hessian_gap",
    "hessian_gap_se",
    "off_diagonal_mass",
    "off_diagonal_mass_se",
}
SMALL = {"n_steps": 32, "batch_size": 32, "n_critic_updates": 1, "seed": 0, "device": "cpu"}


class Memory(KVWriter):
    """Store every row, with the keys that other writers exclude."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.excluded: dict[str, tuple[str, ...]] = {}

    def write(self, key_values: dict, key_excluded: dict, step: int = 0) -> None:
        """Keep one row."""
        self.rows.append(dict(key_values))
        self.excluded |= {key: value or () for key, value in key_excluded.items()}

    def close(self) -> None:
        """Nothing is open."""

    def geometry(self) -> list[dict[str, Any]]:
        """Return the geometry of every row that has one."""
        cut = [
            {k.removeprefix("npg/geometry/"): v for k, v in row.items() if k.startswith("npg/geometry/")}
            for row in self.rows
        ]
        return [row for row in cut if row]


def run(agent: Any, callback: BaseCallback, rollouts: int = 1) -> Memory:
    """Train for some rollouts and return what was logged."""
    memory = Memory()
    agent.set_logger(Logger(None, [memory]))
    agent.learn(rollouts * agent.n_steps * agent.n_envs, callback, log_interval=1)
    return memory


def spaces_agent(observations: str, actions: str, **kwargs: Any) -> TRPO:
    """Return a small agent on the named spaces."""
    env = make_vec_env(lambda: SpacesEnv(OBSERVATIONS[observations], ACTIONS[actions]), 2, seed=0)
    return TRPO(
        policy_for(OBSERVATIONS[observations]), env, **{**SMALL, "n_steps": 8, "batch_size": 16, **kwargs}
    )


def check(row: dict[str, Any]) -> None:
    """Assert that a row is complete and sound."""
    assert set(row) == SCALARS | {"spectrum"}
    assert all(math.isfinite(row[name]) for name in SCALARS)
    assert 0 < row["effective_dimension"] <= row["parameters"]
    assert row["largest_eigenvalue"] > 0 and row["condition"] >= 1
    assert row["empirical_gap"] > 0 and row["hessian_gap"] > 0


# --- only looking ----------------------------------------------------------------------------------


def test_training_is_the_same_to_the_last_bit() -> None:
    """TRPO on CartPole with and without: equal weights, optimiser, buffer and global random numbers after."""
    agents, states = [], []
    for callback in (None, GeometryCallback(every=2)):
        agent = TRPO("MlpPolicy", make_vec_env("CartPole-v1", 2, seed=0), **SMALL)
        agent.learn(256, callback)
        agents.append(agent)
        states.append((torch.get_rng_state(), np.random.get_state()[1]))  # noqa: NPY002
    plain, watched = (agent.policy.state_dict() for agent in agents)
    assert all(torch.equal(plain[name], watched[name]) for name in plain)
    for name in ("observations", "actions", "advantages", "log_probs"):
        arrays = [getattr(agent.rollout_buffer, name) for agent in agents]
        assert np.array_equal(*arrays)
    assert torch.equal(states[0][0], states[1][0]) and np.array_equal(states[0][1], states[1][1])


class Bystander(BaseCallback):
    """Compare everything that a measurement could change, before and after it."""

    def __init__(self, look: GeometryCallback):
        super().__init__()
        self.look, self.looks = look, 0

    def _init_callback(self) -> None:
        self.look.init_callback(self.model)

    def _on_step(self) -> bool:
        return True

    def snapshot(self) -> list[Any]:
        """Return copies of what must stay."""
        policy, buffer = self.model.policy, self.model.rollout_buffer
        return [
            [t.clone() for t in policy.state_dict().values()],
            [p.grad for p in policy.parameters()],
            [module.training for module in policy.modules()],
            [p.requires_grad for p in policy.parameters()],
            {k: id(v) for k, v in vars(policy.action_dist).items()},
            copy.deepcopy(vars(buffer)),
            torch.get_rng_state(),
            np.random.get_state()[1],  # noqa: NPY002
        ]

    def _on_rollout_end(self) -> None:
        for training in (True, False):
            for module in list(self.model.policy.modules())[::2]:
                module.training = training
            before = self.snapshot()
            self.look._rollouts = 0
            self.look.on_rollout_end()
            equal_trees(self.snapshot(), before)
            self.looks += 1


def equal_trees(a: Any, b: Any) -> None:
    """Assert that nested containers hold equal values."""
    if isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        assert np.array_equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            equal_trees(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            equal_trees(x, y)
    elif type(a).__eq__ is not object.__eq__:
        assert a == b


@pytest.mark.parametrize("sde", [False, True])
def test_a_look_leaves_everything_as_it_was(sde: bool) -> None:
    """Weights, gradients, modes, SB3's distribution object, the buffer and both global generators stay."""
    agent = spaces_agent("dict", "box", use_sde=sde)
    bystander = Bystander(GeometryCallback(probes=1, steps=2))
    run(agent, bystander)
    assert bystander.looks == 2


# --- what is logged --------------------------------------------------------------------------------


def test_it_is_the_geometry_of_the_coming_update() -> None:
    """The numbers are those of the policy and the states that the update, right after, begins with."""
    damping = 0.03
    env, kwargs = make_vec_env("CartPole-v1", 2, seed=0), {"net_arch": [16]}
    agent = TRPO("MlpPolicy", env, **SMALL, cg_damping=damping, policy_kwargs=kwargs)
    expected = []
    step = TRPO.policy_step

    def spy(self: TRPO, batch: Batch, objective: Any) -> Any:
        eigenvalues = torch.linalg.eigvalsh(ExactFisher(self.actor, batch.observations).to_dense().double())
        expected.append((eigenvalues[-1].item(), eigenvalues.clamp(min=0)))
        return step(self, batch, objective)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TRPO, "policy_step", spy)
        rows = run(agent, GeometryCallback(every=2, steps=60, probes=16), rollouts=3).geometry()
    assert len(expected) == 3 and len(rows) == 2
    for row, (largest, eigenvalues) in zip(rows, expected[::2], strict=True):
        check(row)
        assert row["damping"] == damping and row["states"] == 64
        assert row["largest_eigenvalue"] == pytest.approx(largest, rel=1e-4)
        assert row["condition"] == pytest.approx((largest + damping) / damping, rel=1e-3)
        exact = (eigenvalues / (eigenvalues + damping)).sum().item()
        assert abs(row["effective_dimension"] - exact) <= 4 * row["effective_dimension_se"]
        assert abs(row["trace"] - eigenvalues.sum().item()) <= 4 * row["trace_se"]


def test_a_gaussians_scale_is_a_block_of_its_own() -> None:
    """Where mean and log_std are the only blocks, nothing lies between them."""
    agent = spaces_agent("box", "box", policy_kwargs={"net_arch": []})
    (row,) = run(agent, GeometryCallback()).geometry()
    assert row["off_diagonal_mass"] == 0 and row["off_diagonal_mass_se"] == 0


@pytest.mark.covering(1)
@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("observations", ["box", "discrete", "image_last", "dict"])
def test_every_kind_of_space(observations: str, actions: str) -> None:
    """Observations of every kind with actions of every kind."""
    agent = spaces_agent(observations, actions)
    (row,) = run(agent, GeometryCallback(probes=2, steps=3, max_states=8)).geometry()
    check(row)


@pytest.mark.parametrize("name", HEADS)
def test_every_distribution(name: str) -> None:
    """Npg's own in SB3's policies."""
    agent = spaces_agent("box", "box", policy_kwargs={"distribution": name})
    (row,) = run(agent, GeometryCallback(probes=2, steps=3, max_states=8)).geometry()
    check(row)


@pytest.mark.parametrize("squash", [False, True])
def test_gsde(squash: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """State-dependent exploration; of actions squashed into a box, the scores are those before the tanh."""
    seen = []

    def spy(actor: nn.Module, observations: Any, actions: Tensor) -> EmpiricalFisher:
        seen.append(actions)
        return EmpiricalFisher(actor, observations, actions)

    monkeypatch.setattr("experiments.geometry.EmpiricalFisher", spy)
    agent = spaces_agent("box", "box", use_sde=True, policy_kwargs={"squash_output": squash})
    (row,) = run(agent, GeometryCallback()).geometry()
    check(row)
    (actions,) = seen
    stored = torch.from_numpy(agent.rollout_buffer.actions)
    torch.testing.assert_close(torch.tanh(actions) if squash else actions, stored, rtol=1e-4, atol=1e-5)


def test_other_algorithms_are_looked_at_too() -> None:
    """SB3's PPO has no damping of its own: 0.1. An off-policy algorithm is rejected."""
    env = make_vec_env("CartPole-v1", 1, seed=0)
    agent = stable_baselines3.PPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1, device="cpu")
    (row,) = run(agent, GeometryCallback()).geometry()
    check(row)
    assert row["damping"] == 0.1
    with pytest.raises(TypeError, match="on-policy algorithm, got DQN"):
        stable_baselines3.DQN("MlpPolicy", env, device="cpu").learn(1, GeometryCallback())


@pytest.mark.parametrize("actions", ACTIONS)
def test_the_probed_diagonal_is_right(actions: str) -> None:
    """Its entries err by at most √2 of themselves over √probes, and not all to one side."""
    agent = spaces_agent("box", actions)
    states = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    exact = DiagonalFisher(agent.actor, states).diagonal
    live = exact > 1e-6 * exact.max()
    probed = probed_diagonal(agent.actor, states, 400)
    assert not probed[~live].gt(1e-5 * exact.max()).any()
    error = probed[live] / exact[live] - 1
    assert error.square().mean().sqrt() < 1.2 * math.sqrt(2 / 400)
    assert error.mean().abs() < 0.05


def test_gsde_of_another_algorithm_stays_as_sb3_has_it() -> None:
    """Our Fisher matrix differentiates gSDE's variance by the features; SB3's own updates go on without."""
    env = make_vec_env(lambda: SpacesEnv(OBSERVATIONS["box"], ACTIONS["box"]), 1, seed=0)
    agent = stable_baselines3.A2C("MlpPolicy", env, n_steps=8, use_sde=True, device="cpu")
    check(run(agent, GeometryCallback()).geometry()[0])
    assert agent.policy.action_dist.learn_features is False


def test_numbers_that_are_not_finite_do_not_end_a_run() -> None:
    """A Fisher matrix that overflows costs a row of geometry and a warning, not the run."""
    agent = spaces_agent("box", "box")
    with torch.no_grad():
        agent.policy.log_std.fill_(-60.0)  # 1/σ² overflows in single precision
    with pytest.warns(UserWarning, match="no geometry at step 16: .*not finite"):
        memory = run(agent, GeometryCallback())
    assert memory.geometry() == [] and agent.num_timesteps == 16


@pytest.mark.parametrize(
    "options", [{"every": 0}, {"max_states": 0}, {"steps": 0}, {"probes": 0}, {"damping": 0.0}]
)
def test_options_out_of_range_are_rejected(options: dict) -> None:
    """At construction, by name."""
    with pytest.raises(ValueError, match=f"needs.*{next(iter(options))}"):
        GeometryCallback(**options)


# --- reading the rollout ---------------------------------------------------------------------------


class Reader(BaseCallback):
    """Reads the rollout at its end."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        space, buffer = self.model.action_space, self.model.rollout_buffer
        self.parts = [read(buffer, space, most) for most in (10_000, 16, 5, 1)]


@pytest.mark.parametrize("actions", ACTIONS)
def test_read_gives_the_batch_in_order(actions: str) -> None:
    """The states, actions and log-probabilities belong together, and are those of the batch."""
    agent, reader = spaces_agent("dict", actions), Reader()
    agent.learn(16, reader)
    batch = Batch.from_buffer(agent.rollout_buffer, agent.action_space)
    whole, again, fifth, one = reader.parts
    observations, taken, log_prob = whole
    assert len(taken) == len(again[1]) == 16 and len(fifth[1]) == 4 and len(one[1]) == 1
    order = [
        ((batch.observations["vector"] - v).abs().sum(1)).argmin().item() for v in observations["vector"]
    ]
    assert sorted(order) == list(range(16))
    for key, value in observations.items():
        assert torch.equal(value, batch.observations[key][order])
        assert torch.equal(fifth[0][key], value[::4])
    assert torch.equal(taken, batch.actions[order]) and taken.dtype is batch.actions.dtype
    assert torch.equal(log_prob, batch.old_log_prob[order])


# --- the figure ------------------------------------------------------------------------------------


def test_the_figure_is_for_tensorboard_alone(tmp_path: Path) -> None:
    """All of SB3's writers take the row; the event file holds the image."""
    pytest.importorskip("matplotlib")
    agent, memory = spaces_agent("box", "box"), Memory()
    logger = configure(str(tmp_path), ["stdout", "log", "csv", "json", "tensorboard"])
    agent.set_logger(Logger(str(tmp_path), [*logger.output_formats, memory]))
    agent.learn(16, GeometryCallback())
    agent.logger.close()
    assert isinstance(memory.geometry()[0]["spectrum"], Figure)
    assert set(memory.excluded["npg/geometry/spectrum"]) == {"stdout", "log", "csv", "json"}
    assert "npg/geometry/trace," in (tmp_path / "progress.csv").read_text().splitlines()[0] + ","
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["images"] == ["npg/geometry/spectrum"]
    assert "npg/geometry/effective_dimension" in events.Tags()["scalars"]


def test_without_matplotlib_there_are_numbers_and_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scalars come all the same; the warning names the extra and comes once."""
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.warns(UserWarning, match=r"figures") as caught:
        rows = run(spaces_agent("box", "box"), GeometryCallback(every=1), rollouts=2).geometry()
    assert len([w for w in caught if "matplotlib is missing" in str(w.message)]) == 1
    assert [set(row) for row in rows] == [SCALARS, SCALARS]


def test_the_density_integrates_to_the_eigenvalues() -> None:
    """The curve's area, over decades, is the number of eigenvalues that are not 0; the rest is counted."""
    pytest.importorskip("matplotlib")
    values = torch.tensor([[0.0, 0.01, 1.0]]).double()
    found = Spectrum(100, values, torch.tensor([[0.5, 0.3, 0.2]]).double())
    (axes,) = draw(found, 0.1, Estimate(20.0, 1.0)).axes
    curve = axes.lines[0]
    area = np.trapezoid(curve.get_ydata(), np.log10(curve.get_xdata()))
    assert area == pytest.approx(50, rel=1e-3)
    assert axes.get_title() == "100 parameters, effective dimension 20.0 ± 1.0, 50 eigenvalues at 0"
    assert list(axes.lines[1].get_xdata()) == [0.1, 0.1]


def test_a_matrix_of_zeros_can_be_drawn() -> None:
    """A policy without curvature has an empty figure, not an error."""
    pytest.importorskip("matplotlib")
    from oracles import Dense

    figure = draw(spectrum(Dense(torch.zeros(4, 4))), 0.1, Estimate(0.0, 0.0))
    figure.canvas.draw()
    assert "4 eigenvalues at 0" in figure.axes[0].get_title()
