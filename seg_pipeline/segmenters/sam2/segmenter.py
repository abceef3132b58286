"""SAM-2 through the `sam2` package: automatic masks with predicted IoU and stability.

The masks are those of upstream's `SAM2AutomaticMaskGenerator`, at full resolution, made by
`generator.py`. Models are built from upstream's configuration files without hydra's process-wide
state. Weights load as data only.
"""

import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from seg_pipeline.domain import BoolMask, Mask, Parameters, RgbImage, Segment
from seg_pipeline.errors import ModelError
from seg_pipeline.model_parameters import (
    Sam2Parameters,
    default_parameters,
    merged_parameters,
)
from seg_pipeline.prompts import Prompt, prompts_of
from seg_pipeline.segmenters import Notes
from seg_pipeline.segmenters.devices import (
    give_memory_back,
    has_bf16,
    loading_errors,
    pick_device,
    running_errors,
)
from seg_pipeline.segmenters.sam2.batched.generator import BatchedMasks
from seg_pipeline.segmenters.sam2.decoder import FastMaskDecoder
from seg_pipeline.segmenters.sam2.embeddings import EmbeddingCache, EmbeddingFolder
from seg_pipeline.segmenters.sam2.generator import AutomaticMasks, GeneratedMask, PointBatches
from seg_pipeline.segmenters.sam2.precision import computing_in, keep_encoder_in
from seg_pipeline.segmenters.sam2.prompting import PromptedMasks
from seg_pipeline.segmenters.sam2.upstream import UpstreamMasks
from seg_pipeline.segmenters.weights.digest import weights_sha256

SMALLEST_CROPPED = 64
"""Pictures with a shorter side of fewer pixels are not cropped.

Upstream fails on empty crops."""

DEMO_CONFIG = Path(__file__).parents[2] / "demo" / "demo-sam2.yaml"

_PUBLISHED = re.compile(r"(sam2(?:\.1)?)_hiera_(tiny|small|base_plus|large)")
_CONFIG_SIZES = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}


Mode = Literal["exact", "turbo", "upstream"]


class Sam2Segmenter:
    """A loaded SAM-2 checkpoint.

    `exact` gives upstream's masks, in float32. `turbo` calculates in bfloat16 where the device
    does, and on a CPU computes masks only where they are in doubt. `upstream` is the package's own
    generator, for comparison. On CUDA, or where `batched` says so, masks are made as
    `batched/generator.py` does it.
    """

    def __init__(
        self,
        name: str,
        weights_path: Path,
        device: str = "auto",
        parameters: Sam2Parameters | None = None,
        mode: Mode = "exact",
        batched: bool | None = None,
    ) -> None:
        self.name = name
        self.device = pick_device(device)
        self.weights_sha256 = weights_sha256(weights_path)
        self.parameters = parameters or default_parameters(name)
        self.notes: Notes = {
            "inference_mode": mode,
            "points_per_batch": self.parameters.points_per_batch,
        }
        self._lock = threading.Lock()
        self._batches = PointBatches()
        with loading_errors(weights_path, "SAM-2", self.device):
            self._upstream: UpstreamMasks | None = UpstreamMasks(
                _load_model(name, weights_path, self.device), self._batches
            )
            self._ours = _own_masks(self._upstream, self._batches, mode, batched)
            half = self._ours is not None and self._ours.precision == "bf16"
            self._dtype = torch.bfloat16 if half else torch.float32
            keep_encoder_in(self._dtype, self._upstream.predictor.model)
            self._prompted: PromptedMasks | None = PromptedMasks(
                self._upstream.predictor, (name, self.weights_sha256), self._dtype
            )
        if self._ours and mode == "turbo":
            self.notes |= {"precision": self._ours.precision, "masks_sampled": self._ours.sampled}

    def segment(
        self, images: Sequence[RgbImage], parameters: Parameters | None = None
    ) -> list[list[Segment]]:
        """The segments of each picture, in upstream's order.

        Each picture goes through the network alone, so no other affects it. `parameters` override
        fields of the configured `Sam2Parameters`. An object that no grid point finds well enough
        has no segment. Objects may lie within one another. With prompts among the parameters the
        segments are those of the prompts instead.
        """
        merged = merged_parameters(self.parameters, parameters or {})
        prompts = prompts_of(parameters or {})
        self.notes.pop("embedding_from", None)
        with self._lock, running_errors(self.name), torch.inference_mode():
            if prompts:
                all_masks = bool((parameters or {}).get("multimask"))
                return [self._prompt(image, prompts, merged, all_masks) for image in images]
            segments = [self._segment_one(image, merged) for image in images]
            self._note_batches(merged)
            return segments

    def keep_embeddings(self, folder: EmbeddingFolder) -> None:
        """Shares what the encoder makes for prompts with other workers, by a folder."""
        if self._prompted:
            self._prompted.cache = EmbeddingCache(folder)

    @property
    def is_batched(self) -> bool:
        """Whether masks are made as `batched/generator.py` does it."""
        return isinstance(self._ours, BatchedMasks)

    def quicken(self) -> None:
        """Begins to make a batched model quicker (see `batched/steps.py`). Others stay as they are.

        Masks are made meanwhile, only slower.
        """
        if isinstance(self._ours, BatchedMasks):
            self._ours.quicken(self.name, self._lock)

    def settle(self) -> None:
        """Waits until the model is as quick as it gets: seconds to minutes on CUDA."""
        if isinstance(self._ours, BatchedMasks):
            self._ours.settle()

    def close(self) -> None:
        """Drops the model and frees its memory, on the device and in the system."""
        with self._lock:
            if isinstance(self._ours, BatchedMasks):
                self._ours.stop()
            self._upstream = self._ours = self._prompted = None
        give_memory_back()

    def _segment_one(self, image: RgbImage, parameters: Sam2Parameters) -> list[Segment]:
        height, width = image.shape[:2]
        if parameters.crop_n_layers and min(height, width) < SMALLEST_CROPPED:
            parameters = replace(parameters, crop_n_layers=0)
        segments = [
            _to_segment(each, (width, height), parameters)
            for each in self._generated(image, parameters)
        ]
        return [segment for segment in segments if segment is not None]

    def _generated(self, image: RgbImage, parameters: Sam2Parameters) -> list[GeneratedMask]:
        if self._upstream is None:
            raise ModelError(f"{self.name} is closed.")
        if self._ours and not parameters.use_m2m:
            return self._ours.generate(image, parameters)
        with computing_in(self._dtype, self.device):
            return self._upstream.generate(image, parameters)

    def _prompt(
        self, image: RgbImage, prompts: list[Prompt], parameters: Sam2Parameters, multimask: bool
    ) -> list[Segment]:
        if self._prompted is None:
            raise ModelError(f"{self.name} is closed.")
        resolution_wh = (image.shape[1], image.shape[0])
        found = []
        for prompt in prompts:
            masks = self._prompted.generate(image, prompt, parameters, multimask)
            self.notes.setdefault("embedding_from", self._prompted.embedding_from)
            segments = [_to_segment(mask, resolution_wh, parameters) for mask in masks]
            found += [replace(each, prompt=prompt.number) for each in segments if each is not None]
        return found

    def _note_batches(self, parameters: Sam2Parameters) -> None:
        asked = parameters.points_per_batch
        if isinstance(self._ours, BatchedMasks):
            self.notes["forms"] = self._ours.forms
            asked = asked if parameters.use_m2m else self._ours.points
        self.notes["points_per_batch"] = self._batches.size(asked)
        if self._batches.halvings:
            self.notes["halved_after_out_of_memory"] = self._batches.halvings


