"""The input of recurrent policies: observations in sequences, and the recurrent states at their starts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from npg.states import GroupedStates, each, select


@dataclass(frozen=True, eq=False)
class Packing:
    """The order in which a recurrent layer computes N states: by step, longer sequences first.

    So there is no padding: step t has one row for each sequence with more than t states.

    Attributes:
        sizes: the number of rows of every step, which never increases.
        sequences: the indices of the sequences, the longest first, (S,).
        rows: the index of the state in every row, (N,).
        places: the row of every state, (N,).
    """

    sizes: list[int]
    sequences: Tensor
    rows: Tensor
    places: Tensor

    @classmethod
    def of(cls, lengths: np.ndarray, device: torch.device) -> Self:
        """Return the order for sequences of these lengths, (S,)."""
        sequences = np.argsort(-lengths, kind="stable")
        firsts = (np.cumsum(lengths) - lengths)[sequences]
        steps = np.arange(lengths.max())[:, np.newaxis]
        present = lengths[sequences] > steps
        rows = (firsts + steps)[present]
        indices = (torch.as_tensor(each, device=device) for each in (sequences, rows, np.argsort(rows)))
        return cls(present.sum(1).tolist(), *indices)


@dataclass(frozen=True, eq=False)
class Sequences(GroupedStates):
    """N states in S sequences, one after another.

    Attributes:
        observations: raw observations (N, ...): a tensor, or a dictionary of them.
        lengths: the number of states in every sequence; all are positive.
        states: the recurrent states before the first state of every sequence, (K, layers, S, H); see
            `MlpLstmPolicy.zero_states`.
    """

    observations: Any
    lengths: tuple[int, ...]
    states: Tensor

    @classmethod
    def of_step(cls, observations: Any, states: Tensor) -> Self:
        """Return S sequences of one state each."""
        return cls(observations, (1,) * states.shape[2], states)

    @classmethod
    def of_rollout(cls, observations: Any, starts: np.ndarray, states: Tensor) -> Self:
        """Divide a rollout at the starts of its episodes.

        Args:
            observations: environment by environment, (n_envs · T, ...).
            starts: whether a state is an episode's first, (T, n_envs).
            states: the recurrent states before the rollout, (K, layers, n_envs, H).
        """
        first = starts.T.astype(bool)
        divided = first.copy()
        divided[:, 0] = True
        places = np.flatnonzero(divided)
        lengths = np.diff(np.append(places, divided.size))
        # An episode that started before the rollout keeps its recurrent state; any other starts from zeros.
        environments = torch.as_tensor(places // len(starts), device=states.device)
        continued = torch.as_tensor(~first.reshape(-1)[places], device=states.device)
        before = states[:, :, environments] * continued[:, np.newaxis]
        return cls(observations, tuple(lengths.tolist()), before)

    @cached_property
    def packing(self) -> Packing | None:
        """The order of computation; None if every sequence has one state."""
        lengths = np.array(self.lengths)
        return None if (lengths == 1).all() else Packing.of(lengths, self.states.device)

    def select(self, states: slice | Tensor) -> Self:
        """Return the sequences of the given states, in their order."""
        indices = np.arange(len(self))[states if isinstance(states, slice) else states.cpu().numpy()]
        firsts = np.cumsum(self.lengths) - self.lengths
        sequences = np.searchsorted(firsts, indices[np.isin(indices, firsts)])
        if not np.array_equal(indices, self.states_of(sequences)):
            raise ValueError("the states of a sequence depend on one another; select whole sequences")
        return self.take(sequences)

    def take(self, sequences: np.ndarray) -> Self:
        """Return the sequences of these indices, in their order."""
        indices = self.states_of(sequences)
        return replace(
            self,
            observations=select(self.observations, torch.as_tensor(indices)),
            lengths=tuple(self.lengths[i] for i in sequences),
            states=self.states[:, :, torch.as_tensor(sequences, device=self.states.device)],
        )

    def states_of(self, sequences: np.ndarray) -> np.ndarray:
        """Return the indices of the states of some sequences."""
        ends = np.cumsum(self.lengths)
        parts = [np.arange(ends[i] - self.lengths[i], ends[i]) for i in sequences]
        return np.concatenate([*parts, np.arange(0)])

    def each(self, function: Callable[[Any], Any]) -> Self:
        """Return the same sequences with a function applied to observations and recurrent states."""
        return replace(self, observations=each(function, self.observations), states=function(self.states))
