"""A prompt's masks, as upstream's `SAM2ImagePredictor` makes them.

The encoder's work on a picture is kept (see `embeddings`). Masks are measured in their small form,
and only those that are asked for are enlarged, inside their boxes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seg_pipeline.domain import Box, RgbImage
from seg_pipeline.model_parameters import Sam2Parameters
from seg_pipeline.prompts import Prompt
from seg_pipeline.segmenters.sam2.embeddings import Embedding, EmbeddingCache, embedding_key
from seg_pipeline.segmenters.sam2.generator import GeneratedMask
from seg_pipeline.segmenters.sam2.precision import computing_in
from seg_pipeline.segmenters.sam2.upsampling import Upsampling

_BOX_LABELS = [2, 3]
"""How the prompt encoder knows a box's upper left and lower right corner among points."""


class PromptedMasks:
    """Masks by the model of upstream's predictor, whose encoder computes in `dtype`.

    `made_by` tells embeddings apart that another model, or the same one elsewhere, has made.
    """

    def __init__(
        self,
        predictor: Any,
        made_by: tuple[str, ...] = (),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._predictor, self._dtype = predictor, dtype
        self.cache = EmbeddingCache()
        self._made_by = (*made_by, str(dtype), str(predictor.device))
        self.embedding_from = ""

    def generate(
        self, image: RgbImage, prompt: Prompt, parameters: Sam2Parameters, multimask: bool
    ) -> list[GeneratedMask]:
        """The mask of the prompt that the model rates best; all three with `multimask`.

        An empty mask is left out. `embedding_from` then says where the embedding came from.
        """
        embedding, self.embedding_from = self.cache.get(
            embedding_key(image, *self._made_by),
            self._predictor.device,
            lambda: self.encode(image),
        )
        size_hw = image.shape[:2]
        with _half_the_cores(self._predictor.device):
            logits, predicted_iou = self.decode(embedding, prompt, size_hw, multimask)
            if not multimask:
                best = predicted_iou.argmax()
                logits, predicted_iou = logits[best, None], predicted_iou[best, None]
            return list(_enlarged(logits, predicted_iou, size_hw, parameters))

    def encode(self, image: RgbImage) -> Embedding:
        """The encoder's work on a picture."""
        with computing_in(self._dtype, self._predictor.device):
            self._predictor.set_image(np.require(image, requirements=["C", "W"]))
        features = self._predictor._features
        self._predictor.reset_predictor()
        fine = tuple(each.contiguous() for each in features["high_res_feats"])
        return Embedding(features["image_embed"].contiguous(), fine)

    def decode(
        self, embedding: Embedding, prompt: Prompt, size_hw: tuple[int, ...], multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """Upstream's `_predict` up to the small logits `(m, s, s)`, with the predicted IoU `(m,)`.

        A point alone may mean a part or the whole, so its three masks are computed. Else it is one,
        as upstream advises.
        """
        model = self._predictor.model
        sparse, dense = model.sam_prompt_encoder(
            points=self._tokens(prompt, size_hw), boxes=None, masks=None
        )
        logits, predicted_iou, _, _ = model.sam_mask_decoder(
            image_embeddings=embedding.image.float(),
            image_pe=model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask or prompt.is_ambiguous,
            repeat_image=False,
            high_res_features=[each.float() for each in embedding.fine],
        )
        return logits[0].float(), predicted_iou[0].float()

    def _tokens(self, prompt: Prompt, size_hw: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Corners and points `(1, n, 2)` in pixels of the network's input, and their labels."""
        corners = [prompt.box[:2], prompt.box[2:]] if prompt.box else []
        places = [*corners, *(point[:2] for point in prompt.points)]
        labels = [*(_BOX_LABELS if prompt.box else []), *(point[2] for point in prompt.points)]
        device = self._predictor.device
        coordinates = self._predictor._transforms.transform_coords(
            torch.tensor(places, dtype=torch.float32, device=device),
            normalize=True,
            orig_hw=size_hw,
        )
        return coordinates[None], torch.tensor([labels], dtype=torch.int, device=device)


def _enlarged(
    logits: Tensor, predicted_iou: Tensor, size_hw: tuple[int, ...], parameters: Sam2Parameters
) -> Iterator[GeneratedMask]:
    """The masks at the picture's size, with their stability as automatic masks have it."""
    upsampling = Upsampling(logits.shape[-1], size_hw[0], size_hw[1], logits.device)
    middle, offset = parameters.mask_threshold, parameters.stability_score_offset
    measures = upsampling.measure(logits, (middle - offset, middle, middle + offset))
    for small, score, counts, xyxy in zip(
        logits,
        predicted_iou.tolist(),
        measures.counts.tolist(),
        measures.boxes.tolist(),
        strict=True,
    ):
        if not counts[1]:
            continue
        box = Box(xyxy[0], xyxy[1], xyxy[2] - xyxy[0] + 1, xyxy[3] - xyxy[1] + 1)
        rows, columns = upsampling.window(box)
        bits = upsampling.mask(small[rows, columns], (rows.start, columns.start), box, middle)
        yield GeneratedMask(box, bits, score, counts[2] / counts[0])


@contextmanager
def _half_the_cores(device: torch.device | str) -> Iterator[None]:
    """Runs a CPU's steps on half of torch's threads.

    Each of a prompt's steps is short. Where others keep a core busy, waiting for all threads after
    each takes longer than the steps.
    """
    before = torch.get_num_threads()
    if torch.device(device).type != "cpu" or before == 1:
        yield
        return
    torch.set_num_threads(before // 2)
    try:
        yield
    finally:
        torch.set_num_threads(before)
