"""A run folder from a stranger: none of its code runs, whatever reads it."""

import base64
import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from faults.harness import Server, logs_of
from stable_baselines3.common.save_util import load_from_zip_file

from experiments.run.checkpoint_file import write
from experiments.run.checkpoints import Checkpoints


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        """Return what `pickle` calls."""
        return Path.touch, (self.canary,)


def pickled_checkpoints(folder: Path, canary: Path) -> None:
    """A pickle in the place of every checkpoint, one of them within a valid header."""
    paths = sorted((folder / "checkpoints").iterdir())
    payload = pickle.dumps(Payload(canary))
    for path in paths:
        path.write_bytes(payload)
    torch.save({"score": 1.0, "content": Payload(canary)}, paths[-1])
    write(paths[0], {"score": 0.0, "content": {"agent": payload.decode("latin1")}})


def crafted_checkpoint(folder: Path, canary: Path) -> None:
    """A valid checkpoint whose texts are expressions, and whose counters have other names."""
    checkpoints = Checkpoints(folder / "checkpoints")
    path, content = checkpoints.newest_valid()
    expression = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    content["agent"]["logged"]["train/loss"] = expression
    write(path, {"score": None, "content": content})


def executable_config(folder: Path, canary: Path) -> None:
    """A config.yaml that calls a function."""
    path = folder / "config.yaml"
    path.write_text(path.read_text() + f"extra: !!python/object/apply:os.mknod [{canary}]\n")


def executable_names(folder: Path, canary: Path) -> None:
    """A config.yaml that names a module of the folder, which an import would run."""
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(canary)!r}).touch()\n")
    path = folder / "config.yaml"
    document = yaml.safe_load(path.read_text())
    document["policy"] = "evil.Policy"
    document["env"] = "evil:Pendulum-v1"
    path.write_text(yaml.safe_dump(document))


def executable_wrappers(folder: Path, canary: Path) -> None:
    """Wrappers and a callback of a module of the folder, and a wrapper of Gymnasium that writes files."""
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(canary)!r}).touch()\n")
    path = folder / "config.yaml"
    document = yaml.safe_load(path.read_text())
    recorder = {"gymnasium.wrappers.RecordVideo": {"video_folder": str(canary)}}
    document |= {"env_wrapper": [recorder, {"evil.Wrapper": {}}], "callback": "evil.Callback"}
    path.write_text(yaml.safe_dump(document | {"vec_env_wrapper": "evil.VecWrapper"}))


