"""A network link with a delay, between two network namespaces of this machine that act as two machines.

Each namespace has a TUN device. A process forwards every packet from one to the other after the delay, so
that all connections have the same delay: torchrun's, the store's and gloo's. A TCP relay would need the ports
that gloo chooses. `tc netem` does the same as this process, but not every kernel has it.
"""

import fcntl
import os
import queue
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Self

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
LARGEST_PACKET = 65_535
QUEUED_PACKETS = 1000


class DelayedLink:
    """Two namespaces and the process between them; needs root.

    Args:
        delay: seconds from one end to the other.

    Attributes:
        device: name of the network device in each namespace.
        addresses: of the two ends.
    """

    device = "delayed0"
    addresses = ("10.18.0.1", "10.18.0.2")

    def __init__(self, delay: float):
        self._namespaces = [f"delayed-{os.getpid()}-{end}" for end in (0, 1)]
        self._process: subprocess.Popen[str] | None = None
        try:
            for name in self._namespaces:
                ip("netns", "add", name)
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(delay), *self._namespaces], stdout=subprocess.PIPE, text=True
            )
            assert self._process.stdout is not None
            if not self._process.stdout.readline():
                raise OSError("the link could not be made; its error is above")
        except BaseException:
            self.close()
            raise

    def inside(self, end: int) -> list[str]:
        """Return the words with which a command starts to run at one end."""
        return ["ip", "netns", "exec", self._namespaces[end]]

    def close(self) -> None:
        """End the process, and delete the namespaces."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
        for name in self._namespaces:
            with suppress(subprocess.CalledProcessError, FileNotFoundError):
                ip("netns", "del", name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ip(*words: str) -> None:
    """Run the command `ip`."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


def open_device(namespace: str, end: int) -> int:
    """Return the descriptor of a new TUN device in a namespace."""
    temporary = f"delayed{os.getpid() % 10_000}{end}"
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", temporary.encode(), IFF_TUN | IFF_NO_PI))
    ip("link", "set", temporary, "netns", namespace, "name", DelayedLink.device)
    inside = ("-n", namespace)
    ip(*inside, "address", "add", f"{DelayedLink.addresses[end]}/30", "dev", DelayedLink.device)
    ip(*inside, "link", "set", DelayedLink.device, "txqueuelen", str(QUEUED_PACKETS), "up")
    ip(*inside, "link", "set", "lo", "up")
    return descriptor


def forward(source: int, target: int, delay: float) -> None:
    """Write every packet of one device to the other after the delay, in order."""
    packets: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def write() -> None:
        while True:
            due, packet = packets.get()
            if (left := due - time.monotonic()) > 0:
                time.sleep(left)
            os.write(target, packet)

    threading.Thread(target=write, daemon=True).start()
    while True:
        packet = os.read(source, LARGEST_PACKET)
        packets.put((time.monotonic() + delay, packet))


def main(delay: float, *namespaces: str) -> None:
    """Forward packets in both directions until the process is ended."""
    os.nice(-10)  # packets must not wait for a core, and forwarding them takes little of it
    first, second = (open_device(namespace, end) for end, namespace in enumerate(namespaces))
    threading.Thread(target=forward, args=(second, first, delay), daemon=True).start()
    print("ready", flush=True)
    forward(first, second, delay)


if __name__ == "__main__":
    main(float(sys.argv[1]), *sys.argv[2:])
