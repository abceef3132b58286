"""`python -m ...interpreted FILE`: what the Triton kernels make of the questions in FILE.

It needs TRITON_INTERPRET=1, which Triton reads when it is first imported: so it is a process of its
own. The answers go into the same file.
"""

import sys
from pathlib import Path

import torch

from seg_pipeline.segmenters.sam2.batched.kernels import measure_masks, pack_masks
from seg_pipeline.segmenters.sam2.batched.measures import Ask


def main() -> None:
    """Answers each question by the kernel for it."""
    path = Path(sys.argv[1])
    questions = torch.load(path, weights_only=False)
    answers = [measure_masks(ask) if isinstance(ask, Ask) else pack_masks(ask) for ask in questions]
    torch.save(answers, path)


if __name__ == "__main__":
    main()
