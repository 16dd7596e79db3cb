"""Compose an agent's constructor and its documentation from what its classes declare.

A class declares its arguments as annotated attributes, and documents them under "Args:" in its docstring:

    class Short(NPG):
        fraction: float = 0.5                       # an argument and its default
        n_steps = 512                               # another default for an inherited argument
        critic_fit: ClassVar[str] = "minibatch"     # fixed by the class: no longer an argument

The values become attributes of the agent. Arguments that sb3-contrib's TRPO also has are positional, in its
order; the others are keyword-only. A class with an `__init__` of its own keeps it.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from typing import Any

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents.hyperparameters import nearest

POSITIONAL = (
    *("policy", "env", "learning_rate", "n_steps", "batch_size", "gamma", "cg_max_steps", "cg_damping"),
    *("line_search_shrinking_factor", "line_search_max_iter", "n_critic_updates", "gae_lambda", "use_sde"),
    *("sde_sample_freq", "rollout_buffer_class", "rollout_buffer_kwargs", "normalize_advantage", "target_kl"),
    *("sub_sampling_factor", "stats_window_size", "tensorboard_log", "policy_kwargs", "verbose", "seed"),
    *("device", "_init_setup_model"),
)
SB3_PARAMETERS: Mapping[str, Parameter] = inspect.signature(OnPolicyAlgorithm.__init__).parameters


def compose_constructor(cls: type, initialise: Callable[..., None]) -> None:
    """Give a class a constructor and a docstring that list all of its arguments.

    Args:
        cls: a subclass of SB3's `OnPolicyAlgorithm`.
        initialise: called by the constructor, with the agent and all arguments as keywords.
    """
    parameters = compose_parameters(cls)
    signature = Signature([Parameter("self", Parameter.POSITIONAL_OR_KEYWORD), *parameters.values()])

    def constructor(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            given = signature.bind(self, *args, **kwargs)
        except TypeError as error:
            hints = [nearest(name, parameters) for name in kwargs if name not in parameters]
            raise TypeError(f"{cls.__name__}() {error}{''.join(hints[:1])}") from None
        given.apply_defaults()
        initialise(**given.arguments)

    constructor.__name__, constructor.__qualname__ = "__init__", f"{cls.__qualname__}.__init__"
    constructor.__signature__ = signature  # type: ignore[attr-defined]
    cls.__init__ = constructor  # type: ignore[misc]
    if cls.__doc__:
        cls.__doc__ = compose_doc(cls, list(parameters))


def compose_parameters(cls: type) -> dict[str, Parameter]:
    """Return the arguments of a class: SB3's, those of its bases and its own, in order."""
    found = {name: parameter for name, parameter in SB3_PARAMETERS.items() if name in POSITIONAL}
    for base in reversed(cls.__mro__):
        if not issubclass(base, OnPolicyAlgorithm) or base is OnPolicyAlgorithm:
            continue
        for name, annotation in inspect.get_annotations(base).items():
            if "ClassVar" in str(annotation):
                found.pop(name, None)
            elif name in vars(base):
                found[name] = Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation)
        for name in found.keys() & vars(base).keys():
            found[name] = found[name].replace(default=vars(base)[name])
    positional = [name for name in POSITIONAL if name in found]
    order = positional + [name for name in found if name not in positional]
    kinds = (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return {name: found[name].replace(kind=kinds[name in positional]) for name in order}


def compose_doc(cls: type, names: list[str]) -> str:
    """Return a class's docstring with the entries of inherited arguments added."""
    entries: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, OnPolicyAlgorithm) and base is not OnPolicyAlgorithm:
            entries |= documented_arguments(base.__doc__ or "")
    before, _, after = sections(inspect.cleandoc(cls.__doc__ or ""))
    arguments = "\n".join(["Args:", *(entries[name] for name in names if name in entries)])
    return "\n\n".join(part for part in (before, arguments, after) if part)


def documented_arguments(doc: str) -> dict[str, str]:
    """Return {argument: its entry, with indentation} of a docstring's section "Args:"."""
    entries = re.split(r"\n(?=    \w)", sections(inspect.cleandoc(doc))[1])[1:]
    return {entry.split(":")[0].strip(): entry for entry in entries}


def sections(doc: str) -> tuple[str, str, str]:
    """Return the text before the section "Args:", that section, and the text after it."""
    before, separator, rest = doc.partition("Args:\n")
    section, _, after = rest.partition("\n\n")
    return before.strip(), f"\n{section}" if separator else "", after.strip()
