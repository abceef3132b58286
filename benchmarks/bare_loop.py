"""The other side of the throughput ratio: the same work in a plain loop in one process, without any service.

`python -m benchmarks.bare_loop MODEL OUT PICTURE…` prints the seconds, the model's loading excluded.
"""

import sys
import time
from pathlib import Path

from seg_pipeline.cutouts import crop_name, cut_out
from seg_pipeline.images import decode, encode_original
from seg_pipeline.masks import encode_mask_png, order_by_area
from seg_pipeline.overlays import overlay
from seg_pipeline.segmenters import Segmenter
from seg_pipeline.segmenters.registry import load_segmenter
from seg_pipeline.settings import Settings

WARM_UPS = 3


def main() -> None:
    """Measures one pass over the pictures."""
    model, out, *pictures = sys.argv[1:]
    settings = Settings(_env_file=None, model=model)  # type: ignore[call-arg]
    segmenter = load_segmenter(model, settings)
    for picture in pictures[:WARM_UPS]:
        process(segmenter, Path(picture), Path(out), settings)
    begin = time.perf_counter()
    for picture in pictures:
        process(segmenter, Path(picture), Path(out), settings)
    print(time.perf_counter() - begin)


def process(segmenter: Segmenter, picture: Path, out: Path, settings: Settings) -> None:
    """One picture: decode, segment, and write every file that the service writes."""
    folder = out / picture.stem
    for name in ("mask_images", "crops"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    image = decode(picture.read_bytes(), settings.max_image_pixels)
    segments = order_by_area(segmenter.segment([image])[0])
    for index, segment in enumerate(segments):
        (folder / f"mask_images/mask_{index:03d}.png").write_bytes(encode_mask_png(segment.mask))
        (folder / "crops" / crop_name(picture.stem, index)).write_bytes(cut_out(image, segment.mask))
    (folder / "original.webp").write_bytes(encode_original(image))
    (folder / "overlay.webp").write_bytes(overlay(image, segments))


if __name__ == "__main__":
    main()
