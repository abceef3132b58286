"""SAM-2's encoder and decoder as two functions of fixed shapes."""

from typing import Any

import torch
from torch import Tensor

from seg_pipeline.segmenters.sam2.decoder import FastMaskDecoder, ImageCache

POINTS = {torch.float32: 64, torch.bfloat16: 256}
"""Points that go through the decoder at once.

More gain nothing on a large card. In float32 128 would take more memory than upstream's 64 do
(docs/benchmarks.md).
"""

PARTS = 4
"""The masks of a batch of points are made in so many parts, which bounds the memory."""


class BatchedNetwork:
    """The network of a SAM-2, with the picture's side in `dtype`.

    `points` go through the decoder at once.
    """

    def __init__(self, predictor: Any, dtype: torch.dtype, points: int | None = None) -> None:
        self._model = predictor.model
        self.device = torch.device(predictor.device)
        self.dtype = dtype
        self.points = points or POINTS[dtype]
        self.side = int(self._model.image_size)
        self._decoder = FastMaskDecoder(self._model, dtype)
        self._feature_sizes = predictor._bb_feat_sizes
        _move_positions(self._model, self.device)

    @property
    def mask_side(self) -> int:
        """The side of the masks that `decode` makes."""
        return 4 * self._decoder.size[0]

    def encode(self, pixels: Tensor) -> ImageCache:
        """`SAM2ImagePredictor.set_image` without the transform, and `FastMaskDecoder.cache`.

        Without a cache, autocast leaves nothing behind that a replayed graph would not write.
        """
        half = self.dtype != torch.float32
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            finest, fine, embedding = self._features(pixels)
        return self._decoder.cache(embedding.float(), fine.float(), finest.float())

    def decode(self, cache: ImageCache, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """All three masks of points `(p, 2)` and their predicted IoU.

        The logits are `(3 p, 4 h, 4 w)` in the network's dtype, the scores `(3 p,)` float32.
        """
        return self._decode(cache, coordinates, multimask=True)

    def decode_single(self, cache: ImageCache, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """As `decode`, with the one mask of each point that is meant not to be ambiguous."""
        return self._decode(cache, coordinates, multimask=False)

    def example(self, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Pixels for `encode` and coordinates for `decode`, at random."""
        random = torch.Generator().manual_seed(seed)
        pixels = torch.randn(1, 3, self.side, self.side, generator=random)
        coordinates = torch.rand(self.points, 2, generator=random) * self.side
        return pixels.to(self.device), coordinates.to(self.device)

    def _decode(
        self, cache: ImageCache, coordinates: Tensor, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        attended = self._decoder.attend(cache, coordinates, multimask)
        count = len(coordinates)
        size = -(-count // PARTS)
        masks = [
            self._decoder.upscale_all(cache, attended.part(slice(start, start + size)))
            for start in range(0, count, size)
        ]
        return torch.cat(masks).flatten(0, 1), self._decoder.predicted_iou(attended).flatten()

    def _features(self, pixels: Tensor) -> list[Tensor]:
        """The finest, the fine and the coarse features `(1, c, h, w)`."""
        model = self._model
        _, features, _, _ = model._prepare_backbone_features(model.forward_image(pixels))
        if model.directly_add_no_mem_embed:
            features[-1] = features[-1] + model.no_mem_embed
        return [
            each.permute(1, 2, 0).unflatten(2, size)
            for each, size in zip(features, self._feature_sizes, strict=True)
        ]


def _move_positions(model: Any, device: torch.device) -> None:
    """Puts the tables of positions, which upstream makes on the first GPU, onto the model's."""
    for module in model.modules():
        tables = getattr(module, "cache", None)
        if isinstance(tables, dict):
            tables.update({key: table.to(device) for key, table in tables.items()})
