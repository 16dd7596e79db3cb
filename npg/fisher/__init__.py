"""Fisher matrices of a policy as linear operators."""
