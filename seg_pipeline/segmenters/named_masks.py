"""SAM-2's masks with a YOLO's labels where both agree, as one model of two that are loaded."""

from collections.abc import Sequence
from hashlib import sha256

from seg_pipeline.domain import Parameters, RgbImage, Segment
from seg_pipeline.imaging.naming import Naming, name_masks
from seg_pipeline.segmenters import Notes, Segmenter


class NamedMasks:
    """A segmenter of two others, which it borrows: `close` leaves them as they are.

    Both see each picture. `weights_sha256` is the SHA-256 of theirs, one after the other.
    """

    def __init__(self, masks: Segmenter, labels: Segmenter) -> None:
        self._masks, self._labels = masks, labels
        self.name = f"{masks.name}+{labels.name}"
        both = masks.weights_sha256 + labels.weights_sha256
        self.weights_sha256 = sha256(both.encode()).hexdigest()
        self.device = masks.device

    @property
    def notes(self) -> Notes:
        """How both ran, and of which weights they are."""
        every: Notes = {}
        for part, segmenter in (("masks", self._masks), ("labels", self._labels)):
            own = {**segmenter.notes, "weights_sha256": segmenter.weights_sha256}
            every |= {f"{part}_{name}": value for name, value in own.items()}
        return every

    @notes.setter
    def notes(self, notes: Notes) -> None:
        raise AttributeError("the notes are those of the two models")

    def segment(
        self, images: Sequence[RgbImage], parameters: Parameters | None = None
    ) -> list[list[Segment]]:
        """The named masks of each picture, largest first. Detections without one are left out."""
        naming = _naming(parameters or {})
        masks = self._masks.segment(images, parameters)
        labels = self._labels.segment(images, parameters)
        return [name_masks(*both, naming) for both in zip(masks, labels, strict=True)]

    def close(self) -> None:
        """Leaves both to their owner."""


def _naming(parameters: Parameters) -> Naming:
    default = Naming()
    return Naming(
        float(parameters.get("label_iou", default.label_iou)),
        bool(parameters.get("distinct", default.distinct)),
        float(parameters.get("duplicate_iou", default.duplicate_iou)),
    )
