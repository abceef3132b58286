"""How much memory the masks of one picture may take, and which of them stay when there are more."""

import logging
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

MASK_BYTES = 2**31
"""What the masks of a picture may take, a byte for each pixel of their boxes. Only a job that sets
its thresholds to next to nothing on a large picture comes so far."""

logger = logging.getLogger(__name__)


def surest_that_fit(scores: Sequence[float], sizes: Sequence[int], room: int) -> set[int]:
    """The indices of the masks with the best scores, as far as there is room for their bytes; logs
    what stays out."""
    surest = sorted(range(len(scores)), key=lambda index: -scores[index])
    fitting = bisect_right([*accumulate(sizes[index] for index in surest)], room)
    if fitting < len(surest):
        logger.warning(
            "kept the surest %s of %s masks: more would not fit into memory", fitting, len(surest)
        )
    return set(surest[:fitting])
