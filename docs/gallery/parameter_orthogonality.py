"""
Parameter orthogonality
=======================

Two parameters are orthogonal if their entry of the Fisher matrix is 0. Then estimating one does not make the other less precise, and a natural step in one leaves the other alone.
The mean and the log standard deviation of a Gaussian are orthogonal. Turn these coordinates by an angle, and they are not, although
the family of distributions is the same. Orthogonal initialisation of a network, despite its name, makes the *weights* orthogonal, not
the parameters: the layers stay coupled.

**Source**: D. R. Cox, N. Reid, *Parameter orthogonality and approximate conditional inference*, JRSS B 49, 1987. For the initialisation, A. M. Saxe et al., *Exact
solutions to the nonlinear dynamics of learning in deep linear neural networks*, ICLR 2014.

**Uses**: :class:`npg.ExactFisher`, :class:`npg.DiagonalFisher`, :func:`npg.block_coupling`,
:func:`npg.parameter_covariance`, :func:`npg.spectrum`.
"""

# %%
# A Gaussian whose mean and log standard deviation are a rotation of its parameters.

import math
import os

import numpy as np
import torch
from torch import Tensor, nn

from experiments.extras import needs
from npg import (
    DiagGaussian,
    DiagonalFisher,
    ExactFisher,
    FlatParameters,
    block_coupling,
    parameter_covariance,
    spectrum,
)

with needs('-e ".[gallery]"'):
    import matplotlib.pyplot as plt

SMALL = os.environ.get("GALLERY_SMALL") == "1"


class Rotated(nn.Module):
    """N(μ, σ) with (μ, log σ) = R(angle) θ."""

    def __init__(self, std: float, angle: float):
        super().__init__()
        cos, sin = math.cos(angle), math.sin(angle)
        self.rotation = torch.tensor([[cos, -sin], [sin, cos]]).double()
        self.theta = nn.Parameter(self.rotation.T @ torch.tensor([0.0, math.log(std)]).double())

    def forward(self, states: Tensor) -> DiagGaussian:
        mean, log_std = self.rotation @ self.theta
        return DiagGaussian(mean.expand(len(states), 1), log_std.expand(1))


def coupling(module: nn.Module, states: Tensor, blocks: dict[str, slice], **options):
    """Return what a block-diagonal Fisher matrix would miss."""
    return block_coupling(ExactFisher(module, states), DiagonalFisher(module, states).diagonal, blocks, **options)


