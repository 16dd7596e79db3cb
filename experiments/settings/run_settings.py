"""The settings of one run, as config.yaml stores them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, get_type_hints

from agents.hyperparameters import check_ranges
from experiments.algorithms import own_modules
from experiments.settings.class_list import ClassList, as_class_list, is_library, modules_of
from experiments.settings.provenance import hardware, versions

# Settings of the environment that version 0.1 lacks, and the value of each if it is not used.
UNUSED: dict[str, Any] = {
    "env_kwargs": {},
    "env_wrapper": [],
    "vec_env_wrapper": [],
    "frame_stack": 1,
    "monitor_kwargs": {},
    "callback": [],
}
CLASSES = ("env_wrapper", "vec_env_wrapper", "callback")
NORMALIZE = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon")
MONITOR = ("info_keywords", "reset_keywords", "allow_early_resets")
# Keys of a section that are not arguments of the agent; the names are RL Zoo's.
RUN_KEYS = ("n_timesteps", "policy", "n_envs", "normalize", *UNUSED)
NOT_COMPARED = ("hardware", "worker_timeout", "eval_every", "track")  # which do not affect training
LARGEST = 2**53  # largest integer setting
TYPES = {bool: "true or false", str: "a name"}
# Larger ones are mistakes: hours, or all memory.
MOST = {"n_envs": 2**16, "evaluation_episodes": 10**6, "frame_stack": 2**10}
LEAST = {"seed": 0, "evaluation_episodes": 0, "geometry": 0, "eval_every": 0}
LEAST |= {"checkpoint_every": 1, "n_timesteps": 1, "n_envs": 1, "frame_stack": 1}


@dataclass(frozen=True)
class RunSettings:
    """All settings of one run, checked on construction, whether they come from a command line or a file.

    Attributes:
        algo: name of the algorithm; see `experiments.algorithms`.
        env: Gymnasium id of the environment.
        seed: seed of policy, environments and sampling.
        device: "cpu" or "cuda"; "auto" until the agent is built.
        vec_env: a kind of `envs.make_vec_env`; "auto" until the environments are built.
        evaluation_episodes: number of episodes of the final evaluation; 0 for none.
        geometry: updates per analysis of the Fisher matrix; 0 for none.
        checkpoint_every: updates per checkpoint.
        n_timesteps: training steps, counted over all environments.
        policy: SB3's name of the policy, or "module:Class".
        n_envs: number of parallel environments.
        normalize: whether `VecNormalize` normalises observations and rewards, or its arguments.
        hyperparameters: arguments of the agent's constructor.
        eval_every: updates per evaluation during training; 0 for none.
        track: a tracker of `experiments.tracking`, or "module:make"; empty for none.
        env_kwargs: arguments of the environment's constructor, or of `gymnasium.make`.
        env_wrapper: wrappers of every environment, innermost first; see `ClassList`.
        vec_env_wrapper: wrappers of the vector environment, innermost first.
        frame_stack: number of successive observations that the policy sees.
        monitor_kwargs: arguments of SB3's `Monitor` in training.
        callback: callbacks of training.
        worker_timeout: seconds, see `envs.make_vec_env`; 0 for no limit. It does not affect results.

    Raises:
        ValueError: a value has the wrong type or is out of range. The agent itself checks most
            hyper-parameters.
    """

    algo: str
    env: str
    seed: int
    device: str
    vec_env: str
    evaluation_episodes: int
    geometry: int
    checkpoint_every: int
    n_timesteps: int
    policy: str
    n_envs: int
    normalize: bool | Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    eval_every: int = 0
    track: str = field(default="", compare=False)
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    env_wrapper: ClassList = field(default_factory=list)
    vec_env_wrapper: ClassList = field(default_factory=list)
    frame_stack: int = 1
    monitor_kwargs: Mapping[str, Any] = field(default_factory=dict)
    callback: ClassList = field(default_factory=list)
    worker_timeout: float = field(default=60.0, compare=False)

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if name in LEAST:
                most = MOST.get(name, LARGEST)
                if type(value) is not int or not LEAST[name] <= value <= most:
                    allowed = f"≥ {LEAST[name]}" if most == LARGEST else f"from {LEAST[name]} to {most}"
                    raise ValueError(f"{name} must be an integer {allowed}, got {value!r:.60}")
            elif kind in TYPES and type(value) is not kind:
                raise ValueError(f"{name} must be {TYPES[kind]}, got {value!r:.60}")
        if type(self.worker_timeout) not in (int, float) or not 0 <= self.worker_timeout < math.inf:
            raise ValueError(f"worker_timeout must be seconds ≥ 0, got {self.worker_timeout!r:.60}")
        if self.device not in ("auto", "cpu") and not self.device.startswith("cuda"):
            raise ValueError(f"--device must be cpu, cuda or auto, got {self.device!r:.60}")
        options = self.hyperparameters
        for name in ("hyperparameters", "env_kwargs"):
            value = getattr(self, name)
            if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
                raise ValueError(f"{name} must map names to values, got {value!r:.60}")
        for name in CLASSES:
            object.__setattr__(self, name, as_class_list(getattr(self, name), name))
        self._check_environment()
        check_ranges(**{name: options[name] for name in ("policy_kwargs", "use_sde") if name in options})
        kwargs = options.get("policy_kwargs")
        if self.normalize and kwargs and kwargs.get("normalize_observations"):
            raise ValueError(
                "normalize (VecNormalize) and policy_kwargs.normalize_observations (its own) are both on; "
                "add --set 'policy_kwargs={normalize_observations: false, normalize_returns: false}'"
            )

    def _check_environment(self) -> None:
        """Check the settings of the environment, and against each other."""
        if not isinstance(self.normalize, bool | Mapping):
            raise ValueError(f"normalize must be true or false, got {self.normalize!r:.60}")
        options: Mapping[str, Any] = {} if isinstance(self.normalize, bool) else self.normalize
        for name, given, known in (
            ("normalize", options, NORMALIZE),
            ("monitor_kwargs", self.monitor_kwargs, MONITOR),
        ):
            if not (isinstance(given, Mapping) and set(given) <= set(known)):
                raise ValueError(f"{name} may have {', '.join(known)}; got {given!r:.60}")
        if self.vec_env == "tensor" and "device" in self.env_kwargs:
            raise ValueError("the device of tensor environments is the agent's; use the option --device")
        unsupported: dict[str, tuple[str, ...]] = {
            "tensor": ("env_wrapper", "monitor_kwargs", "vec_env_wrapper", "frame_stack")
        }
        unsupported["envpool"] = unsupported["tensor"][:2]
        for name in unsupported.get(self.vec_env, ()):
            if getattr(self, name) != UNUSED[name]:
                raise ValueError(
                    f"environments of --vec-env {self.vec_env} take no {name}: they are not single Python "
                    "environments; use --vec-env auto"
                )

    @property
    def modules(self) -> set[str]:
        """The user's own modules that the names in the settings are in."""
        found = modules_of(*(getattr(self, name) for name in CLASSES))
        return own_modules(self.env, self.algo, self.policy, self.track) | {
            each for each in found if not is_library(each)
        }

    def document(self, **besides: Any) -> dict[str, Any]:
        """Return the content of config.yaml: the settings, `besides`, the machine and the versions.

        Settings that version 0.1 lacks are left out if they are not used.
        """
        return used(asdict(self)) | besides | {"hardware": hardware(), "versions": versions()}

    def section(self) -> dict[str, Any]:
        """Return the keys of a configuration file's section, except hyper-parameters and unused ones."""
        return used({name: getattr(self, name) for name in RUN_KEYS})

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "RunSettings":
        """Return the settings in a mapping that `document` returned.

        Raises:
            ValueError: a name is missing, or a value is invalid.
        """
        names = [each.name for each in fields(cls)]
        required = {each.name for each in fields(cls) if each.default is MISSING} - UNUSED.keys()
        missing = [name for name in names if name in required - document.keys()]
        if missing:
            raise ValueError(f"expected the settings of a run; it lacks {', '.join(missing)}")
        return cls(**{name: document[name] for name in names if name in document})


def used(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without those of `UNUSED` that are not used."""
    return {name: value for name, value in settings.items() if name not in UNUSED or value != UNUSED[name]}


def differences(before: Mapping[str, Any], now: Mapping[str, Any], place: str = "") -> list[str]:
    """Return each difference between two documents as "name: before -> now", except `NOT_COMPARED` ones.

    Args:
        before: the old document.
        now: the new document.
        place: prefix of the names.
    """
    found = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old == new or (not place and name in NOT_COMPARED):
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{place}{name}.")
        else:
            found.append(f"{place}{name}: {old} -> {new}")
    return found


def flattened(value: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield names and values of settings; key b of mapping a is named a.b, without `hyperparameters.`."""
    for key, entry in value.items():
        name = f"{prefix}{key}"
        if isinstance(entry, dict) and entry:
            yield from flattened(entry, "" if name == "hyperparameters" else f"{name}.")
        else:
            yield name, entry
