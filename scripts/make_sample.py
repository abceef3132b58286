"""Makes `seg_pipeline/demo/sample.jpg`, the picture that `make run` sends through the service.

    python scripts/make_sample.py

It is the generated scene of one seed, chosen by eye for its looks; no model has been trained on it.
"""

import argparse
from pathlib import Path

from PIL import Image

from seg_pipeline.demo.scenes import make_scene

BUNDLED = Path(__file__).parents[1] / "seg_pipeline" / "demo" / "sample.jpg"
SAMPLE_SEED = 12_509


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=SAMPLE_SEED)
    parser.add_argument("--width", type=int, default=960, help="in pixels")
    parser.add_argument("--height", type=int, default=720, help="in pixels")
    parser.add_argument("--out", type=Path, default=BUNDLED)
    args = parser.parse_args()
    scene = make_scene(args.seed, width=args.width, height=args.height, difficulty=1.0)
    Image.fromarray(scene.image).save(args.out, quality=90, optimize=True)
    print(f"{args.out.name}: {', '.join(o.label for o in scene.objects)}")


if __name__ == "__main__":
    main()
