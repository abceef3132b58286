"""Makes docs/segments.webp: the bundled sample, its overlay, and its cut-outs, as the service
itself makes them.

python scripts/make_readme_picture.py
"""

from io import BytesIO
from pathlib import Path

from PIL import Image

from seg_pipeline.imaging.cutouts import cut_out
from seg_pipeline.imaging.images import decode, encode_webp
from seg_pipeline.imaging.masks import order_by_area
from seg_pipeline.imaging.overlays import overlay
from seg_pipeline.segmenters.registry import load_segmenter
from seg_pipeline.settings import Settings

PROJECT = Path(__file__).parent.parent
PANEL_HEIGHT = 360
CUTOUT_SIDE = 108
GAP = 12


def main() -> None:
    """Segments the sample with the demo model and lays the outcome out beside it."""
    settings = Settings(model="demo-yolo")
    image = decode(
        (PROJECT / "seg_pipeline/demo/sample.jpg").read_bytes(), settings.max_image_pixels
    )
    segments = order_by_area(load_segmenter("demo-yolo", settings).segment([image])[0])
    panels = [
        _panel(Image.fromarray(image)),
        _panel(Image.open(BytesIO(overlay(image, segments).picture))),
    ]
    cutouts: list[Image.Image] = [
        Image.open(BytesIO(cut_out(image, segment.mask, CUTOUT_SIDE))) for segment in segments
    ]
    picture = _laid_out(panels, cutouts)
    (PROJECT / "docs/segments.webp").write_bytes(encode_webp(picture, quality=80, method=6))


def _panel(picture: Image.Image) -> Image.Image:
    width = round(picture.width * PANEL_HEIGHT / picture.height)
    return picture.convert("RGBA").resize((width, PANEL_HEIGHT), Image.Resampling.LANCZOS)


def _laid_out(panels: list[Image.Image], cutouts: list[Image.Image]) -> Image.Image:
    """The panels side by side, and the cut-outs in columns of three to the right of them, on
    nothing."""
    columns = -(-len(cutouts) // 3)
    width = sum(panel.width + GAP for panel in panels) + columns * (CUTOUT_SIDE + GAP)
    canvas = Image.new("RGBA", (width, PANEL_HEIGHT))
    x = 0
    for panel in panels:
        canvas.paste(panel, (x, 0))
        x += panel.width + GAP
    for index, cutout in enumerate(cutouts):
        column, row = divmod(index, 3)
        canvas.paste(cutout, (x + column * (CUTOUT_SIDE + GAP), row * (CUTOUT_SIDE + GAP)))
    return canvas


if __name__ == "__main__":
    main()
