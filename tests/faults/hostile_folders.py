"""Run folders that somebody else has made: each of these takes a finished run and spoils it.

Every entry says which commands must reject it: R resume, E evaluate, export and video, P report. The others
may ignore what is wrong.
"""

import hashlib
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import yaml
from run_folders import change_checkpoint

from experiments.run.checkpoint_file import HEADER, MAGIC, VERSION, read_payload
from experiments.run.checkpoints import Checkpoints
from experiments.run.plain_data import STRUCTURE

Spoil = Callable[[Path, Path], None]  # the folder, and a folder outside with a victim and a canary
ESCAPE = "\x1b]0;owned\x07"
HOSTILE: dict[str, tuple[str, Spoil]] = {}


def hostile(name: str, rejects: str, spoil: Spoil) -> None:
    """Add a folder."""
    assert name not in HOSTILE
    HOSTILE[name] = rejects, spoil


def raw(file: str, content: str | bytes) -> Spoil:
    """Return what puts other bytes into a file."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder, _: (folder / file).write_bytes(data) and None


def pipe(file: str) -> Spoil:
    """Return what puts a pipe, which nobody writes to, in the place of a file."""

    def spoil(folder: Path, _: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        os.mkfifo(folder / file)

    return spoil


def link(file: str, target: str | None = None) -> Spoil:
    """Return what puts a link in the place of a file: to the file itself, moved outside, or to a target."""

    def spoil(folder: Path, outside: Path) -> None:
        moved = outside / Path(file).name
        (folder / file).rename(moved)
        (folder / file).symlink_to(target or moved)

    return spoil


def directory(file: str) -> Spoil:
    """Return what puts a folder in the place of a file."""

    def spoil(folder: Path, _: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        (folder / file).mkdir()

    return spoil


def sparse(file: str, size: int = 3 * 2**30) -> Spoil:
    """Return what enlarges a file without using a disk."""
    return lambda folder, _: os.truncate(folder / file, size)


FILES = {"config.yaml": "REP", "model.zip": "", "vecnormalize.pkl": "", "progress.csv": "RP"}
for _file, _rejects in FILES.items():
    hostile(f"{_file} is a pipe", "REP" if _file == "config.yaml" else f"R{_rejects}", pipe(_file))
    hostile(f"{_file} is a folder", "REP" if _file == "config.yaml" else f"R{_rejects}", directory(_file))
    hostile(f"{_file} links outside", _rejects, link(_file))
    hostile(f"{_file} links to a device", "R" * (_file != "config.yaml") + _rejects, link(_file, "/dev/zero"))
    hostile(f"{_file} is sparse", _rejects, sparse(_file))
    hostile(f"{_file} is empty", _rejects, raw(_file, b""))


def config(**changes: Any) -> Spoil:
    """Return what changes settings, of the run or of the agent; None removes one."""

    def spoil(folder: Path, _: Path) -> None:
        path = folder / "config.yaml"
        document = yaml.safe_load(path.read_text())
        for name, value in changes.items():
            owner = document["hyperparameters"] if name in document["hyperparameters"] else document
            owner[name] = value
            if value is None:
                del owner[name]
        path.write_text(yaml.safe_dump(document))

    return spoil


def added(text: str) -> Spoil:
    """Return what adds a line to config.yaml."""

    def spoil(folder: Path, _: Path) -> None:
        with (folder / "config.yaml").open("a") as file:
            file.write(f"extra: {text}\n")

    return spoil


_aliases = "\n".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 10))
for _name, _rejects, _spoil in (
    ("calls a function", "REP", added("!!python/object/apply:os.mkdir [x]")),
    ("nested brackets", "REP", added("[" * 5000)),
    ("nested dashes", "REP", added("\n" + "- " * 20_000 + "1")),
    ("aliases of aliases", "REP", added(f"1\na0: &a0 [x]\n{_aliases}")),
    ("an alias of itself", "REP", added("&a [*a]")),
    ("hexadecimal digits", "REP", added("0x" + "f" * 5000)),
    ("decimal digits", "REP", added("1" * 5000)),
    ("half a character", "REP", added('"\\uD800"')),
    ("a key that is a number", "REP", added("{3: 4}")),
    ("a date", "REP", added("2001-01-01")),
    ("a megabyte", "REP", raw("config.yaml", "#" * 2**20)),
    ("no text", "REP", raw("config.yaml", b"\xff\xfe\x00")),
    ("escapes in algo", "REP", config(algo=ESCAPE)),
    ("escapes in env", "REP", config(env=f"{ESCAPE}-v0")),
    ("escapes in policy", "RE", config(policy=ESCAPE)),
    ("escapes in vec_env", "R", config(vec_env=ESCAPE)),
    ("escapes in device", "RE", config(device=ESCAPE)),
    ("a module of the folder", "R", config(env="evil:Pendulum-v1")),
    ("a function as policy", "RE", config(policy="os.system")),
    ("wide layers", "RE", config(policy_kwargs={"net_arch": [30_000, 30_000]})),
    ("very wide layers", "RE", config(policy_kwargs={"net_arch": [10**12]})),
    ("many layers", "REP", config(policy_kwargs={"net_arch": [1] * 30_000})),
    ("many small layers", "REP", config(policy_kwargs={"net_arch": {"pi": [8] * 20_000, "vf": []}})),
    ("a function as layer", "RE", config(policy_kwargs={"activation_fn": "os.getcwd"})),
    ("options of no policy", "RE", config(policy_kwargs={"nets": 3})),
    ("options of no optimizer", "RE", config(policy_kwargs={"optimizer_kwargs": {"x": 1}})),
    ("3000000 environments", "RE", config(n_envs=3_000_000)),
    ("60000 environments", "R", config(n_envs=60_000)),
    ("a billion episodes", "RE", config(evaluation_episodes=10**9)),
    ("no checkpoints", "RE", config(checkpoint_every=0)),
    ("steps of 481 digits", "REP", config(n_timesteps=1 << 1600)),
    ("another device", "RE", config(device="tpu")),
    ("a negative seed", "REP", config(seed=-1)),
    ("no gamma", "R", config(gamma=None)),
    ("a text as gamma", "R", config(gamma="x")),
    ("a long rollout", "R", config(n_steps=10**12)),
    ("a list of settings", "RE", config(hyperparameters=[1])),
    ("a timeout that is no number", "RE", config(worker_timeout=float("nan"))),
):
    hostile(f"config.yaml: {_name}", _rejects, _spoil)


HEADER_ROW = "time/total_timesteps,rollout/ep_rew_mean,time/seconds\n"
for _name, _rejects, _text in (
    ("escapes", "RP", f"{ESCAPE},b\n1,2\n3,4\n"),
    ("blank lines", "RP", "\n" * 6_000_000),
    ("many cells", "RP", "1," * 6_000_000 + "1\n"),
    ("a long cell", "RP", HEADER_ROW + "1" * 10**6 + ",1,1\n"),
    ("huge returns", "RP", HEADER_ROW + "512,1.7e308,1\n1024,-1.7e308,2\n"),
    ("huge steps", "RP", HEADER_ROW + "1e300,1,1\n2e300,1,2\n"),
    ("no text", "RP", "\udcff,b\n1,2\n"),
    ("a quote without end", "RP", HEADER_ROW + '"' + "1\n" * 10**5),
):
    hostile(f"progress.csv: {_name}", _rejects, raw("progress.csv", _text.encode("utf-8", "surrogateescape")))
for _name, _rejects, _text in (
    ("400 digits", "P", '{"returns": [1%s]}' % ("0" * 400)),
    ("5000 digits", "P", '{"returns": [%s]}' % ("1" * 5000)),
    ("nested", "P", "[" * 10**6),
    ("huge", "P", '{"returns": [1.7e308, -1.7e308]}'),
    ("a text", "P", '{"returns": ["=1+1"]}'),
):
    hostile(f"evaluation.json: {_name}", _rejects, raw("evaluation.json", _text))


class Payload:
    """Unpickled, it makes a file in the current folder."""

    def __reduce__(self) -> tuple[object, ...]:
        """Return what `pickle` calls."""
        return Path.touch, (Path("CANARY"),)


def only(spoil: Callable[[str], Spoil]) -> Spoil:
    """Return what removes all checkpoints but the newest, and spoils that one, given its name."""

    def spoil_newest(folder: Path, outside: Path) -> None:
        newest, *others = Checkpoints(folder / "checkpoints").paths()
        for path in (*others, Checkpoints(folder / "checkpoints").best):
            path.unlink()
        spoil(f"checkpoints/{newest.name}")(folder, outside)

    return spoil_newest


for _name, _make in {
    "a pipe": pipe,
    "a folder": directory,
    "a link to the outside": link,
    "a link to a device": lambda file: link(file, "/dev/zero"),
    "sparse": sparse,
    "empty": lambda file: raw(file, b""),
}.items():
    hostile(f"the checkpoint is {_name}", "RE", only(_make))


def payload(make: Callable[[bytes], bytes]) -> Spoil:
    """Return what replaces the payload of the checkpoint, with a header that fits it."""

    def spoil(folder: Path, _: Path) -> None:
        (path,) = (folder / "checkpoints").iterdir()
        content = make(read_payload(path))
        header = HEADER.pack(MAGIC, VERSION, len(content), hashlib.sha256(content).digest())
        path.write_bytes(header + content)

    return only(lambda _: spoil)


def tensors_of(header: dict[str, Any] | bytes, data: bytes = b"") -> bytes:
    """Return a file of safetensors."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def one_tensor(shape: list[int], end: int, data: bytes = bytes(8)) -> bytes:
    """Return a file of safetensors with a tensor of a shape whose numbers end at a byte."""
    return tensors_of({STRUCTURE: {"dtype": "F64", "shape": shape, "data_offsets": [0, end]}}, data)


