"""Half precision: where a model computes in it, and which weights are kept in it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn


def computing_in(dtype: torch.dtype, device: torch.device | str) -> AbstractContextManager[Any]:
    """Autocast to the dtype on the device; nothing for float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype)


def keep_encoder_in(dtype: torch.dtype, model: Any) -> None:
    """Converts the weights of the encoder's products and convolutions.

    Autocast would do so at every picture, with the same result. It leaves normalisations in
    float32. From then on the encoder runs under autocast alone.
    """
    for module in model.image_encoder.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            module.to(dtype)
