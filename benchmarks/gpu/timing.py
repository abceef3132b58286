"""Times calls on a device, which works while the host goes on."""

import time
from collections.abc import Callable, Mapping

import torch


def settle(device: str) -> None:
    """Returns when the device has done all that it was asked."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def milliseconds(call: Callable[[], object], device: str) -> float:
    """How long one call takes, until the device is done with it."""
    settle(device)
    begin = time.perf_counter()
    call()
    settle(device)
    return 1000 * (time.perf_counter() - begin)


def in_turns(
    sides: Mapping[str, Callable[[], object]], device: str, rounds: int, warm_up: int = 3
) -> dict[str, list[float]]:
    """Milliseconds of each side in each round, without those that warm up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warm_up + rounds):
        for name, call in sides.items():
            spent = milliseconds(call, device)
            if turn >= warm_up:
                times[name].append(spent)
    return times


def ratios(slow: list[float], quick: list[float]) -> list[float]:
    """How many times as fast the second was, round by round."""
    return [one / other for one, other in zip(slow, quick, strict=True)]


def peak_mb(call: Callable[[], object], device: str) -> float | None:
    """The most device memory that the call held, in MB; None on a CPU."""
    if not device.startswith("cuda"):
        return None
    torch.cuda.reset_peak_memory_stats(device)
    call()
    settle(device)
    return torch.cuda.max_memory_allocated(device) / 2**20
