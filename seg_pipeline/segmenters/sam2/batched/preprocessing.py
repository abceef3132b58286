"""Pictures as the network takes them, made on the device that runs it."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from seg_pipeline.domain import RgbImage

MEAN = (0.485, 0.456, 0.406)
SPREAD = (0.229, 0.224, 0.225)
"""Of the three colours in ImageNet; upstream's `SAM2Transforms` has them too."""

MOST_REDUCED = 32
"""Pictures that are reduced by more are reduced on the CPU.

CUDA's kernel keeps a line of the source for each pixel in shared memory, and refuses beyond about
100.
"""


def network_input(picture: RgbImage, side: int, device: torch.device) -> Tensor:
    """Upstream's `SAM2Transforms`: `(1, 3, side, side)` float32 on the device.

    The bytes of the picture are all that is copied there.
    """
    pixels = upload(picture, device)
    if max(picture.shape[:2]) > MOST_REDUCED * side:
        pixels = pixels.cpu()
    pixels = pixels.permute(2, 0, 1)[None].float() / 255
    pixels = interpolate(
        pixels, (side, side), mode="bilinear", align_corners=False, antialias=True
    ).to(device)
    return torch.cat(
        [
            (pixels[:, colour : colour + 1] - MEAN[colour]) / SPREAD[colour]
            for colour in range(len(MEAN))
        ],
        1,
    ).contiguous()


def upload(array: np.ndarray, device: torch.device) -> Tensor:
    """The array on the device, without a wait for what runs there: through pinned memory."""
    held = torch.empty(
        array.shape,
        dtype=torch.from_numpy(np.empty(0, array.dtype)).dtype,
        pin_memory=device.type == "cuda",
    )
    np.copyto(held.numpy(), array)
    return held.to(device, non_blocking=True)
