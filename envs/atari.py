"""The ids of Atari games, which the package ale-py registers."""

import importlib
import re

import gymnasium as gym

from envs.errors import MissingExtraError
from envs.extras import install_command

WRAPPER = "stable_baselines3.common.atari_wrappers.AtariWrapper"
_IDS = re.compile(r"ALE/\w+-v\d+|\w+NoFrameskip-v\d+")


def is_atari(env_id: str) -> bool:
    """Return whether an id is that of an Atari game of ale-py."""
    return _IDS.fullmatch(env_id.rpartition(":")[2]) is not None


def register_atari(env_id: str) -> None:
    """Register ale-py's games, whose ROMs it contains, if the id is that of one.

    Raises:
        MissingExtraError: If ale-py is not installed.
    """
    if not is_atari(env_id) or env_id.rpartition(":")[2] in gym.registry:
        return
    try:
        importlib.import_module("ale_py")
        importlib.import_module("cv2")
    except ImportError as error:
        raise MissingExtraError(
            f"{env_id} is an Atari game and needs a package that is not installed ({error}); "
            f"{install_command('atari')}"
        ) from error
