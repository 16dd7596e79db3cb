"""The policies of `agents.policy`, for model.zip files of version 0.1, which import them from here."""

from agents.policy.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy"]
