"""Against the way of the two services that this one replaces, written anew from their descriptions:
the model built for every request, every mask a full-frame RGBA PNG with `optimize`, every cut-out
made from the whole picture, one file after the other.

`python -m benchmarks.replaced_way WEIGHTS OUT PICTURE…` prints the seconds of each picture; the
imports are not in them.
"""

import io
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from benchmarks.bursts import queue_all, send_one
from benchmarks.options import Options
from benchmarks.pictures import write_scenes
from benchmarks.progress import say
from benchmarks.running_stack import RunningStack, running_stack
from benchmarks.tables import Row, row_of
from seg_pipeline.domain import BoolMask, RgbImage
from seg_pipeline.segmenters.weights.locate import find_weights
from seg_pipeline.settings import Settings

WIDTH, HEIGHT = 1920, 1080
BURST = 40
LONE = 10


def measure(options: Options) -> list[Row]:
    """How many times as quick the service is, for a burst and for a lone request, on the same
    pictures and model."""
    pictures = write_scenes(options.folder / "pictures", options.scaled(BURST, LONE), WIDTH, HEIGHT)
    ratios = []
    with running_stack(options.folder / "stack", options.model) as stack:
        queue_all(stack, pictures)
        for _ in range(options.scaled(options.rounds, 1)):
            ratios.append(_round(stack, options.folder / "replaced", pictures))
            say("replaced_way: {:.1f} times in a burst, {:.1f} times alone".format(*ratios[-1]))
    in_bursts, alone = zip(*ratios, strict=True)
    return [
        row_of(
            f"{len(pictures)} pictures queued at once: times as quick as the replaced services",
            in_bursts,
            target="3",
        ),
        row_of("one after the other, each waited for: times as quick", alone),
    ]


def _round(stack: RunningStack, out: Path, pictures: Sequence[Path]) -> tuple[float, float]:
    theirs = run_replaced_way(stack.settings.model, out, pictures)
    burst = queue_all(stack, pictures)
    with httpx.Client(base_url=stack.url, timeout=180) as client:
        alone = [send_one(client, picture)[0] for picture in pictures[:LONE]]
    return sum(theirs) / burst.seconds, sum(theirs[:LONE]) / sum(alone)


def run_replaced_way(model: str, out: Path, pictures: Sequence[Path]) -> list[float]:
    """Seconds of each picture, in a process of its own."""
    weights = find_weights(model, Settings(_env_file=None, model=model))
    command = [
        sys.executable,
        "-m",
        "benchmarks.replaced_way",
        str(weights),
        str(out),
        *map(str, pictures),
    ]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [*map(float, answer.split()[-len(pictures) :])]


def main() -> None:
    """Measures each picture."""
    weights, out, *pictures = sys.argv[1:]
    segment(weights, Path(pictures[0]), Path(out))  # the first one pays for what is loaded once
    for picture in pictures:
        begin = time.perf_counter()
        segment(weights, Path(picture), Path(out))
        print(time.perf_counter() - begin)


def segment(weights: str, picture: Path, out: Path) -> None:
    """One request."""
    from seg_pipeline.segmenters.yolo.segmenter import import_ultralytics

    import_ultralytics()
    from ultralytics import YOLO

    folder = out / picture.stem
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.open(io.BytesIO(picture.read_bytes())).convert("RGB")
    (folder / "original.webp").write_bytes(original(np.asarray(image)))
    results: Any = YOLO(weights).predict(image, retina_masks=True, verbose=False, save=False)
    (result,) = results
    masks = [] if result.masks is None else result.masks.data.cpu().numpy().astype(np.bool_)
    for index, mask in enumerate(masks):
        (folder / f"mask_{index:03d}.png").write_bytes(mask_png(mask))
        (folder / f"{index:03d}.webp").write_bytes(cut_out(np.asarray(image), mask))


def original(image: RgbImage) -> bytes:
    """The picture as WEBP, as Pillow writes it without being told how."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, "WEBP")
    return data.getvalue()


def mask_png(full: BoolMask) -> bytes:
    """A full-frame RGBA PNG with `optimize`: opaque black inside, transparent outside."""
    rgba = np.zeros((*full.shape, 4), np.uint8)
    rgba[full, 3] = 255
    data = io.BytesIO()
    Image.fromarray(rgba).save(data, "PNG", optimize=True)
    return data.getvalue()


def cut_out(image: RgbImage, full: BoolMask) -> bytes:
    """The picture with all but the mask transparent, then cropped to the mask, as WEBP."""
    rgba = Image.fromarray(np.dstack([image, full.astype(np.uint8) * np.uint8(255)]))
    cleared = Image.composite(rgba, Image.new("RGBA", rgba.size), Image.fromarray(full))
    data = io.BytesIO()
    cleared.crop(cleared.getbbox()).save(data, "WEBP")
    return data.getvalue()


if __name__ == "__main__":
    main()
