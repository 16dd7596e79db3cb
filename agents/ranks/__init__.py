"""Train one agent on several processes, each with its share of the environments (data-parallel)."""

from agents.ranks.agreement import check_same_numbers, check_same_settings
from agents.ranks.ranks import ONE, RankError, Ranks

__all__ = ["ONE", "RankError", "Ranks", "check_same_numbers", "check_same_settings"]
