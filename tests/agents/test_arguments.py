"""The constructors: one declaration per argument, sb3-contrib's order, everything documented."""

import inspect
import warnings
from typing import ClassVar

import pytest

from agents import ALGORITHMS, NPG, TRPO, PolicyGradientAgent
from agents.arguments import documented_arguments
from agents.hyperparameters import PLUMBING, RANGES

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
    with pytest.raises(TypeError, match=r"TRPO\(\) missing a required argument: 'env'"):
        TRPO("MlpPolicy")


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
