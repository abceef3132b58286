"""As `sam2`, with the smallest of the networks, and without exact: compiling it takes a minute."""

from collections.abc import Iterator

from benchmarks.gpu.findings import Asked, Finding
from benchmarks.gpu.sam2 import measure_modes


def measure(asked: Asked) -> Iterator[Finding]:
    """Times, memory and agreement of upstream and turbo, and where turbo's time goes."""
    yield from measure_modes(asked, "sam2.1_hiera_tiny", ("upstream", "turbo"))
