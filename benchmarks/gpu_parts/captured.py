"""Part 7: captured steps (CUDA graphs) compared with eager steps, once captured steps exist."""

from gpu_parts.part import Part


def compare_captured(part: Part) -> None:
    """Report that there is nothing to compare yet."""
    part.add("captured against eager", result="no captured steps exist; nothing was compared")
