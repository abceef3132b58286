"""How much memory the masks of one picture may take, and which ones are kept beyond that."""

import logging
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

MASK_BYTES = 2**31
"""The bytes of a picture's masks, one for each pixel of their boxes.

Only a job with almost no thresholds on a large picture gets so far.
"""

logger = logging.getLogger(__name__)


def surest_that_fit(scores: Sequence[float], sizes: Sequence[int], room: int) -> set[int]:
    """The indices of the masks with the best scores that fit into `room` bytes.

    Logs how many are dropped.
    """
    surest = sorted(range(len(scores)), key=lambda index: -scores[index])
    fitting = bisect_right([*accumulate(sizes[index] for index in surest)], room)
    if fitting < len(surest):
        logger.warning(
            "kept the surest %s of %s masks: more would not fit into memory", fitting, len(surest)
        )
    return set(surest[:fitting])
