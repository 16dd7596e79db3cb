"""The files of a shared policy: safetensors and JSON, so that reading them executes no code.

`npg share` writes them, and `agents.load` and `npg evaluate` read them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from gymnasium import spaces
from torch import Tensor

from agents.untrusted_file import reading

DOCUMENT, TENSORS = "policy.json", "policy.safetensors"
FORMAT = "npg-toolkit policy 1"
MOST_DOCUMENT, MOST_TENSORS = 2**20, 4 * 2**30  # bytes
MOST_PARTS = 1000  # parts of a Dict space
MOMENTS = ("mean", "var", "count")


@dataclass(frozen=True, eq=False)
class SharedPolicy:
    """All that is needed to build a policy and to predict with it.

    Attributes:
        algorithm: the algorithm's name, e.g. "trpo" or "sb3:ppo".
        policy: SB3's name of the policy, or "module:Class".
        policy_kwargs: arguments of the policy, with names in the place of classes.
        use_sde: whether the policy explores by gSDE.
        steps: number of environment steps of the training.
        observation_space: the policy's, i.e. with the channels of images first.
        action_space: the space of actions.
        parameters: the policy's state.
        moments: statistics of `VecNormalize` by key, each a mapping of `MOMENTS`; the key is "" if the
            observation is no Dict. Empty if there is no `VecNormalize`, or if it normalises no observation.
        clip: where `VecNormalize` clips observations.
        epsilon: what `VecNormalize` adds to variances.
    """

    algorithm: str
    policy: str
    policy_kwargs: Mapping[str, Any]
    use_sde: bool
    steps: int
    observation_space: spaces.Space
    action_space: spaces.Space
    parameters: Mapping[str, Tensor]
    moments: Mapping[str, Mapping[str, np.ndarray]]
    clip: float = 10.0
    epsilon: float = 1e-8

    def files(self) -> dict[str, bytes]:
        """Return the content of the files by name.

        Raises:
            TypeError: an argument of the policy is no plain data.
            ValueError: a space has a kind that cannot be shared.
        """
        tensors = {f"policy/{name}": tensor for name, tensor in self.parameters.items()}
        for key, moments in self.moments.items():
            tensors |= {f"moments/{key}/{name}": torch.as_tensor(np.array(moments[name])) for name in MOMENTS}
        document = {
            "format": FORMAT,
            "algorithm": self.algorithm,
            "policy": self.policy,
            "policy_kwargs": dict(self.policy_kwargs),
            "use_sde": self.use_sde,
            "steps": self.steps,
            "observation_space": encode_space(self.observation_space, "observation_space", tensors),
            "action_space": encode_space(self.action_space, "action_space", tensors),
            "moments": {"keys": list(self.moments), "clip": self.clip, "epsilon": self.epsilon},
        }
        separate = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        return {
            DOCUMENT: (json.dumps(document, indent=2, allow_nan=False) + "\n").encode(),
            TENSORS: bytes(safetensors.torch.save(separate, metadata={"format": "pt"})),
        }


def read_shared_policy(folder: Path) -> SharedPolicy:
    """Read the files of a shared policy, which may be untrusted: its tensors are not compared with a network.

    Raises:
        OSError: a file cannot be read, is a link, or is no regular file.
        ValueError: a file is not what `npg share` writes.
    """
    path = folder / DOCUMENT
    if not path.exists() and not path.is_symlink():
        hint = f"; load an agent of your own with its class, e.g. TRPO.load({str(folder / 'model.zip')!r})"
        raise ValueError(
            f"expected a folder that npg share wrote, got {folder}, which has no {DOCUMENT}"
            + (hint if (folder / "model.zip").exists() else "")
        )
    try:
        document = json.loads(read_bytes(path, MOST_DOCUMENT))
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        tensors = safetensors.torch.load(read_bytes(folder / TENSORS, MOST_TENSORS))
        check_types(document)
        about = document["moments"]
        shared = SharedPolicy(
            **{name: document[name] for name in ("algorithm", "policy", "policy_kwargs", "use_sde", "steps")},
            observation_space=decode_space(document["observation_space"], tensors),
            action_space=decode_space(document["action_space"], tensors),
            parameters={
                name.removeprefix("policy/"): tensor
                for name, tensor in tensors.items()
                if name.startswith("policy/")
            },
            moments={
                key: {name: tensors[f"moments/{key}/{name}"].numpy() for name in MOMENTS}
                for key in about["keys"]
            },
            clip=float(about["clip"]),
            epsilon=float(about["epsilon"]),
        )
        check_numbers(shared)
        return shared
    except OSError:
        raise
    except Exception as error:  # untrusted content can raise any exception
        what = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{folder} is damaged, or was not written by npg share: {what:.300}") from error


def check_types(document: Mapping[str, Any]) -> None:
    """Check the types in a document.

    Raises:
        ValueError: a value is missing or has another type.
    """
    kinds = {"algorithm": str, "policy": str, "policy_kwargs": dict, "use_sde": bool, "steps": int}
    for name, kind in (*kinds.items(), ("moments", dict)):
        if type(document.get(name)) is not kind:
            raise ValueError(f"{name} in {DOCUMENT} must be of type {kind.__name__}")
    keys = document["moments"].get("keys")
    if not (isinstance(keys, list) and len(keys) <= MOST_PARTS and all(isinstance(k, str) for k in keys)):
        raise ValueError(f"moments.keys in {DOCUMENT} must be a list of names")


def check_numbers(shared: SharedPolicy) -> None:
    """Check that parameters are finite, and that moments can normalise.

    Raises:
        ValueError: a number is NaN or infinite, or a variance is negative.
    """
    for name, tensor in shared.parameters.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} has NaN or infinity")
    for key, moments in shared.moments.items():
        if not (np.isfinite(moments["mean"]).all() and (moments["var"] >= 0).all()):
            raise ValueError(f"the moments of {key or 'observations'} are no means and variances")
    if not (0 < shared.clip < np.inf and 0 <= shared.epsilon < np.inf):
        raise ValueError("clip and epsilon must be finite and positive")


def read_bytes(path: Path, most: int) -> bytes:
    """Return the content of a file of at most `most` bytes; errors as `reading`."""
    with reading(path, most) as file:
        return file.read()


def encode_space(space: spaces.Space, place: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return a space as plain data, and add its arrays to `tensors`, named after its `place`.

    Raises:
        ValueError: the space has another kind than those that agents support.
    """

    def arrays(**named: Any) -> dict[str, str]:
        for name, value in named.items():
            tensors[f"{place}/{name}"] = torch.as_tensor(np.array(value))
        return {name: f"{place}/{name}" for name in named}

    match space:
        case spaces.Box():
            return {"type": "Box", "dtype": space.dtype.name, **arrays(low=space.low, high=space.high)}
        case spaces.Discrete():
            return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
        case spaces.MultiDiscrete():
            return {"type": "MultiDiscrete", **arrays(nvec=space.nvec, start=space.start)}
        case spaces.MultiBinary():
            return {"type": "MultiBinary", "shape": list(space.shape)}
        case spaces.Dict():
            parts = {key: encode_space(part, f"{place}/{key}", tensors) for key, part in space.items()}
            return {"type": "Dict", "spaces": parts}
    raise ValueError(f"a policy for {space} cannot be shared")


def decode_space(node: Any, tensors: Mapping[str, Tensor]) -> spaces.Space:
    """Return the space that `encode_space` encoded.

    Raises:
        Exception: it is no such space.
    """
    match node:
        case {"type": "Box", "dtype": str(dtype), "low": low, "high": high}:
            kind: Any = np.dtype(dtype)
            return spaces.Box(tensors[low].numpy(), tensors[high].numpy(), dtype=kind)
        case {"type": "Discrete", "n": int(n), "start": int(start)}:
            return spaces.Discrete(n, start=start)
        case {"type": "MultiDiscrete", "nvec": nvec, "start": start}:
            return spaces.MultiDiscrete(tensors[nvec].numpy(), start=tensors[start].numpy())
        case {"type": "MultiBinary", "shape": list(shape)}:
            return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
        case {"type": "Dict", "spaces": dict(parts)} if len(parts) <= MOST_PARTS:
            return spaces.Dict({key: decode_space(part, tensors) for key, part in parts.items()})
    raise ValueError(f"{str(node)[:80]!r} is no space")
