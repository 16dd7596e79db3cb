"""Run folders that somebody else has made: each of these takes a finished run and spoils it.

Every entry says which commands must reject it: R resume, E evaluate, export and video, V only evaluate and
video, P report. The others
may ignore what is wrong.
"""

import io
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from experiments.run.checkpoint_file import HEADER, MAGIC, write
from experiments.run.checkpoints import Checkpoints

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


FILES = {"config.yaml": "REP", "model.zip": "E", "vecnormalize.npz": "E", "progress.csv": "RP"}
for _file, _rejects in FILES.items():
    hostile(f"{_file} is a pipe", "REP" if _file == "config.yaml" else f"R{_rejects}", pipe(_file))
    hostile(f"{_file} is a folder", "REP" if _file == "config.yaml" else f"R{_rejects}", directory(_file))
    hostile(f"{_file} links outside", _rejects, link(_file))
    hostile(f"{_file} links to a device", "R" * (_file != "config.yaml") + _rejects, link(_file, "/dev/zero"))
    hostile(f"{_file} is sparse", _rejects, sparse(_file))
    hostile(f"{_file} is empty", "E" if _file == "model.zip" else _rejects, raw(_file, b""))


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


def archive_of(data: bytes, method: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    """Return a zip file in PyTorch's format."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/data.pkl", data)
        for name, content in members.items():
            archive.writestr(f"archive/data/{name}", content)
    return file.getvalue()


def policy(make: Callable[[bytes], bytes], method: int = zipfile.ZIP_STORED) -> Spoil:
    """Return what replaces policy.pth in model.zip."""

    def spoil(folder: Path, _: Path) -> None:
        path = folder / "model.zip"
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        parts["policy.pth"] = make(parts["policy.pth"])
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in parts.items():
                archive.writestr(name, content)

    return spoil


def nested_tuples(_: bytes) -> bytes:
    """Return a pickle of {t: 1} with t = (t', t') and so on; to hash the key takes 2⁶⁰ steps."""
    levels = b"".join(b"q%c" % k + b"h%c" % k + b"\x86" for k in range(60))
    return archive_of(b"\x80\x02})" + levels + b"K\x01s.")


def stretched(stored: bytes) -> bytes:
    """Return the tensors with a stride of 0 and a gigantic size."""
    state = torch.load(io.BytesIO(stored), weights_only=True)
    state["action_net.weight"] = torch.zeros(1).expand(30_000, 30_000)
    return saved(state)


def saved(value: Any) -> bytes:
    """Return what `torch.save` writes."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def changed(stored: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """Return the tensors after a change."""
    state = torch.load(io.BytesIO(stored), weights_only=True)
    change(state)
    return saved(state)


class Payload:
    """Unpickled, it makes a file in the current folder."""

    def __reduce__(self) -> tuple[object, ...]:
        """Return what `pickle` calls."""
        return Path.touch, (Path("CANARY"),)


def inflating(_: bytes) -> bytes:
    """Return a gigabyte that a zip file compresses to a megabyte."""
    return bytes(2**30)


def many_names(stored: bytes) -> bytes:
    """Return a list of 60 000 tensors of one storage."""
    return saved({f"x{k}": torch.zeros(1) for k in range(1)} | dict.fromkeys("ab" * 2, torch.zeros(3)))


POLICIES: dict[str, Callable[[bytes], bytes]] = {
    "nested tuples": nested_tuples,
    "a stretched tensor": stretched,
    "a call": lambda _: saved(Payload()),
    "a call within a tensor": lambda _: saved({"log_std": Payload()}),
    "a bare pickle": lambda _: pickle.dumps(Payload()),
    "a memo without bound": lambda _: archive_of(b"\x80\x02}r\xff\xff\xff\x7f."),
    "no end": lambda stored: archive_of(b"\x80\x02}"),
    "a long list": lambda _: archive_of(b"\x80\x02" + b"}0" * 2**20 + b"}."),
    "overlapping storages": lambda _: archive_of(b"\x80\x02}.", a=b"1"),
    "other tensors": many_names,
    "a list": lambda _: saved([torch.ones(2)]),
    "no zip file": lambda stored: stored[:100],
    "NaN": lambda stored: changed(stored, lambda state: state["log_std"].fill_(torch.nan)),
    "doubles": lambda stored: changed(stored, lambda state: state.update(log_std=state["log_std"].double())),
    "escapes in a name": lambda stored: changed(stored, lambda s: s.update({ESCAPE: torch.ones(1)})),
}
for _name, _make in POLICIES.items():
    hostile(f"policy.pth: {_name}", "E", policy(_make))
hostile("model.zip: inflates a thousandfold", "E", policy(inflating, zipfile.ZIP_DEFLATED))
hostile(
    "policy.pth: inflates a thousandfold",
    "E",
    policy(lambda _: archive_of(b"\x80\x02}.", zipfile.ZIP_DEFLATED, a=bytes(2**29))),
)


def normaliser(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    """Return what changes arrays of vecnormalize.npz."""

    def spoil(folder: Path, _: Path) -> None:
        path = folder / "vecnormalize.npz"
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
        change(arrays)
        np.savez(path, **arrays)

    return spoil


def inflating_member(folder: Path, _: Path) -> None:
    """Add a member that inflates from a megabyte to a gigabyte; it is never read."""
    with zipfile.ZipFile(folder / "vecnormalize.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("extra.npy", bytes(2**29))


def huge_array(folder: Path, _: Path) -> None:
    """Replace an array by one whose header declares a terabyte."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (137438953472,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(folder / "vecnormalize.npz", "a") as archive:
        archive.writestr("return_mean.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header)


hostile("vecnormalize.npz: an extra member inflates", "", inflating_member)
hostile("vecnormalize.npz: a terabyte", "E", huge_array)
hostile("vecnormalize.npz: objects", "E", normaliser(lambda a: a.update(settings=np.array([Payload()]))))
hostile(
    "vecnormalize.npz: a negative variance", "E", normaliser(lambda a: a.update(return_var=np.float64(-1)))
)
hostile("vecnormalize.npz: another shape", "E", normaliser(lambda a: a.update(observation_0_mean=np.ones(7))))

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
    ("5000 digits", "VP", '{"returns": [%s]}' % ("1" * 5000)),
    ("nested", "VP", "[" * 10**6),
    ("huge", "P", '{"returns": [1.7e308, -1.7e308]}'),
    ("a text", "P", '{"returns": ["=1+1"]}'),
):
    hostile(f"evaluation.json: {_name}", _rejects, raw("evaluation.json", _text))


def checkpoint(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    """Return what changes the content of every checkpoint."""

    def spoil(folder: Path, _: Path) -> None:
        checkpoints = Checkpoints(folder / "checkpoints")
        path, content = checkpoints.newest_valid()
        for other in (folder / "checkpoints").iterdir():
            if other != path:
                other.unlink()
        change(content)
        write(path, {"score": None, "content": content})

    return spoil


def without(*names: str) -> Callable[[dict[str, Any]], Any]:
    """Return the removal of an item."""

    def change(content: dict[str, Any]) -> None:
        for name in names[:-1]:
            content = content[name]
        del content[names[-1]]

    return change


def having(*names: str, value: Any) -> Callable[[dict[str, Any]], Any]:
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
for _name, _change in {
    **{
        f"no {name}": without(name)
        for name in ("log", "generators", "agent", "envs", "callbacks", "run", "seconds")
    },
    **{
        f"no {name} of the agent": without(_agent, name)
        for name in ("parameters", "moving", "logged", "noise")
    },
    "observations of another shape": having(_agent, "moving", "_last_obs", value=np.ones((4, 7), np.float32)),
    "observations that are a text": having(_agent, "moving", "_last_obs", value="x"),
    "starts that are numbers": having(_agent, "moving", "_last_episode_starts", value=np.ones(4)),
    "episodes that are a tensor": having(_agent, "episodes", value=torch.ones(3)),
    "episodes of texts": having(_agent, "episodes", value=[{"r": "x", "l": 1, "t": 1.0}]),
    "events that are a number": having("log", "events", value=5),
    "events elsewhere": having("log", "events", value={"../../victim": 0}),
    "events of negative size": having("log", "events", value={EVENTS: -1}),
    "rows that are a text": having("log", "csv", value={"rows": "x", "columns": 1}),
    "seconds that are a text": having("seconds", value="x"),
    "updates that are a text": having("updates", value="x"),
    "negative steps": having(_agent, "moving", "num_timesteps", value=-(10**12)),
    "steps of 481 digits": having(_agent, "moving", "num_timesteps", value=1 << 1600),
    "steps of 5000 digits": having(_agent, "moving", "num_timesteps", value=10**5000),
    "a logged expression": having(_agent, "logged", "train/loss", value="__import__('os')"),
    "a logged novel": having(_agent, "logged", "train/n_updates", value="[" * 10**6),
    "settings that are a list": having("run", value=[1]),
    "settings with numbers as keys": having("run", value={3: 4}),
    "parameters of another shape": having(_agent, "parameters", "policy", "log_std", value=torch.ones(9)),
    "parameters that are texts": having(_agent, "parameters", "policy", "log_std", value="x"),
    "an optimizer of texts": having(_agent, "parameters", "policy.optimizer", value={"state": "x"}),
    "an optimizer of other shapes": other_moments,
    "a generator of Python that is a text": having("generators", "python", value="x"),
    "a generator of NumPy that is a text": having("generators", "numpy", value={"bit_generator": "x"}),
    "a generator of PyTorch that is short": having(
        "generators", "torch", value=torch.ones(3, dtype=torch.uint8)
    ),
    "environments that are a text": having("envs", value="x"),
    "environments without wrappers": without("envs", "wrappers"),
    "counts that are texts": having(_agent, "averaged", value={"a": "x"}),
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
hostile("checkpoint: a linked folder", "R", linked_checkpoints)
hostile("checkpoint: a pipe", "R", checkpoint_pipe)
hostile("checkpoint: an exabyte", "R", each_checkpoint(HEADER.pack(MAGIC, 1, 2**60, bytes(32))))
hostile("checkpoint: pickles", "R", each_checkpoint(pickle.dumps(Payload())))
hostile("checkpoint: no file", "R", lambda folder, _: shutil.rmtree(folder / "checkpoints"))
hostile("an event log that is a folder", "R", directory("events.out.tfevents.9"))
hostile("links at temporary names", "", partial_files)
