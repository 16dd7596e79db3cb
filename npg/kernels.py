"""Choose among torch's kernels: the same with and without gradients, or those with second derivatives.

These choices are global to the process.
"""

import threading
from collections.abc import Iterator
from contextlib import ContextDecorator, contextmanager

from torch.backends import cudnn, mha
from torch.nn.attention import SDPBackend, sdpa_kernel


class _SameKernels(ContextDecorator):
    """Evaluate Transformers without gradients by the kernels that are used with gradients.

    In evaluation mode and without gradients, `nn.TransformerEncoder`, its layers and `nn.MultiheadAttention`
    take a "fast path". Its results differ by rounding and, if a mask hides padded tokens, by more, so the
    policy would not be the one that is differentiated. Several threads may be inside at a time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = True

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = mha.get_fastpath_enabled()
                mha.set_fastpath_enabled(False)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                mha.set_fastpath_enabled(self._before)


same_kernels = _SameKernels()


@contextmanager
def differentiable_kernels() -> Iterator[None]:
    """Evaluate attention and recurrent layers by kernels whose gradients can be differentiated again.

    Fused attention and cuDNN's recurrent layers have no second derivative.
    """
    with sdpa_kernel(SDPBackend.MATH), cudnn.flags(enabled=False):
        yield