def pickled_model(folder: Path, canary: Path) -> None:
    """A model.zip whose settings and whose tensors are pickles, as SB3's `load` unpickles them."""
    with zipfile.ZipFile(folder / "model.zip") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(parts["data"])
    serialized = base64.b64encode(pickle.dumps(Payload(canary))).decode()
    data["lr_schedule"] = {":type:": "x", ":serialized:": serialized}
    tensors = io.BytesIO()
    torch.save(Payload(canary), tensors)
    parts |= {"data": json.dumps(data).encode(), "policy.pth": tensors.getvalue()}
    with zipfile.ZipFile(folder / "model.zip", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def pickled_normaliser(folder: Path, canary: Path) -> None:
    """A normaliser as SB3 pickles it."""
    (folder / "vecnormalize.pkl").write_bytes(pickle.dumps(Payload(canary)))


def executable_log(folder: Path, canary: Path) -> None:
    """A progress.csv of expressions and pickles."""
    path = folder / "progress.csv"
    expression = f"__import__('pathlib').Path('{canary}').touch()"
    header, *rows = path.read_text().splitlines()
    path.write_text(
        "\n".join([header, *(",".join([expression] * len(row.split(","))) for row in rows)]) + "\n"
    )


CRAFTED = (
    pickled_checkpoints,
    crafted_checkpoint,
    executable_config,
    executable_names,
    executable_wrappers,
    pickled_model,
    pickled_normaliser,
    executable_log,
)


@pytest.fixture(params=CRAFTED, ids=lambda craft: craft.__name__)
def crafted(request: pytest.FixtureRequest, finished: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A crafted run folder, and the file that its code would make."""
    folder, canary = Path(shutil.copytree(finished, tmp_path / "crafted")), tmp_path / "canary"
    request.param(folder, canary)
    return folder, canary


def test_resuming_runs_none_of_it(server: Server, crafted: tuple[Path, Path]) -> None:
    """`train.py --resume`, of a run that is not finished."""
    folder, canary = crafted
    (folder / "evaluation.json").unlink()
    started = server.run(logs_of(folder), "--resume", folder, "--allow-changes")
    assert "Traceback" not in started.output
    assert not canary.exists()


def test_looking_at_it_runs_none_of_it(server: Server, crafted: tuple[Path, Path]) -> None:
    """`npg evaluate`."""
    folder, canary = crafted
    started = server.run(logs_of(folder), folder, command="evaluate")
    assert "Traceback" not in started.output
    assert not canary.exists()


# With these the run is still valid, and an export takes seconds: one folder has all three.
BESIDE = (pickled_model, pickled_normaliser, executable_log)


@pytest.mark.parametrize("crafts", [*((craft,) for craft in CRAFTED if craft not in BESIDE), BESIDE])
def test_exporting_it_runs_none_of_it(
    server: Server, finished: Path, tmp_path: Path, crafts: Sequence[Callable[[Path, Path], None]]
) -> None:
    """`npg export`."""
    pytest.importorskip("onnxruntime")
    folder, canary = Path(shutil.copytree(finished, tmp_path / "crafted")), tmp_path / "canary"
    for craft in crafts:
        craft(folder, canary)
    started = server.run(logs_of(folder), folder, command="export")
    assert "Traceback" not in started.output
    assert not canary.exists()
    assert started.code == 0 or crafts != BESIDE, started.output


def test_a_report_of_all_runs_none_of_it(server: Server, finished: Path, tmp_path: Path) -> None:
    """`npg report` of a folder with all of them."""
    pytest.importorskip("jinja2")
    pytest.importorskip("plotly")
    canary = tmp_path / "canary"
    for craft in CRAFTED:
        craft(Path(shutil.copytree(finished, tmp_path / "crafted" / craft.__name__)), canary)
    started = server.run(logs_of(tmp_path / "crafted"), tmp_path / "crafted", command="report")
    assert started.code in (0, 2) and "Traceback" not in started.output
    assert "crafted-report" in started.output and not canary.exists()


def test_the_code_would_run(finished: Path, tmp_path: Path) -> None:
    """Read the usual way each of these files makes the file: what is tested above is not harmless."""
    canary = tmp_path / "canary"

    def fires(folder: Path, read: Callable[[Path], object]) -> bool:
        canary.unlink(missing_ok=True)
        with suppress(Exception):
            read(folder)
        return canary.exists()

    readers = {
        pickled_checkpoints: lambda folder: pickle.loads(
            sorted((folder / "checkpoints").iterdir())[1].read_bytes()
        ),
        executable_config: lambda folder: yaml.unsafe_load((folder / "config.yaml").read_text()),
        pickled_model: lambda folder: load_from_zip_file(folder / "model.zip"),
        pickled_normaliser: lambda folder: pickle.loads((folder / "vecnormalize.pkl").read_bytes()),
        executable_log: lambda folder: eval(
            (folder / "progress.csv").read_text().splitlines()[1].split(",")[0]
        ),
        executable_names: lambda folder: exec((folder / "evil.py").read_text()),
        executable_wrappers: lambda folder: exec((folder / "evil.py").read_text()),
        crafted_checkpoint: lambda folder: eval(
            Checkpoints(folder / "checkpoints").newest_valid()[1]["agent"]["logged"]["train/loss"]
        ),
    }
    for craft in CRAFTED:
        folder = Path(shutil.copytree(finished, tmp_path / craft.__name__))
        craft(folder, canary)
        assert fires(folder, readers[craft]), craft.__name__
