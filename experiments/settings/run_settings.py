"""The settings of one run, as config.yaml keeps them."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, get_type_hints

from agents.hyperparameters import check_ranges
from experiments.settings.provenance import hardware, versions

NOT_COMPARED = ("hardware", "worker_timeout")
LARGEST = 2**53  # of an integer setting
TYPES = {bool: "true or false", str: "a name"}
MOST = {"n_envs": 2**16, "evaluation_episodes": 10**6}  # beyond, a mistake that takes hours or all memory
LEAST = {"seed": 0, "evaluation_episodes": 0, "geometry": 0}
LEAST |= {"checkpoint_every": 1, "n_timesteps": 1, "n_envs": 1}


@dataclass(frozen=True)
class RunSettings:
    """One run, fully resolved; checked when it is made, whether from a command line or from a file.

    Attributes:
        algo: a name of `experiments.algorithms`.
        env: a Gymnasium id.
        seed: of policy, environments and sampling.
        device: cpu or cuda, or auto before the agent is built.
        vec_env: a kind of `envs.make_vec_env`, or auto before the environments are built.
        evaluation_episodes: at the end.
        geometry: updates between two analyses of the Fisher matrix; 0 for none.
        checkpoint_every: updates between two checkpoints.
        n_timesteps: steps of all environments together.
        policy: SB3's name of the policy.
        n_envs: environments that run side by side.
        normalize: whether `VecNormalize` normalises observations and rewards.
        hyperparameters: every argument of the agent's constructor that is not plumbing.
        worker_timeout: see `envs.make_vec_env`; 0 for none. It has no effect on results.

    Raises:
        ValueError: a value has another type, or is out of range. Ranges of hyper-parameters are the agent's.
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
    normalize: bool
    hyperparameters: Mapping[str, Any]
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
        if not isinstance(options, Mapping):
            raise ValueError(f"hyperparameters must be a mapping, got {options!r:.60}")
        check_ranges(**{name: options[name] for name in ("policy_kwargs", "use_sde") if name in options})
        kwargs = options.get("policy_kwargs")
        if self.normalize and kwargs and kwargs.get("normalize_observations"):
            raise ValueError(
                "normalize (VecNormalize) and policy_kwargs.normalize_observations (its own) are both on; "
                "add --set 'policy_kwargs={normalize_observations: false, normalize_returns: false}'"
            )

    def document(self, **besides: Any) -> dict[str, Any]:
        """Return config.yaml's content: the settings, what else is given, the machine and the versions."""
        return asdict(self) | besides | {"hardware": hardware(), "versions": versions()}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "RunSettings":
        """Return the settings that `document` returned.

        Raises:
            ValueError: a name is missing, or a value is invalid.
        """
        names = [each.name for each in fields(cls)]
        missing = [each.name for each in fields(cls) if each.default is MISSING and each.name not in document]
        if missing:
            raise ValueError(f"expected the settings of a run; it lacks {', '.join(missing)}")
        return cls(**{name: document[name] for name in names if name in document})


def differences(before: Mapping[str, Any], now: Mapping[str, Any], place: str = "") -> list[str]:
    """Return what differs between two documents, "name: before -> now" each; the machine is not compared."""
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
