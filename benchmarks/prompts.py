"""Prompts for SAM-2: the second on a picture over the first, by the same worker and by another."""

import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import untrained_sam2
from benchmarks.options import Options
from benchmarks.pictures import FIRST_SEED
from benchmarks.progress import say
from benchmarks.tables import Row, row_of
from seg_pipeline.demo.scenes import make_scene
from seg_pipeline.domain import RgbImage
from seg_pipeline.segmenters.sam2.embeddings import EmbeddingFolder
from seg_pipeline.segmenters.sam2.segmenter import Sam2Segmenter
from seg_pipeline.segmenters.weights.locate import BUNDLED

SIZES_WH = ((960, 720), (4000, 3000))
TARGET = 0.1


@dataclass(frozen=True)
class Seconds:
    """The model's seconds for one picture's prompts; each says where the embedding came from."""

    encoder: float
    memory: float
    disk: float


def measure(options: Options) -> list[Row]:
    """For an untrained sam2.1_hiera_tiny, as much work as the published one, and demo-sam2."""
    weights = untrained_sam2.untrained_sam2(options.models, make_scene(FIRST_SEED).image)
    rounds = options.scaled(7, 2)
    return [
        *_rows(untrained_sam2.NAME, weights, options.folder, rounds),
        *_rows("demo-sam2", BUNDLED / "demo-sam2.pt", options.folder, rounds),
    ]


def _rows(name: str, weights: Path, folder: Path, rounds: int) -> list[Row]:
    workers = _workers(name, weights, folder)
    rows = []
    for width, height in SIZES_WH:
        scene = make_scene(FIRST_SEED, width=width, height=height).image
        measured = [_prompt(workers, _another(scene, index)) for index in range(rounds + 1)][
            1:
        ]  # the first one warms
        for each in measured:
            say(f"prompts: {name} {width}x{height}: {each}")
        rows += _ratios(f"{name}, {width} x {height}", measured)
    return rows


def _another(picture: RgbImage, number: int) -> RgbImage:
    """The same picture but for a pixel, so that nothing is kept of it yet."""
    other = picture.copy()
    other[0, 0] = number
    return other


def _workers(name: str, weights: Path, folder: Path) -> tuple[Sam2Segmenter, Sam2Segmenter]:
    """Two that share a folder, as the workers of a machine do."""
    kept = EmbeddingFolder(folder / f"embeddings-{name}", 2**30, 3600)
    one, other = (Sam2Segmenter(name, weights, "cpu") for _ in range(2))
    for each in (one, other):
        each.keep_embeddings(kept)
    return one, other


def _prompt(workers: tuple[Sam2Segmenter, Sam2Segmenter], picture: RgbImage) -> Seconds:
    height, width = picture.shape[:2]
    here, there = workers
    first = _timed(here, picture, (width // 2, height // 2), "encoder")
    memory = _timed(here, picture, (width // 3, height // 2), "memory")
    disk = _timed(there, picture, (width // 2, height // 3), "disk")
    return Seconds(first, memory, disk)


def _timed(
    segmenter: Sam2Segmenter, picture: RgbImage, point: tuple[int, int], expected: str
) -> float:
    begin = time.perf_counter()
    segmenter.segment([picture], {"points": ((*point, 1),)})
    seconds = time.perf_counter() - begin
    assert segmenter.notes["embedding_from"] == expected, segmenter.notes
    return seconds


def _ratios(what: str, measured: list[Seconds]) -> list[Row]:
    first = f"first {min(each.encoder for each in measured):.3f} s"
    same = [each.memory / each.encoder for each in measured]
    other = [each.disk / each.encoder for each in measured]
    notes = [
        f"{first}, second {min(values):.3f} s"
        for values in ([each.memory for each in measured], [each.disk for each in measured])
    ]
    return [
        row_of(f"{what}: same worker", same, target=f"{TARGET:g}", note=notes[0]),
        row_of(f"{what}: another worker", other, target=f"{TARGET:g}", note=notes[1]),
    ]
