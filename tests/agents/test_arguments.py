"""The constructors: one declaration per argument, sb3-contrib's order, everything documented."""

import inspect
import warnings
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from free_costs import ALGORITHMS
from generated_envs import AnyEnv
from gymnasium import spaces

from agents import ACKTR, NPG, TRPO, VPG, PolicyGradientAgent
from agents.arguments import documented_arguments
from agents.hyperparameters import ABSENT, PLUMBING, RANGES, check_ranges
from npg.fisher import memory

SMALL = {"n_steps": 16, "batch_size": 16, "device": "cpu"}
# SB3 checks these, or passes them on.
UNCHECKED = {"rollout_buffer_class", "rollout_buffer_kwargs", "policy_kwargs"} | PLUMBING


def test_every_argument_is_documented(agent_class: type[PolicyGradientAgent]) -> None:
    """help(TRPO) explains each argument of the signature once, in its order."""
    names = list(inspect.signature(agent_class).parameters)
    assert list(documented_arguments(agent_class.__doc__ or "")) == names
    assert inspect.signature(agent_class).parameters == {
        name: parameter
        for name, parameter in inspect.signature(agent_class.__init__).parameters.items()
        if name != "self"
    }


def test_every_argument_has_a_range(agent_class: type[PolicyGradientAgent]) -> None:
    """The error of an invalid value names the argument."""
    assert set(inspect.signature(agent_class).parameters) - UNCHECKED <= set(RANGES)


