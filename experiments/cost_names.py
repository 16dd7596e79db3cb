"""The names of costs in evaluations and reports."""


def cost_names(count: int) -> list[str]:
    """Return the names of the costs of an environment that reports `count` of them."""
    return ["cost"] if count == 1 else [f"cost_{i}" for i in range(count)]
