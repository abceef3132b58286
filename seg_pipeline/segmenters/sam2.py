"""SAM-2 through the `sam2` package: automatic masks, with its predicted IoU and stability, at full resolution.

The masks are those of upstream's `SAM2AutomaticMaskGenerator`. Around it: models are built from upstream's
configuration files without hydra's process-wide state, weights load as data alone, and memory is bounded.
"""

import re
import threading
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from seg_pipeline.domain import BoolMask, Mask, Parameters, RgbImage, Segment
from seg_pipeline.errors import ModelError
from seg_pipeline.segmenters import Notes
from seg_pipeline.segmenters.devices import give_memory_back, loading_errors, pick_device, running_errors
from seg_pipeline.segmenters.weights import weights_sha256

BATCH_BYTES = 2**31
"""About what the full-resolution logits of a batch of points may take; large pictures get smaller batches."""

SMALLEST_CROPPED = 64
"""Pictures with a shorter side of fewer pixels are not cropped: upstream fails on crops of nothing."""

DEMO_CONFIG = Path(__file__).parent.parent / "demo" / "demo-sam2.yaml"

_PUBLISHED = re.compile(r"(sam2(?:\.1)?)_hiera_(tiny|small|base_plus|large)")
_CONFIG_SIZES = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}

# From upstream's `checkpoints/download_ckpts.sh`, which its package leaves out.
_RELEASES = {"sam2": "072824", "sam2.1": "092824"}
_CHECKPOINTS_URL = "https://dl.fbaipublicfiles.com/segment_anything_2"


Mode = Literal["exact", "turbo", "upstream"]


@dataclass(frozen=True)
class Sam2Parameters:
    """How automatic masks are made: names, defaults and meaning are `SAM2AutomaticMaskGenerator`'s.

    `min_mask_region_area` alone is not left to upstream, which needs a compiled extension for it and goes on without:
    smaller holes and islands go from the finished masks, as in SAM.
    """

    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.8
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    mask_threshold: float = 0.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: int = 0
    use_m2m: bool = False
    multimask_output: bool = True


DEMO_PARAMETERS = Sam2Parameters(points_per_side=16, stability_score_thresh=0.7, box_nms_thresh=0.2)
"""Its things are large, so half the points find them; its edges are soft, and its second thoughts about a thing differ
more from the first than a large model's."""


def default_parameters(name: str) -> Sam2Parameters:
    """What a model of this name runs with unless told otherwise."""
    return DEMO_PARAMETERS if name == "demo-sam2" else Sam2Parameters()