def structure(text: str) -> bytes:
    """Return a payload of this JSON and no tensors."""
    return safetensors.torch.save({STRUCTURE: torch.frombuffer(bytearray(text, "ascii"), dtype=torch.uint8)})


def with_tensor(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[bytes], bytes]:
    """Return what changes one tensor of a payload, a weight of the policy."""

    def make(content: bytes) -> bytes:
        tensors = safetensors.torch.load(content)
        name = next(name for name in sorted(tensors) if tensors[name].shape == (8, 3))
        return safetensors.torch.save(tensors | {name: change(tensors[name])})

    return make


def overlapping(_: bytes) -> bytes:
    """Return tensors that share bytes."""
    each = {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}
    return tensors_of({STRUCTURE: each, "0": each}, b"{}      ")


PAYLOADS: dict[str, Callable[[bytes], bytes]] = {
    "nested brackets": lambda _: structure("[" * 10**6),
    "nested tuples": lambda _: structure('{"tuple":[' * 10**5 + "]}" * 10**5),
    "an endless text": lambda _: structure('"' + "x" * 10**6),
    "a long list": lambda _: structure(f"[{'[],' * 2**20}0]"),
    "a long integer": lambda _: structure(f'{{"integer":"0x{"f" * 10**6}"}}'),
    "decimal digits": lambda _: structure("1" * 10**6),
    "infinity": lambda _: structure("Infinity"),
    "a text as score": lambda _: structure('{"dict":[["score","x"],["content",{"dict":[]}]]}'),
    "an unknown kind": lambda _: structure('{"object":"os.system"}'),
    "a tensor used often": lambda _: structure('[{"tensor":"structure"},{"tensor":"structure"}]'),
    "a stretched tensor": lambda _: one_tensor([30_000, 30_000], 8),
    "a terabyte": lambda _: one_tensor([2**37], 2**40),
    "a negative shape": lambda _: one_tensor([-1], 8),
    "a header without bound": lambda _: struct.pack("<Q", 2**60) + b"{}",
    "a header without end": lambda content: content[:100],
    "overlapping tensors": overlapping,
    "many names": lambda _: safetensors.torch.save({f"x{k}": torch.zeros(1) for k in range(60_000)}),
    "an unused tensor": lambda content: safetensors.torch.save(
        safetensors.torch.load(content) | {"x": torch.ones(1)}
    ),
    "NaN": with_tensor(lambda tensor: torch.full_like(tensor, torch.nan)),
    "bytes of floats": with_tensor(lambda tensor: tensor.view(torch.uint8)),
    "a bare pickle": lambda _: pickle.dumps(Payload()),
    "pickles in a tensor": lambda _: structure(json.dumps(pickle.dumps(Payload(), 0).decode())),
}
for _name, _make in PAYLOADS.items():
    hostile(f"payload: {_name}", "RE", payload(_make))


