"""The path by which model.zip files of version 0.1 name the policies; they live in `agents.policy`."""

from agents.policy.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy"]
