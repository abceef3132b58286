"""The peak of this process' resident memory, as Linux counts it (proc(5))."""

from pathlib import Path


def forget_peak() -> None:
    """Lets the kernel count the peak anew (clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_kb() -> int:
    """Most resident memory since the process began or `forget_peak` was called, in the kernel's
    kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