def _own_masks(
    upstream: UpstreamMasks, batches: PointBatches, mode: Mode, batched: bool | None
) -> AutomaticMasks | BatchedMasks | None:
    """Our own generator, or None where upstream's must do.

    That is in the mode `upstream`, and for a model that is built unlike the published ones.
    """
    predictor = upstream.predictor
    if mode == "upstream" or not FastMaskDecoder.fits(predictor.model):
        return None
    on_cpu = torch.device(predictor.device).type == "cpu"
    half = mode == "turbo" and has_bf16(str(predictor.device))
    dtype = torch.bfloat16 if half else torch.float32
    if batched or (batched is None and not on_cpu):
        return BatchedMasks(predictor, batches, dtype)
    return AutomaticMasks(predictor, batches, dtype, sampled=mode == "turbo" and on_cpu)


def _to_segment(
    generated: GeneratedMask, resolution_wh: tuple[int, int], parameters: Sam2Parameters
) -> Segment | None:
    """The mask as a Segment; None if nothing of it is left."""
    mask = Mask.from_window(generated.bits, (generated.box.x, generated.box.y), resolution_wh)
    if mask is not None and parameters.min_mask_region_area:
        mask = Mask.from_full(_without_small_regions(mask.full(), parameters.min_mask_region_area))
    if mask is None:
        return None
    return Segment(
        mask, predicted_iou=generated.predicted_iou, stability_score=generated.stability_score
    )


def _without_small_regions(full: BoolMask, min_area: int) -> BoolMask:
    """The mask without holes and islands of fewer than `min_area` pixels."""
    from sam2.utils.amg import remove_small_regions

    for mode in ("holes", "islands"):
        full, _ = remove_small_regions(full, min_area, mode)
    return full


def build_model(name: str) -> Any:
    """The network of this name with random weights, a `SAM2Base` of sam2, on the CPU."""
    import_sam2()
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    config = OmegaConf.load(config_path(name))
    return instantiate(config.model, _recursive_=True)


def config_path(name: str) -> Path:
    """The configuration file of a model: upstream's own, or the demo's. Raises ModelError."""
    if name == "demo-sam2":
        return DEMO_CONFIG
    published = _PUBLISHED.fullmatch(name)
    spec = find_spec("sam2")
    if published is None or spec is None or spec.origin is None:
        raise ModelError(
            f"model {name} is no SAM-2 that the sam2 package knows; sam2.1_hiera_large is one."
        )
    family, size = published.groups()
    return (
        Path(spec.origin).parent / "configs" / family / f"{family}_hiera_{_CONFIG_SIZES[size]}.yaml"
    )


def import_sam2() -> None:
    """Imports sam2. It starts hydra for the whole process, which is undone here."""
    from hydra.core.global_hydra import GlobalHydra

    before = GlobalHydra.instance().is_initialized()
    import sam2  # noqa: F401

    if not before:
        GlobalHydra.instance().clear()


def _load_model(name: str, weights_path: Path, device: str) -> Any:
    model = build_model(name)
    state = torch.load(weights_path, map_location="cpu", weights_only=True)["model"]
    model.load_state_dict(state)
    return model.requires_grad_(False).eval().to(device)
