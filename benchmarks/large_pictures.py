"""What a picture of a hundred megapixels takes: peak resident memory and seconds of every stage,
and how many of the things in it were found, with each model in a process alone.

`python -m benchmarks.large_pictures` runs it by itself, `python -m benchmarks.large_pictures
demo-sam2` one model.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from benchmarks.peaks import forget_peak, peak_kb
from benchmarks.pictures import FIRST_SEED
from benchmarks.progress import say
from benchmarks.tables import Row
from seg_pipeline.demo.scenes import Scene, make_scene
from seg_pipeline.domain import Box, Job, Mask, Segment
from seg_pipeline.imaging.masks import mask_iou
from seg_pipeline.imaging.tile_merging import sampled

if TYPE_CHECKING:
    from seg_pipeline.pipeline.stages import StageContext

PICTURE = "large.jpg"
WIDTH, HEIGHT = 12_000, 8_400
COMPARED_WH = (WIDTH // 4, HEIGHT // 4)
"""What was found is held against the truth at a quarter of the size: exact enough, and a sixteenth
of the memory."""

FOUND_FROM = 0.5
"""The IoU from which on a true thing counts as found."""

LIMITS_GB = {"demo-yolo": 2.5, "demo-sam2": 3.0}
"""What the README promises for a picture of this size, all that the process holds included."""

RUNS = (("demo-yolo", 2048), ("demo-sam2", 2048), ("demo-sam2", 1024))
"""Models, and the side of the tiles: the default, and one whose tiles show demo-sam2 the small
scenes as large as those that it was trained on."""


def measure(folder: Path, models: Sequence[str] = tuple(LIMITS_GB)) -> list[Row]:
    """The stages of a job with each model."""
    folder.mkdir(parents=True, exist_ok=True)
    write_large_picture(folder / PICTURE)
    return [
        row
        for run in RUNS
        if run[0] in models
        for row in _rows(*run, _in_process_alone(*run, folder))
    ]


def _in_process_alone(model: str, tile_side: int, folder: Path) -> dict[str, dict[str, float]]:
    say(f"large_pictures: {model}, tiles of {tile_side}")
    command = [
        sys.executable,
        "-m",
        "benchmarks.large_pictures",
        model,
        str(tile_side),
        str(folder),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _rows(model: str, tile_side: int, figures: dict[str, dict[str, float]]) -> list[Row]:
    found = figures.pop("found")
    peak = max(stage["peak_gb"] for stage in figures.values())
    name = f"100 megapixels with {model} in tiles of {tile_side}"
    return [
        Row(f"{name}, peak resident memory", f"{peak:.2f} GB", "", f"≤ {LIMITS_GB[model]} GB"),
        *(
            Row(f"  {stage}", f"{was['peak_gb']:.2f} GB, {was['seconds']:.1f} s")
            for stage, was in figures.items()
        ),
        Row(
            "  found of the fifty small scenes' things",
            f"{found['small']} of {found['small_true']}",
        ),
        Row("  found of the large scene's things", f"{found['large']} of {found['large_true']}"),
        Row("  segments that are none of these", f"{found['other']}"),
    ]


def scenes() -> Iterator[tuple[Box, Scene]]:
    """Fifty small scenes on the left, and one as large as the other half on the right, each with
    its place; the large one is a quarter of its place's size."""
    half = WIDTH // 2
    for index in range(50):
        row, column = divmod(index, 5)
        scene = make_scene(FIRST_SEED + index, width=half // 5, height=HEIGHT // 10)
        yield Box(column * half // 5, row * HEIGHT // 10, half // 5, HEIGHT // 10), scene
    yield (
        Box(half, 0, half, HEIGHT),
        make_scene(FIRST_SEED + 50, width=half // 4, height=HEIGHT // 4),
    )


def write_large_picture(path: Path) -> None:
    """The scenes, as a JPEG."""
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    for place, scene in scenes():
        size = (place.width, place.height)
        picture[place.slices] = cv2.resize(scene.image, size, interpolation=cv2.INTER_CUBIC)
    Image.fromarray(picture).save(path, quality=90)


def true_masks() -> dict[str, list[Mask]]:
    """What can be seen of the small and of the large scenes' things, in a picture of
    `COMPARED_WH`."""
    masks: dict[str, list[Mask]] = {"small": [], "large": []}
    for place, scene in scenes():
        scale = place.width // scene.image.shape[1]
        xy, resolution_wh = (place.x // scale, place.y // scale), (WIDTH // scale, HEIGHT // scale)
        visible = (Mask.from_window(thing.mask, xy, resolution_wh) for thing in scene.objects)
        masks["small" if scale == 1 else "large"] += _compared(filter(None, visible))
    return masks


def count_found(segments: Sequence[Segment]) -> dict[str, float]:
    """How many true things were found, of how many, and how many segments are none.

    True masks do not overlap, so a segment finds one of them at most; two may find the same one,
    which is one `other`.
    """
    masks, truth = _compared(segment.mask for segment in segments), true_masks()
    found = {
        size: sum(any(_is_found(one, mask) for mask in masks) for one in truth[size])
        for size in truth
    }
    totals = {f"{size}_true": len(truth[size]) for size in truth}
    return {**found, **totals, "other": len(segments) - sum(found.values())}


def _is_found(true: Mask, mask: Mask) -> bool:
    return mask_iou(true, mask) >= FOUND_FROM


def _compared(masks: Iterable[Mask]) -> list[Mask]:
    """The masks in a picture of `COMPARED_WH`; one between its pixels is left out."""
    return [mask for each in masks if (mask := sampled(each, COMPARED_WH))]


def _context(model_name: str, tile_side: int, folder: Path) -> "StageContext":
    """A store of its own, and the model, loaded and warm."""
    from seg_pipeline.pipeline.stages import StageContext
    from seg_pipeline.segmenters.warm import WarmModels
    from seg_pipeline.settings import Settings
    from seg_pipeline.store.opening import open_store

    data_dir = folder / f"{model_name}-{tile_side}"
    settings = Settings(_env_file=None, data_dir=data_dir, model=model_name, device="cpu",
                        tile_side=tile_side,
                        max_image_pixels=110_000_000, max_image_bytes=2**28)  # fmt: skip
    models = WarmModels(settings)
    with models.borrow(model_name) as model:
        model.segment([np.zeros((64, 64, 3), np.uint8)])
    return StageContext(settings, open_store(settings), models)


def run_stages(model_name: str, tile_side: int, folder: Path) -> dict[str, dict[str, float]]:
    """Peak and seconds of each stage of a job for the picture in the folder, and `found`: what
    `count_found` says."""
    from seg_pipeline.jobs.acceptance import fingerprint
    from seg_pipeline.pipeline import stages as pipeline

    stage_context = _context(model_name, tile_side, folder)
    data = (folder / PICTURE).read_bytes()
    job = Job("large", model=model_name, source_sha256=fingerprint(data), source_extension="jpg")
    stage_context.repository.acceptance.accept(job, data)
    stages = {
        "source_image": pipeline.prepare_sources,
        "segments": pipeline.find_segments,
        "cutouts": pipeline.cut_segments,
        "result": pipeline.publish_results,
    }
    figures = {"before": {"peak_gb": peak_kb() / 1e6, "seconds": 0.0}}
    with stage_context.one_run():
        stage_context.run.begin(stages)
        for name, stage in stages.items():
            with _measured(figures, name):
                report = stage(stage_context, [job.uuid])
            if report.errors:
                raise SystemExit(f"{name}: {report.errors}")
            print(name, report.metadata, file=sys.stderr)
    with _measured(figures, "reading the masks back"), stage_context.one_run():
        found = stage_context.stored_output(job.uuid)
    figures["found"] = count_found(found.segments)
    return figures


@contextmanager
def _measured(figures: dict[str, dict[str, float]], name: str) -> Iterator[None]:
    """Notes the peak and the seconds of what is done inside."""
    forget_peak()
    begin = time.perf_counter()
    yield
    figures[name] = {"peak_gb": peak_kb() / 1e6, "seconds": time.perf_counter() - begin}


def main(models: Sequence[str]) -> None:
    """Measures the models and prints the figures."""
    with tempfile.TemporaryDirectory(prefix="seg-large-") as scratch:
        for row in measure(Path(scratch), models or tuple(LIMITS_GB)):
            print(row.figure, row.median, row.target, sep=" | ")


if __name__ == "__main__":
    match sys.argv[1:]:
        case [model, side, folder]:
            print(json.dumps(run_stages(model, int(side), Path(folder))))
        case models:
            main(models)
