"""A vector environment whose environments run in worker processes."""
