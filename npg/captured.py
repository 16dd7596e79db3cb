"""Functions of tensors that a GPU replays as one CUDA graph.

With small tensors, a GPU waits for the host to launch its operations one by one. A CUDA graph holds all
operations of a function, and one launch replays them.
"""

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from npg.cuda_graph import CudaGraph
from npg.host import scalar_dtype
from npg.states import each, leaves_of

MOST_GRAPHS = 4  # per function; the oldest is dropped


class Captured:
    """A function of tensors, captured once per shape of its arguments and then replayed.

        step = Captured(env.step, "cuda", state=lambda: env.tensors, generators=[env.generator])
        observations, rewards = step(actions)

    A call gives what a direct call of the function gives, except that **the next call overwrites its
    results**: clone what must outlive it. The function is called directly on devices other than CUDA, inside
    another capture and, after a warning, once a capture has failed.

    The function must queue the same operations in every call: no host read, no decision that depends on
    numbers of the device, no tensor made from Python numbers by `torch.tensor` (`torch.full`, and
    `torch.where` with a number, are fine). Its Python code runs a few times per capture, and never in a
    replay. So what it reads from Python objects is constant, and what it changes must be tensors, changed in
    place, that `state` lists.

    Args:
        function: returns tensors in tuples, lists and dictionaries; other values in them are constant.
        device: where it runs. Arguments are copied there.
        state: returns the tensors that the function changes. A capture leaves their values as they were.
        reads: returns the tensors that the function only reads, besides its arguments, e.g. parameters. If
            one of them, or of the state, has moved, the function is captured again.
        generators: the random generators that the function draws from, besides the device's default one. A
            capture leaves them as they were, and a replay continues their sequences.

    Attributes:
        failure: why a capture failed; None if none has failed.
    """

    graph: ClassVar[type[CudaGraph]] = CudaGraph

    def __init__(
        self,
        function: Callable[..., Any],
        device: torch.device | str,
        *,
        state: Callable[[], Iterable[Tensor]] = tuple,
        reads: Callable[[], Iterable[Tensor]] = tuple,
        generators: Iterable[Generator] = (),
    ):
        self.failure: str | None = None
        self._function = function
        self._device = torch.device(device)
        self._state = state
        self._reads = reads
        self._generators = tuple(generators)
        self._recordings: dict[Hashable, _Recording] = {}

    @property
    def replays(self) -> bool:
        """Whether a call now would be replayed, after a capture if necessary, rather than run directly."""
        return self.failure is None and self.graph.available(self._device)

    def __call__(self, *arguments: Any) -> Any:
        """Return the function's results.

        Args:
            arguments: tensors, in tuples, lists and dictionaries. A number becomes a 0-d tensor on the
                device, so that it may change between calls. Other values are constant, as are structures,
                shapes and dtypes: there is one capture for each combination.
        """
        if not self.replays:
            return self._function(*self._on_device(arguments))
        key, places = _signature(arguments), [_place(t) for t in (*self._state(), *self._reads())]
        recording = self._recordings.get(key)
        if recording is None or recording.places != places:
            self._drop(key)
            recording = self._record(arguments, places)
            if recording is None:
                return self._function(*self._on_device(arguments))
            self._recordings[key] = recording
        recording.load(arguments)
        recording.graph.replay()
        return recording.results

    def forget(self) -> None:
        """Drop all captures and their memory; the next call captures again."""
        for recording in self._recordings.values():
            recording.graph.drop()
        self._recordings.clear()

    def _drop(self, key: Hashable) -> None:
        """Make room for a capture: drop an outdated one with the same key, or the oldest of too many."""
        if key in self._recordings or len(self._recordings) >= MOST_GRAPHS:
            old = key if key in self._recordings else next(iter(self._recordings))
            self._recordings.pop(old).graph.drop()

    def _record(self, arguments: tuple[Any, ...], places: list[Hashable]) -> "_Recording | None":
        with torch.inference_mode(False):  # tensors made in inference mode could not be written outside of it
            buffers = _each_tensor(torch.clone, self._on_device(arguments))
        graph = self.graph(self._device, self._generators)

        def run() -> Any:
            return self._function(*buffers)

        with self._undone():
            graph.warm_up(run)  # raises the function's own errors
            try:
                results = graph.capture(run)
            except Exception as error:
                self._give_up(error)
                return None
        return _Recording(graph, list(leaves_of(buffers)), results, places)

    def _give_up(self, error: BaseException) -> None:
        while error.__context__ is not None:  # the end of the capture raises, too
            error = error.__context__
        self.failure = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        self.forget()
        name = getattr(self._function, "__qualname__", repr(self._function))
        warnings.warn(
            f"{name} cannot be captured as a CUDA graph and is called directly, which gives the same results "
            f"but may take longer: {self.failure}",
            RuntimeWarning,
            stacklevel=4,
        )

    def _on_device(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        def of(leaf: Any) -> Any:
            if isinstance(leaf, Tensor):
                return leaf.detach().to(self._device)
            if not _is_number(leaf):
                return leaf
            dtype = torch.int64 if isinstance(leaf, int) else scalar_dtype(self._device)
            return torch.full((), leaf, dtype=dtype, device=self._device)

        return tuple(each(of, arguments))

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Restore the state and the generators after the block."""
        tensors = [(tensor, tensor.detach().clone()) for tensor in self._state()]
        generators = (*self._generators, *self.graph.default_generators(self._device))
        states = [(generator, generator.get_state()) for generator in generators]
        try:
            yield
        finally:
            for generator, before in states:
                generator.set_state(before)
            with torch.no_grad():
                for tensor, copy in tensors:
                    if not torch.equal(tensor, copy):  # a write would invalidate graphs of autograd
                        tensor.copy_(copy)


@dataclass(frozen=True, eq=False)
class _Recording:
    """A capture for one kind of arguments.

    Attributes:
        graph: the operations.
        buffers: the tensors from which they read the arguments; constants are there, too.
        results: the function's results, which a replay overwrites.
        places: where the tensors were that the function uses besides its arguments.
    """

    graph: CudaGraph
    buffers: list[Any]
    results: Any
    places: list[Hashable]

    def load(self, arguments: tuple[Any, ...]) -> None:
        """Copy the arguments into the buffers."""
        targets, sources = [], []
        for buffer, leaf in zip(self.buffers, leaves_of(arguments), strict=True):
            if isinstance(leaf, Tensor) and leaf.device != buffer.device:
                buffer.copy_(leaf.detach())
            elif isinstance(leaf, Tensor):
                targets.append(buffer)
                sources.append(leaf.detach())
            elif _is_number(leaf):
                buffer.fill_(leaf)
        if targets:
            torch._foreach_copy_(targets, sources)


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, int | float) and not isinstance(leaf, bool)


def _each_tensor(function: Callable[[Tensor], Tensor], data: Any) -> Any:
    return each(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, data)


def _place(tensor: Tensor) -> Hashable:
    """Return what identifies a tensor to the operations that use it."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad


def _signature(data: Any) -> Hashable:
    """Return the structure of arguments, the shapes and dtypes of their tensors, and their constants."""
    if isinstance(data, dict):
        return "dict", tuple((key, _signature(value)) for key, value in data.items())
    if isinstance(data, tuple | list):
        return type(data).__name__, tuple(_signature(value) for value in data)
    if isinstance(data, Tensor):
        return "tensor", data.shape, data.dtype
    return type(data), None if _is_number(data) else data
