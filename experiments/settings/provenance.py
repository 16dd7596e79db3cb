"""Describe the machine and the versions that a run's results were computed with."""

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

import torch

PACKAGES = ("npg-toolkit", "torch", "gymnasium", "stable-baselines3", "sb3-contrib", "numpy", "mujoco")


def hardware() -> dict[str, str | int | None]:
    """Return the processor's name, the number of cores this process may use, and the GPU's name or None."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def cpu_model() -> str:
    """Return the processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of Python and packages, and the commit if this is a Git checkout."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    git = ["git", "-C", str(files("experiments")), "describe", "--always", "--dirty", "--abbrev=12"]
    with suppress(OSError, subprocess.CalledProcessError):  # not a checkout, or no git
        found["commit"] = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    return found