def checkpoint(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    """Return what changes the content of the checkpoint."""
    return only(lambda _: lambda folder, _: change_checkpoint(folder, change))


def without(*names: str | int) -> Callable[[dict[str, Any]], Any]:
    """Return the removal of an item."""

    def change(content: dict[str, Any]) -> None:
        for name in names[:-1]:
            content = content[name]
        del content[names[-1]]

    return change


def having(*names: str | int, value: Any) -> Callable[[dict[str, Any]], Any]:
    """Return the replacement of an item."""

    def change(content: dict[str, Any]) -> None:
        for name in names[:-1]:
            content = content[name]
        content[names[-1]] = value

    return change


def other_moments(content: dict[str, Any]) -> None:
    """Give the optimizer's state of one parameter another shape."""
    state = content["agent"]["parameters"]["policy.optimizer"]["state"]
    state[0] = {"step": torch.tensor(1.0), "exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}


EVENTS = "events.out.tfevents.1"
_agent = "agent"
_policy = (_agent, "parameters", "policy")
_moments = ("envs", "wrappers", 0, "kept", "obs_rms")
for _name, _change in {
    **{
        f"no {name}": without(name)
        for name in ("log", "generators", "agent", "envs", "callbacks", "run", "seconds")
    },
    **{
        f"no {name} of the agent": without(_agent, name)
        for name in ("parameters", "moving", "logged", "noise")
    },
    "episodes that are a tensor": having(_agent, "episodes", value=torch.ones(3)),
    "episodes of texts": having(_agent, "episodes", value=[{"r": "x", "l": 1, "t": 1.0}]),
    "events that are a number": having("log", "events", value=5),
    "events of negative size": having("log", "events", value={EVENTS: -1}),
    "rows that are a text": having("log", "csv", value={"rows": "x", "columns": 1}),
    "seconds that are a text": having("seconds", value="x"),
    "updates that are a text": having("updates", value="x"),
    "negative steps": having(_agent, "moving", "num_timesteps", value=-(10**12)),
    "steps of 481 digits": having(_agent, "moving", "num_timesteps", value=1 << 1600),
    "steps of 5000 digits": having(_agent, "moving", "num_timesteps", value=10**5000),
    "a logged novel": having(_agent, "logged", "train/n_updates", value="[" * 10**6),
    "settings that are a list": having("run", value=[1]),
    "settings with numbers as keys": having("run", value={3: 4}),
    "no policy": without(*_policy),
    "a policy that is a list": having(*_policy, value=[torch.ones(2)]),
    "a policy of other parts": having(*_policy, value=dict.fromkeys("ab", torch.zeros(3))),
    "a policy of many parts": having(*_policy, value={f"x{k}": torch.zeros(1) for k in range(2000)}),
    "a policy with another part": having(*_policy, "x", value=torch.ones(1)),
    "escapes in a policy": having(*_policy, ESCAPE, value=torch.ones(1)),
    "a part with a long name": having(*_policy, "x" * 10**6, value=torch.ones(1)),
    "no part of the policy": without(*_policy, "log_std"),
    "parameters of another shape": having(*_policy, "log_std", value=torch.ones(9)),
    "parameters that are doubles": having(*_policy, "log_std", value=torch.zeros(1, dtype=torch.float64)),
    "parameters that are texts": having(*_policy, "log_std", value="x"),
    "parameters that are pickles": having(*_policy, "log_std", value=pickle.dumps(Payload(), 0).decode()),
    "a generator of Python that is a text": having("generators", "python", value="x"),
    "a generator of NumPy that is a text": having("generators", "numpy", value={"bit_generator": "x"}),
    "a generator of PyTorch that is short": having(
        "generators", "torch", value=torch.ones(3, dtype=torch.uint8)
    ),
    "environments that are a text": having("envs", value="x"),
    "environments without wrappers": without("envs", "wrappers"),
    "wrappers of nothing": having("envs", "wrappers", value=[]),
    "wrappers that are a text": having("envs", "wrappers", value="x"),
    "a normaliser without moments": without(*_moments),
    "moments that are a text": having(*_moments, value="x"),
    "moments of another shape": having(*_moments, "mean", value=np.ones(7)),
    "moments of integers": having(*_moments, "mean", value=np.ones(3, int)),
    "a negative variance": having(*_moments, "var", value=-np.ones(3)),
    "a count that is a text": having(*_moments, "count", value="x"),
    "counts that are texts": having(_agent, "averaged", value={"a": "x"}),
}.items():
    hostile(f"checkpoint: {_name}", "RE", checkpoint(_change))
# What an evaluation does not read.
for _name, _change in {
    "observations of another shape": having(_agent, "moving", "_last_obs", value=np.ones((4, 7), np.float32)),
    "observations that are a text": having(_agent, "moving", "_last_obs", value="x"),
    "starts that are numbers": having(_agent, "moving", "_last_episode_starts", value=np.ones(4)),
    "events elsewhere": having("log", "events", value={"../../victim": 0}),
    "a logged expression": having(_agent, "logged", "train/n_updates", value="__import__('os')"),
    "an optimizer of texts": having(_agent, "parameters", "policy.optimizer", value={"state": "x"}),
    "an optimizer of other shapes": other_moments,
    "outcomes that are a text": having(_agent, "moving", "outcomes", value="x"),
    "damping that is a text": having(_agent, "moving", "cg_damping", value="x"),
}.items():
    hostile(f"checkpoint: {_name}", "R", checkpoint(_change))


def linked_event(folder: Path, outside: Path) -> None:
    """Let a checkpoint name a log that is a link, which would be truncated."""
    checkpoint(having("log", "events", value={EVENTS: 0}))(folder, outside)
    (folder / EVENTS).symlink_to(outside / "victim")


def linked_checkpoints(folder: Path, outside: Path) -> None:
    """Move checkpoints/ outside, and put a link in its place."""
    shutil.move(folder / "checkpoints", outside / "checkpoints")
    (folder / "checkpoints").symlink_to(outside / "checkpoints")


def each_checkpoint(content: bytes) -> Spoil:
    """Return what puts these bytes into every checkpoint."""

    def spoil(folder: Path, _: Path) -> None:
        for path in (folder / "checkpoints").iterdir():
            path.write_bytes(content)

    return spoil


def checkpoint_pipe(folder: Path, _: Path) -> None:
    """Put a pipe in the place of the newest checkpoint."""
    pipe(f"checkpoints/{max(path.name for path in (folder / 'checkpoints').glob('checkpoint-*'))}")(folder, _)


def partial_files(folder: Path, outside: Path) -> None:
    """Put links and a folder at the names of temporary files, as older versions chose them."""
    for number in range(50):
        (folder / f".npg-partial-{os.getpid() + number}-config.yaml").symlink_to(outside / "victim")
    (folder / ".npg-partial-x").mkdir()


hostile("checkpoint: a linked log", "R", linked_event)
hostile("checkpoint: a linked folder", "RE", linked_checkpoints)
hostile("checkpoint: a pipe", "R", checkpoint_pipe)
hostile("checkpoint: an exabyte", "RE", each_checkpoint(HEADER.pack(MAGIC, 1, 2**60, bytes(32))))
hostile("checkpoint: pickles", "RE", each_checkpoint(pickle.dumps(Payload())))
hostile("checkpoint: no file", "RE", lambda folder, _: shutil.rmtree(folder / "checkpoints"))
hostile("an event log that is a folder", "R", directory("events.out.tfevents.9"))
hostile("links at temporary names", "", partial_files)
