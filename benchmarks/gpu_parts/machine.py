"""Part 1: the device, and its throughputs, with which all other measurements are compared."""

import subprocess
from functools import cache

import torch

from gpu_parts.part import Part
from gpu_parts.timing import median_seconds


def measure_machine(part: Part) -> None:
    """Report device, driver and versions; measure matrix products, copies and the cost of a small call."""
    device, table = part.device, "machine"
    for quantity, value in describe(device).items():
        part.add(table, quantity=quantity, value=value, unit="")
    size = matmul_size(part.dry_run)
    rate = matmul_flops(device, part.dry_run)
    part.add(table, quantity=f"float32 matrix product {size}^3, TF32 off", value=rate / 1e12, unit="TFLOP/s")
    part.add(
        table,
        quantity="device copy, bytes read plus bytes written",
        value=copy_bytes(device, part.dry_run) / 1e9,
        unit="GB/s",
    )
    small = torch.ones(8, device=device)
    add = median_seconds(lambda: small.add_(1), device)
    read = median_seconds(lambda: small[0].item(), device)
    part.add(table, quantity="addition of 8 numbers, many in a row", value=add * 1e6, unit="µs")
    part.add(table, quantity="reading one number on the host", value=read * 1e6, unit="µs")


def describe(device: torch.device) -> dict[str, str]:
    """Return names and versions of the hardware and software."""
    found = {"torch": torch.__version__, "CPU threads": str(torch.get_num_threads())}
    if device.type != "cuda":
        return {"device": "CPU", **found}
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": properties.name,
        "driver": driver_version(),
        "CUDA of torch": str(torch.version.cuda),
        "memory": f"{properties.total_memory / 2**30:.1f} GiB",
        "multiprocessors": str(properties.multi_processor_count),
        **found,
    }


def driver_version() -> str:
    """Return the driver's version, or "unknown" without nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip() or "unknown"


def matmul_size(dry_run: bool) -> int:
    """Return the number of rows of the matrices."""
    return 256 if dry_run else 4096


@cache
def matmul_flops(device: torch.device, dry_run: bool) -> float:
    """Return the throughput of a float32 matrix product without TF32, in FLOP/s; measure it once."""
    size = matmul_size(dry_run)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        a, b, out = (torch.randn(size, size, device=device) for _ in range(3))
        return 2 * size**3 / median_seconds(lambda: torch.mm(a, b, out=out), device)
    finally:
        torch.set_float32_matmul_precision(precision)


def copy_bytes(device: torch.device, dry_run: bool) -> float:
    """Return the throughput of a copy within the device in bytes per second, counting reads and writes."""
    numbers = 2**20 if dry_run else 2**28
    source, target = (torch.randn(numbers, device=device) for _ in range(2))
    return 2 * 4 * numbers / median_seconds(lambda: target.copy_(source), device)
