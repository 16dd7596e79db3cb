"""What pyproject.toml cannot say: where the packages are, and the description that a package index shows."""

import re
from pathlib import Path

from setuptools import find_packages, setup

LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")


def description() -> str:
    """Return README.md with the names of files instead of relative links, which lead nowhere elsewhere."""

    def in_words(link: re.Match[str]) -> str:
        target, text = link["target"], link["text"]
        if target.startswith("https:"):
            return link[0]
        path = target.partition("#")[0]
        if link["image"]:
            return f"*Figure {path}: {text}.*"
        return text if path in ("", text.rstrip("/")) else f"{text} ({path})"

    readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    title, _, rest = readme.partition("\n\n")
    note = "The files named below are in the source distribution."
    return f"{title}\n\n{note}\n\n{LINK.sub(in_words, rest)}"


setup(
    packages=[
        *find_packages(include=["npg*", "agents*", "envs*", "experiments*"]),
        "experiments.configs",
    ],
    package_dir={"experiments.configs": "configs"},
    long_description=description(),
    long_description_content_type="text/markdown",
)
