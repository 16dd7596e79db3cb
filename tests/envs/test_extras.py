"""The command that installs what is missing: in the checkout, elsewhere, and without a checkout."""

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from envs.extras import install_command

ROOT = Path(__file__).parents[2]
LINES = [
    "numpy>=2",
    'jinja2>=3.1; extra == "report"',
    "plotly>=6 ; extra == 'report'",
    'npg-toolkit[mujoco,report]; extra == "both"',
    'gymnasium[mujoco]; extra == "mujoco"',
    'reporter; extra == "reporter"',
]


class Installed:
    """An installed distribution with this direct_url.json."""

    def __init__(self, text: str | None):
        self.text = text

    def read_text(self, _: str) -> str | None:
        """Return the text."""
        return self.text


def install(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    """Let the project be installed from elsewhere."""
    found: dict[str, Any] = {"distribution": lambda _: Installed(text), "requires": lambda _: LINES}
    for name, function in found.items():
        monkeypatch.setattr(metadata, name, function)


def test_in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """As README.md has it."""
    monkeypatch.chdir(ROOT)
    assert install_command("report") == 'pip install -c constraints.txt -e ".[report]"'
    assert install_command(package="sb3-contrib") == "pip install -c constraints.txt sb3-contrib"


def test_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user works in a folder of their own: both paths lead to the checkout."""
    install(monkeypatch, '{"url": "file:///my%20code/npg", "dir_info": {"editable": true}}')
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('dependencies = ["npg-toolkit"]')
    command = "pip install -c '/my code/npg/constraints.txt' -e \"/my code/npg/[report]\""
    assert install_command("report") == command


@pytest.mark.parametrize("text", [None, '{"url": "file:///a.whl", "archive_info": {}}'])
def test_of_a_wheel(text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project is on no index, so the packages themselves are named, also those of nested extras."""
    install(monkeypatch, text)
    monkeypatch.chdir(tmp_path)
    assert install_command("report") == "pip install 'jinja2>=3.1' 'plotly>=6'"
    assert install_command("both") == "pip install 'gymnasium[mujoco]' 'jinja2>=3.1' 'plotly>=6'"
    assert install_command(package="sb3-contrib") == "pip install sb3-contrib"
