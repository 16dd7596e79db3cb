"""Find the files of configs/."""

from importlib.resources import files
from pathlib import Path


def config_file(name: str) -> Path:
    """Return the path of a file of configs/, which a wheel installs as the package experiments.configs."""
    package = Path(str(files("experiments")))
    folders = (package / "configs", package.parent / "configs")  # in a wheel, in a checkout
    return next(folder for folder in folders if folder.is_dir()) / name
