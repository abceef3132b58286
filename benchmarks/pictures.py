"""The pictures that every benchmark works on: generated scenes, the same on every machine."""

from pathlib import Path

from PIL import Image

from seg_pipeline.demo.scenes import make_scene

FIRST_SEED = 9_000_000


def write_scenes(folder: Path, count: int, width: int = 960, height: int = 720) -> list[Path]:
    """JPEG files of `count` scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"scene_{index:04d}.jpg" for index in range(count)]
    for index, path in enumerate(paths):
        scene = make_scene(FIRST_SEED + index, width=width, height=height)
        Image.fromarray(scene.image).save(path, quality=90)
    return paths