class Sam2Segmenter:
    """A SAM-2 checkpoint, ready to segment: in fp32 on a CPU, in bf16 on CUDA and in `turbo`."""

    def __init__(
        self,
        name: str,
        weights_path: Path,
        device: str = "auto",
        parameters: Sam2Parameters | None = None,
        mode: Mode = "exact",
    ) -> None:
        self.name = name
        self.mode = mode
        self.device = pick_device(device)
        self.weights_sha256 = weights_sha256(weights_path)
        self.parameters = parameters or default_parameters(name)
        self.notes: Notes = {"inference_mode": mode}
        self._lock = threading.Lock()
        with loading_errors(weights_path, "SAM-2", self.device):
            self._generator: Any = _make_generator(_load_model(name, weights_path, self.device), self.parameters)

    def segment(self, images: Sequence[RgbImage], parameters: Parameters | None = None) -> list[list[Segment]]:
        """The segments of each picture, in upstream's order; each goes through the network alone: no other can matter.

        `parameters` replaces fields of the configured `Sam2Parameters` for this call. A thing that no point of the grid
        finds well enough has no segment, and things may lie within each other.
        """
        asked = _asked(self.parameters, parameters or {})
        with self._lock, running_errors(self.name), torch.inference_mode(), self._precision():
            return [self._segment_one(image, asked) for image in images]

    def close(self) -> None:
        """Drops the model and gives its memory back, to the device and to the system."""
        with self._lock:
            self._generator = None
        give_memory_back()

    def _segment_one(self, image: RgbImage, asked: Sam2Parameters) -> list[Segment]:
        height, width = image.shape[:2]
        points_that_fit = max(BATCH_BYTES // (4 * 3 * height * width), 1)
        if asked.crop_n_layers and min(height, width) < SMALLEST_CROPPED:
            asked = replace(asked, crop_n_layers=0)
        _set_parameters(self._generator, replace(asked, points_per_batch=min(asked.points_per_batch, points_that_fit)))
        records = self._generator.generate(np.require(image, requirements=["C", "W"]))
        segments = [self._to_segment(record, asked.min_mask_region_area) for record in records]
        return [segment for segment in segments if segment is not None]

    def _to_segment(self, record: dict[str, Any], min_area: int) -> Segment | None:
        """Our noun for one of the generator's records, or None if nothing of it is left."""
        mask = Mask.from_full(_without_small_regions(_decode_run_lengths(record["segmentation"]), min_area))
        if mask is None:
            return None
        predicted_iou, stability = float(record["predicted_iou"]), float(record["stability_score"])
        return Segment(mask, predicted_iou=predicted_iou, stability_score=stability)

    def _precision(self) -> AbstractContextManager[Any]:
        if self.device.startswith("cuda"):
            return torch.autocast("cuda", torch.bfloat16)
        return torch.autocast("cpu", torch.bfloat16) if self.mode == "turbo" else nullcontext()


def _asked(configured: Sam2Parameters, parameters: Parameters) -> Sam2Parameters:
    """The configured parameters with those of a call in their place; other models' names are ignored."""
    known: dict[str, Any] = {name: parameters[name] for name in asdict(configured) if name in parameters}
    return replace(configured, **known)


def build_model(name: str) -> Any:
    """The network of this name with random weights, a `sam2.modeling.sam2_base.SAM2Base` on the CPU."""
    _import_sam2()
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
        raise ModelError(f"model {name} is no SAM-2 that the sam2 package knows; sam2.1_hiera_large is one.")
    family, size = published.groups()
    return Path(spec.origin).parent / "configs" / family / f"{family}_hiera_{_CONFIG_SIZES[size]}.yaml"


def published_sam2_url(name: str) -> str | None:
    """Where the weights of this name are published, or None if they are not."""
    published = _PUBLISHED.fullmatch(name)
    return f"{_CHECKPOINTS_URL}/{_RELEASES[published[1]]}/{name}.pt" if published else None


def _import_sam2() -> None:
    """Imports sam2, which starts hydra for the whole process, and ends that again: nothing here needs it."""
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


def _make_generator(model: Any, parameters: Sam2Parameters) -> Any:
    _import_sam2()
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

    class Generator(SAM2AutomaticMaskGenerator):
        """Upstream's, but for crops in none of which anything is found, where its boxes lose their shape."""

        def _process_crop(self, *args: Any) -> Any:
            data = super()._process_crop(*args)
            data["crop_boxes"] = data["crop_boxes"].reshape(-1, 4)
            return data

    upstream = asdict(parameters) | {"min_mask_region_area": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # upstream scripts its transforms, which torch deprecates
        generator = Generator(model, output_mode="uncompressed_rle", **upstream)
    # Upstream takes every model for one of 1024 px.
    generator.predictor._bb_feat_sizes = [(model.image_size // stride,) * 2 for stride in (4, 8, 16)]
    return generator


def _set_parameters(generator: Any, parameters: Sam2Parameters) -> None:
    """Gives upstream's generator other parameters than it was made with; cheap, unlike making one."""
    from sam2.utils.amg import build_all_layer_point_grids

    for name, value in asdict(parameters).items():
        if name not in ("points_per_side", "min_mask_region_area"):
            setattr(generator, name, value)
    generator.point_grids = build_all_layer_point_grids(
        parameters.points_per_side, parameters.crop_n_layers, parameters.crop_n_points_downscale_factor
    )


def _without_small_regions(full: BoolMask, min_area: int) -> BoolMask:
    """The mask without holes and islands of fewer than `min_area` pixels."""
    from sam2.utils.amg import remove_small_regions

    if min_area:
        for mode in ("holes", "islands"):
            full, _ = remove_small_regions(full, min_area, mode)
    return full


def _decode_run_lengths(rle: dict[str, Any]) -> BoolMask:
    """The mask `(H, W) bool` of COCO's uncompressed run lengths, which go down the columns and begin with zeros."""
    height, width = rle["size"]
    counts = np.asarray(rle["counts"])
    set_or_not = np.arange(len(counts)) % 2 == 1
    return np.repeat(set_or_not, counts).reshape(width, height).T
