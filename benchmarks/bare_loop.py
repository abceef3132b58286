"""The other side of the throughput ratio: the same work in a plain loop in one process, without any
service.

`python -m benchmarks.bare_loop MODEL OUT PICTURE…` prints the seconds, the CPU seconds and the
number of segments; the model's loading is not in them.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seg_pipeline.imaging.cutouts import cut_out
from seg_pipeline.imaging.images import decode, encode_original
from seg_pipeline.imaging.masks import encode_mask_png, order_by_area
from seg_pipeline.imaging.overlays import overlay
from seg_pipeline.local.processes import usable_cores
from seg_pipeline.segmenters import Segmenter
from seg_pipeline.segmenters.registry import load_segmenter
from seg_pipeline.settings import Settings
from seg_pipeline.store import keys

WARM_UPS = 3


@dataclass(frozen=True)
class Loop:
    """What a loop over some pictures took, and how many segments it found."""

    seconds: float
    cpu_seconds: float
    segments: int


def run_bare_loop(model: str, out: Path, pictures: Sequence[Path]) -> Loop:
    """Loops over the pictures in a process of its own, which takes as many threads as the worker
    does."""
    command = [sys.executable, "-m", "benchmarks.bare_loop", model, str(out), *map(str, pictures)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(usable_cores())}
    answer = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout
    seconds, cpu_seconds, segments = answer.split()[-3:]
    return Loop(float(seconds), float(cpu_seconds), int(segments))


def main() -> None:
    """Measures one pass over the pictures."""
    model, out, *names = sys.argv[1:]
    pictures = [*map(Path, names)]
    settings = Settings(_env_file=None, model=model)
    segmenter = load_segmenter(model, settings)
    for picture in pictures[:WARM_UPS]:
        process(segmenter, picture, Path(out), settings)
    begin, cpu_begin = time.perf_counter(), time.process_time()
    segments = sum(process(segmenter, picture, Path(out), settings) for picture in pictures)
    print(time.perf_counter() - begin, time.process_time() - cpu_begin, segments)


def process(segmenter: Segmenter, picture: Path, out: Path, settings: Settings) -> int:
    """One picture: decode, segment, and write every file that the service writes; how many segments
    there were."""
    uuid = picture.stem
    for folder in keys.of_segments(uuid):
        (out / folder).mkdir(parents=True, exist_ok=True)
    image = decode(picture.read_bytes(), settings.max_image_pixels)
    segments = order_by_area(segmenter.segment([image])[0])
    for index, segment in enumerate(segments):
        (out / keys.mask(uuid, index)).write_bytes(encode_mask_png(segment.mask))
        (out / keys.crop(uuid, index)).write_bytes(cut_out(image, segment.mask))
    (out / keys.original(uuid)).write_bytes(encode_original(image))
    (out / keys.overlay(uuid)).write_bytes(overlay(image, segments).picture)
    return len(segments)


if __name__ == "__main__":
    main()
