"""The packages: those that are found, and configs/, which is installed inside experiments."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["npg*", "agents*", "envs*", "experiments*"]),
        "experiments.configs",
    ],
    package_dir={"experiments.configs": "configs"},
)