def test_the_positional_order_is_sb3_contribs() -> None:
    """All arguments of sb3-contrib's TRPO come in its order, with its defaults; ours are keyword-only."""
    theirs = inspect.signature(pytest.importorskip("sb3_contrib").TRPO).parameters
    ours = inspect.signature(TRPO).parameters
    positional = [name for name, p in ours.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == list(theirs)
    assert {name: ours[name].default for name in theirs} == {name: p.default for name, p in theirs.items()}


def test_positional_arguments_arrive() -> None:
    """As with sb3-contrib's constructor."""
    agent = TRPO("MlpPolicy", "CartPole-v1", 2e-3, 16, 16, 0.9, 5, 0.2)
    assert (agent.learning_rate, agent.n_steps, agent.batch_size) == (2e-3, 16, 16)
    assert (agent.gamma, agent.cg_max_steps, agent.cg_damping) == (0.9, 5, 0.2)


def test_an_unknown_argument_is_named() -> None:
    """With the class that was called."""
    with pytest.raises(TypeError, match=r"TRPO\(\) got an unexpected keyword argument 'cg_steps'"):
        TRPO("MlpPolicy", "CartPole-v1", cg_steps=3)
    with pytest.raises(TypeError, match="'targt_kl'; did you mean 'target_kl'"):
        TRPO("MlpPolicy", "CartPole-v1", targt_kl=0.1)
    with pytest.raises(TypeError, match=r"TRPO\(\) missing a required argument: 'env'"):
        TRPO("MlpPolicy")


@pytest.mark.parametrize("name", ABSENT)
def test_a_setting_of_sb3s_other_algorithms_is_explained(
    agent_class: type[PolicyGradientAgent], name: str
) -> None:
    """Even at its value for no effect: there is nothing that it could change."""
    with pytest.raises(TypeError, match=rf"^{agent_class.__name__}\(\) got .*'{name}'; .*(the|step) "):
        agent_class("MlpPolicy", "CartPole-v1", **{name: 0.0})


class Declared(NPG):
    """A subclass that adds, changes and fixes arguments.

    Args:
        fraction: of something.
    """

    fraction: float = 0.5
    n_steps = 16
    batch_size = 16
    critic_fit: ClassVar[str] = "lbfgs"


class WithConstructor(Declared):
    """A subclass as SB3's users write it."""

    def __init__(self, *args: object, mine: int = 1, **kwargs: object):
        super().__init__(*args, **kwargs)
        self.mine = mine


def test_a_subclass_declares_its_arguments() -> None:
    """New ones are attributes and documented, others get new defaults, fixed ones are no arguments."""
    parameters = inspect.signature(Declared).parameters
    assert parameters["n_steps"].default == 16 and parameters["fraction"].default == 0.5
    assert "critic_fit" not in parameters
    assert "fraction: of something." in Declared.__doc__ and "cg_damping: λ" in Declared.__doc__
    agent = Declared("MlpPolicy", "CartPole-v1", fraction=0.25, device="cpu").learn(16)
    assert (agent.fraction, agent.n_steps, agent.critic_fit) == (0.25, 16, "lbfgs")


def test_a_subclass_keeps_its_own_constructor() -> None:
    """Its arguments are those of the signature that it wrote."""
    assert "mine" in inspect.signature(WithConstructor).parameters
    agent = WithConstructor("MlpPolicy", "CartPole-v1", mine=3, fraction=0.1, device="cpu").learn(16)
    assert (agent.mine, agent.fraction) == (3, 0.1)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_values_are_attributes(algo: str) -> None:
    """So that `save` stores them and `load` restores them."""
    agent = ALGORITHMS[algo]("MlpPolicy", "CartPole-v1", **SMALL)
    for name in set(inspect.signature(type(agent)).parameters) - UNCHECKED - {"stats_window_size"}:
        assert hasattr(agent, name), name


TARGETS = [("npg", "target_kl"), ("trpo", "target_kl"), ("acktr", "target_kl"), ("acktr", "critic_target_kl")]


@pytest.mark.parametrize(("algo", "name"), TARGETS)
@pytest.mark.parametrize(("value", "resolved"), [(9e-11, False), (1.1e-10, True), (0.01, True)])
def test_a_target_below_the_rounding_of_the_policy_warns(
    algo: str, name: str, value: float, resolved: bool
) -> None:
    """One UserWarning at construction names the argument and the least that float32 resolves."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ALGORITHMS[algo]("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, device="cpu", **{name: value})
    found = [str(warning.message) for warning in caught if "resolves" in str(warning.message)]
    assert len(found) == (not resolved)
    assert resolved or (name in found[0] and "1e-10" in found[0])


LBFGS = {"critic_fit": "lbfgs"}


@pytest.mark.parametrize(
    ("agent_class", "arguments", "unread"),
    [
        (TRPO, {"batch_size": 64, "learning_rate": 2e-3}, None),
        (TRPO, LBFGS | {"batch_size": 128, "learning_rate": 1e-3}, None),
        (TRPO, LBFGS | {"batch_size": 64}, "batch_size will"),
        (NPG, LBFGS | {"batch_size": 64, "learning_rate": 2e-3}, "batch_size and learning_rate will"),
        (VPG, LBFGS | {"learning_rate": 2e-3}, None),
        (VPG, LBFGS | {"critic_learning_rate": 2e-3}, "critic_learning_rate will"),
        (ACKTR, {"batch_size": 64}, None),
    ],
)
def test_settings_of_minibatches_warn_with_lbfgs(
    agent_class: type[PolicyGradientAgent], arguments: dict[str, object], unread: str | None
) -> None:
    """One warning names those that differ from the default, and the fit that would use them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        agent_class("MlpPolicy", "CartPole-v1", n_steps=128, device="cpu", **arguments)
    found = [warning for warning in caught if "not be used" in str(warning.message)]
    assert len(found) == (unread is not None)
    if unread is not None:
        assert str(found[0].message).startswith(unread)
        assert found[0].filename == __file__


def test_a_bool_is_no_number(agent_class: type[PolicyGradientAgent]) -> None:
    """True is 1 to Python; an argument that expects a number rejects it, and NumPy's."""
    parameters = inspect.signature(agent_class).parameters
    for name in parameters.keys() & RANGES.keys():
        flag = isinstance(parameters[name].default, bool)
        for value in (True, np.True_):
            if flag:
                check_ranges(**{name: True})
                continue
            with pytest.raises(ValueError, match=rf"^{name} must be .*, got True"):
                agent_class("MlpPolicy", "CartPole-v1", **SMALL | {name: value})


def test_numbers_of_numpy_and_torch_are_numbers(agent_class: type[PolicyGradientAgent]) -> None:
    """They become Python's, also where SB3 accepts no others."""
    numbers = {"learning_rate": np.float32(0.5), "gamma": torch.tensor(0.5), "n_steps": np.int64(16)}
    agent = agent_class("MlpPolicy", "CartPole-v1", seed=np.uint8(3), batch_size=16, device="cpu", **numbers)
    assert [type(getattr(agent, name)) for name in (*numbers, "seed")] == [float, float, int, int]


WIDTHS: list[dict[str, object]] = [
    *({"net_arch": widths} for widths in ([0], [64, -1], [True], [64.0], ["64"], 64, "64", [None], [[8]])),
    *({"net_arch": {"pi": widths, "vf": [8]}} for widths in ([0], [8.5], 8)),
    {"net_arch": [{"pi": [0], "vf": [8]}]},
    {"features_extractor_kwargs": {"features_dim": 0}},
    {"features_extractor_kwargs": {"cnn_output_dim": 2.5}},
]


@pytest.mark.parametrize("policy_kwargs", [*WIDTHS, "dict(net_arch=[64])", [1]])
def test_a_width_is_an_integer_from_1(policy_kwargs: object) -> None:
    """A layer of 0 units made a policy that sees nothing; other values raised errors of PyTorch."""
    with pytest.raises(ValueError, match=r"policy_kwargs must be .*integers ≥ 1 for the widths"):
        TRPO("MlpPolicy", "CartPole-v1", policy_kwargs=policy_kwargs, **SMALL)


@pytest.mark.parametrize(
    "net_arch", [None, [], (8, 4), [np.int64(8)], {}, {"pi": [8]}, {"pi": [], "vf": (8,)}]
)
def test_widths_as_sb3_takes_them(net_arch: object) -> None:
    """They are accepted."""
    TRPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": net_arch}, **SMALL)


@pytest.mark.parametrize(
    ("env", "layer"),
    [
        (AnyEnv(action_space=spaces.Discrete(500)), "policy.action_net"),
        (AnyEnv(observation_space=spaces.Discrete(500)), r"policy.mlp_extractor.policy_net.0"),
    ],
)
def test_kronecker_factors_beyond_the_memory(
    env: AnyEnv, layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their size is known before they are made: layer, size and the alternative are named."""
    monkeypatch.setattr(memory, "memory_of", lambda device: 1e6)
    zeros = torch.Tensor.new_zeros
    monkeypatch.setattr(
        torch.Tensor,
        "new_zeros",
        lambda self, *shape: pytest.fail("built") if 500 in shape else zeros(self, *shape),
    )
    with pytest.raises(ValueError, match=rf"factors of {layer}, .*50[01].* take 0.00\d+ GB.*TRPO or NPG"):
        ACKTR("MlpPolicy", env, n_steps=16, device="cpu").learn(16)
    TRPO("MlpPolicy", env, **SMALL)


def test_the_memory_of_this_machine_is_known() -> None:
    """Where it is not, nothing is checked."""
    assert memory.memory_of(torch.device("cpu")) > 2**28


def fail(progress: float) -> float:
    """Raise."""
    raise RuntimeError(f"no value at {progress}")


BAD_SCHEDULES = {
    "none": (lambda left: None, "gives no number: TypeError: .*None"),
    "text": (lambda left: "1e-3", "returned '1e-3'"),
    "bool": (lambda left: True, "returned True"),
    "two": (lambda left: torch.ones(2), "gives no number: .* one element"),
    "pair": (lambda left: np.ones(2), "gives no number: TypeError"),
    "nan": (lambda left: float("nan"), "returned nan"),
    "negative": (lambda left: -1.0, "returned -1.0"),
    "error": (fail, "gives no number: RuntimeError: no value at "),
    "signature": (lambda: 1e-3, "gives no number: TypeError: .* takes 0 positional arguments"),
}


@pytest.mark.covering(2)
@pytest.mark.parametrize("kind", BAD_SCHEDULES)
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", ["learning_rate", "target_kl"])
def test_a_bad_schedule_is_named(
    agent_class: type[PolicyGradientAgent], name: str, late: bool, kind: str
) -> None:
    """When the agent is made, or when the schedule first fails."""
    if name not in inspect.signature(agent_class).parameters:
        return
    bad, message = BAD_SCHEDULES[kind]
    schedule = (lambda left: 1e-3 if left > 0.7 else bad(left)) if late and kind != "signature" else bad
    with pytest.raises(ValueError, match=f"the schedule {name} {message}"):
        agent_class("MlpPolicy", "CartPole-v1", **SMALL, **{name: schedule}).learn(64)


def test_a_schedule_survives_save_and_load(tmp_path: Path) -> None:
    """With its value of then."""
    agent = TRPO("MlpPolicy", "CartPole-v1", learning_rate=lambda left: np.float32(0.5 * left), **SMALL)
    agent.learn(32).save(tmp_path / "agent")
    loaded = TRPO.load(tmp_path / "agent")
    assert agent.lr_schedule(0.5) == loaded.lr_schedule(0.5) == 0.25
