"""Tensor environments made of simulators that produce tensors themselves."""
