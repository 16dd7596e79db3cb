"""The settings of a run: stored completely, and compared by name."""

from pathlib import Path

import pytest
import yaml

from experiments.settings.arguments import Arguments
from experiments.settings.configuration import resolve
from experiments.settings.run_settings import RunSettings, differences


def settings(**changes: object) -> RunSettings:
    """Return a resolved run."""
    return resolve(Arguments(device="cpu", vec_env="dummy", **changes))


def test_a_document_gives_the_settings_back(tmp_path: Path) -> None:
    """Through YAML, and with the other entries of the document."""
    told = settings()
    document = yaml.safe_load(yaml.safe_dump(told.document(target_kl_joint=0.01)))
    assert document["target_kl_joint"] == 0.01 and {"hardware", "versions"} <= document.keys()
    assert RunSettings.from_document(document) == told


def test_a_document_that_lacks_something_is_rejected() -> None:
    """What is missing is named."""
    document = settings().document()
    del document["seed"], document["n_envs"]
    with pytest.raises(ValueError, match="lacks seed, n_envs"):
        RunSettings.from_document(document)


def test_differences_are_named_and_the_machine_is_none() -> None:
    """Nested settings by their path; another processor gives no other settings."""
    before, now = settings().document(), settings(seed=3, set=(("target_kl=0.5",),)).document()
    now["hardware"] = {"cpu": "another"}
    now["versions"] = {**before["versions"], "torch": "9"}
    torch = before["versions"]["torch"]
    assert differences(before, before) == []
    assert differences(before, now) == [
        "hyperparameters.target_kl: 0.01 -> 0.5",
        "seed: 0 -> 3",
        f"versions.torch: {torch} -> 9",
    ]


def test_the_timeout_of_workers_is_kept_and_makes_no_other_run() -> None:
    """From the command line into the document; folders of version 0.1 lack it."""
    assert Arguments.parse(["--worker-timeout", "150"]).worker_timeout == 150
    patient, usual = settings(worker_timeout=150.0), settings()
    assert patient.document()["worker_timeout"] == 150
    assert RunSettings.from_document(patient.document()).worker_timeout == 150
    assert patient == usual and differences(patient.document(), usual.document()) == []
    document = usual.document()
    del document["worker_timeout"]
    assert RunSettings.from_document(document).worker_timeout == 60
    for wrong in (-1.0, float("inf"), "60", None, True):
        with pytest.raises(ValueError, match="worker_timeout must be seconds"):
            RunSettings.from_document({**document, "worker_timeout": wrong})
