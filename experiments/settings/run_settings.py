"""All that one run was told, as config.yaml keeps it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from experiments.run.hardware import hardware
from experiments.run.run_folder import versions
from experiments.settings.configuration import Configuration

NOT_COMPARED = ("hardware",)


@dataclass(frozen=True)
class RunSettings:
    """One run, fully resolved.

    Attributes:
        algo: a name of `experiments.algorithms`.
        env: a Gymnasium id.
        seed: of policy, environments and sampling.
        device: cpu or cuda, as found; not auto.
        vec_env: a kind of `envs.make_vec_env`; not auto.
        evaluation_episodes: at the end.
        geometry: updates from one look at the Fisher matrix to the next; 0 for none.
        checkpoint_every: updates from one checkpoint to the next.
        configuration: the rest.
    """

    algo: str
    env: str
    seed: int
    device: str
    vec_env: str
    evaluation_episodes: int
    geometry: int
    checkpoint_every: int
    configuration: Configuration

    def document(self, **besides: Any) -> dict[str, Any]:
        """Return config.yaml's content: the settings, what else is given, the machine and the versions."""
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        configuration = asdict(settings.pop("configuration"))
        configuration["hyperparameters"] = dict(configuration["hyperparameters"])
        return settings | besides | configuration | {"hardware": hardware(), "versions": versions()}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "RunSettings":
        """Return the settings that `document` returned.

        Raises:
            ValueError: a name is missing.
        """
        own = [field.name for field in fields(cls) if field.name != "configuration"]
        rest = [field.name for field in fields(Configuration)]
        if missing := [name for name in (*own, *rest) if name not in document]:
            raise ValueError(
                f"expected a config.yaml that train.py has written; it lacks {', '.join(missing)}"
            )
        configuration = Configuration(**{name: document[name] for name in rest})
        return cls(configuration=configuration, **{name: document[name] for name in own})


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
