"""As `sam2`, with the smallest of the networks."""

from collections.abc import Iterator

from benchmarks.gpu import sam2
from benchmarks.gpu.findings import Asked, Finding


def measure(asked: Asked) -> Iterator[Finding]:
    """Times, memory and agreement of the three, and where turbo's time goes."""
    yield from sam2.measure(asked, "sam2.1_hiera_tiny")
