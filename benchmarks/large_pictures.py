"""What a picture of a hundred megapixels takes: peak resident memory and seconds of every stage, in a process alone.

`python -m benchmarks.large_pictures` runs it by itself.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from benchmarks.pictures import FIRST_SEED
from benchmarks.tables import Row
from seg_pipeline.demo.scenes import make_scene

WIDTH, HEIGHT = 12_000, 8_400
LIMIT_GB = 2.5
"""What the README promises for a picture of this size with demo-yolo, all that the process holds included."""


def measure(folder: Path) -> list[Row]:
    """The stages of a job with demo-yolo, one process for it all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_large_picture(folder / "large.jpg")
    command = [sys.executable, "-m", "benchmarks.large_pictures", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    stages = json.loads(done.stdout.splitlines()[-1])
    peak = max(stage["peak_gb"] for stage in stages.values())
    rows = [Row("100 megapixels with demo-yolo, peak resident memory", f"{peak:.2f} GB", "", f"≤ {LIMIT_GB} GB")]
    return rows + [
        Row(f"  {name}", f"{stage['peak_gb']:.2f} GB, {stage['seconds']:.1f} s", "", "")
        for name, stage in stages.items()
    ]


def write_large_picture(path: Path) -> None:
    """Fifty small scenes on the left, and one as large as the other half on the right, as a JPEG."""
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    half = WIDTH // 2
    for index in range(50):
        row, column = divmod(index, 5)
        scene = make_scene(FIRST_SEED + index, width=half // 5, height=HEIGHT // 10)
        picture[row * 840 : (row + 1) * 840, column * 1200 : (column + 1) * 1200] = scene.image
    large = make_scene(FIRST_SEED + 50, width=half // 4, height=HEIGHT // 4)
    picture[:, half:] = cv2.resize(large.image, (half, HEIGHT), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(picture).save(path, quality=90)


def run_stages(folder: Path) -> dict[str, dict[str, float]]:
    """Peak and seconds of each stage of a job for the picture in the folder."""
    from seg_pipeline.domain import Job
    from seg_pipeline.inbox import fingerprint
    from seg_pipeline.segmenters.warm import WarmModels
    from seg_pipeline.settings import Settings
    from seg_pipeline.stages import Workbench, cut_segments, find_segments, prepare_sources, publish_results
    from seg_pipeline.store.opening import open_store

    settings = Settings(_env_file=None, data_dir=folder / "data", model="demo-yolo", device="cpu",
                        max_image_pixels=110_000_000, max_image_bytes=2**28)  # fmt: skip
    models = WarmModels(settings)
    with models.borrow("demo-yolo") as model:
        model.segment([np.zeros((64, 64, 3), np.uint8)])
    bench = Workbench(settings, open_store(settings), models)
    data = (folder / "large.jpg").read_bytes()
    job = Job("large", model="demo-yolo", source_sha256=fingerprint(data), source_extension="jpg")
    bench.inbox.accept(job, data)
    stages = {"source_image": prepare_sources, "segments": find_segments, "cutouts": cut_segments,
              "result": publish_results}  # fmt: skip
    figures = {"before": {"peak_gb": peak_gb(), "seconds": 0.0}}
    with bench.run():
        bench.line.planned = frozenset(stages)
        for name, stage in stages.items():
            forget_peak()
            begin = time.perf_counter()
            report = stage(bench, [job.uuid])
            figures[name] = {"peak_gb": peak_gb(), "seconds": time.perf_counter() - begin}
            if report.errors:
                raise SystemExit(f"{name}: {report.errors}")
            print(name, report.metadata, file=sys.stderr)
    forget_peak()
    begin = time.perf_counter()
    with bench.run():
        bench.stored_found(job.uuid)
    figures["reading the masks back"] = {"peak_gb": peak_gb(), "seconds": time.perf_counter() - begin}
    return figures


def forget_peak() -> None:
    """Lets the kernel count the peak anew (Linux, proc(5): clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_gb() -> float:
    """Most resident memory since the last `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e6


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(run_stages(Path(sys.argv[1]))))
    else:
        with tempfile.TemporaryDirectory(prefix="seg-large-") as scratch:
            for row in measure(Path(scratch)):
                print(row.figure, row.median, row.target, sep=" | ")
