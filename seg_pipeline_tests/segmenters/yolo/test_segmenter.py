import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seg_pipeline.domain import Mask, RgbImage
from seg_pipeline.errors import ModelError, ModelFailed, ModelOutOfMemory
from seg_pipeline.segmenters import Segmenter
from seg_pipeline.segmenters.yolo.letterbox import Letterbox
from seg_pipeline.segmenters.yolo.masks import decode_mask
from seg_pipeline.segmenters.yolo.segmenter import YoloSegmenter
from seg_pipeline_tests.odd_names import ODD_NAMES
from seg_pipeline_tests.segmenters.models import save_untrained_yolo

pytestmark = pytest.mark.process

SIZES_WH = [(640, 480), (480, 640), (1920, 1080), (1, 1), (1, 3000), (3000, 2), (161, 97), (5, 4)]


def make_segmenter(weights: Path, confidence: float = 0.25) -> YoloSegmenter:
    return YoloSegmenter("untrained-seg", weights, "cpu", confidence)


@pytest.fixture(scope="module")
def segmenter(untrained_weights: Path) -> YoloSegmenter:
    return make_segmenter(untrained_weights)


def iou(one: Mask, other: Mask) -> float:
    a, b = one.full(), other.full()
    return float((a & b).sum() / (a | b).sum())


def test_segments_have_labels_confidences_and_masks_of_the_picture(
    segmenter: YoloSegmenter, noise: RgbImage
) -> None:
    segments = segmenter.segment([noise])[0]
    assert len(segments) > 5
    for segment in segments:
        assert segment.label in ("circle", "square", "star")
        assert segment.confidence is not None
        assert 0.25 < segment.confidence <= 1
        assert segment.mask.resolution_wh == (200, 150)
        assert segment.mask.area > 0


def test_it_says_what_it_is(segmenter: Segmenter, untrained_weights: Path) -> None:
    assert (segmenter.name, segmenter.device) == ("untrained-seg", "cpu")
    assert len(segmenter.weights_sha256) == 64


@pytest.mark.parametrize("architecture", ["yolov8n-seg", "yolo11n-seg", "yolo26n-seg"])
def test_it_finds_what_ultralytics_own_predictor_finds(
    architecture: str, noise: RgbImage, tmp_path: Path
) -> None:
    """The predictor is not used; its answers are the standard that ours are held against."""
    weights = save_untrained_yolo(tmp_path / f"{architecture}.pt", f"{architecture}.yaml")
    ours = make_segmenter(weights).segment([noise])[0]
    theirs = predict_with_ultralytics(weights, noise)
    assert len(ours) > 5
    assert len(ours) == len(theirs)
    for segment, (label, confidence, mask) in zip(ours, theirs, strict=True):
        assert segment.label == label
        assert segment.confidence == pytest.approx(confidence, abs=1e-3)
        if segment.mask.area > 500:
            assert iou(segment.mask, mask) > 0.95


def predict_with_ultralytics(weights: Path, image: RgbImage) -> list[tuple[str, float, Mask]]:
    from ultralytics import YOLO

    threads = torch.get_num_threads()
    bgr = np.ascontiguousarray(image[..., ::-1])
    model: Any = YOLO(weights)
    result = model.predict(bgr, conf=0.25, device="cpu", retina_masks=True, verbose=False)[0]
    torch.set_num_threads(threads)
    found = zip(result.boxes.cls, result.boxes.conf, result.masks.data, strict=True)
    masks = [
        (result.names[int(label)], float(score), Mask.from_full(mask.bool().numpy()))
        for label, score, mask in found
    ]
    return [(label, score, mask) for label, score, mask in masks if mask is not None]


def test_the_answer_for_a_picture_does_not_depend_on_those_beside_it(
    segmenter: YoloSegmenter, noise: RgbImage
) -> None:
    pictures = [noise, noise[:, :100], noise[::-1].copy(), np.zeros((40, 90, 3), np.uint8)]
    together = segmenter.segment(pictures)
    for picture, among_others in zip(pictures, together, strict=True):
        (alone,) = segmenter.segment([picture])
        assert len(alone) == len(among_others)
        for one, other in zip(alone, among_others, strict=True):
            assert (one.label, one.confidence, one.mask.box) == (
                other.label,
                other.confidence,
                other.mask.box,
            )
            assert np.array_equal(one.mask.bits, other.mask.bits)


def test_red_is_not_taken_for_blue(segmenter: YoloSegmenter, noise: RgbImage) -> None:
    swapped = np.ascontiguousarray(noise[..., ::-1])
    assert [s.confidence for s in segmenter.segment([noise])[0]] != [
        s.confidence for s in segmenter.segment([swapped])[0]
    ]


def test_a_picture_in_which_nothing_is_found_gives_no_segments(
    untrained_weights: Path, noise: RgbImage
) -> None:
    assert make_segmenter(untrained_weights, confidence=1.0).segment([noise, noise]) == [[], []]


def test_no_pictures_give_no_answers(segmenter: YoloSegmenter) -> None:
    assert segmenter.segment([]) == []


@pytest.mark.parametrize("size_wh", SIZES_WH)
def test_pictures_of_any_shape_are_segmented(
    segmenter: YoloSegmenter, size_wh: tuple[int, int]
) -> None:
    width, height = size_wh
    picture = np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8)
    for segment in segmenter.segment([picture])[0]:
        assert segment.mask.resolution_wh == size_wh


@pytest.mark.parametrize("size_wh", SIZES_WH)
def test_the_network_sees_what_ultralytics_would_show_it(
    size_wh: tuple[int, int], segmenter: YoloSegmenter
) -> None:
    from ultralytics.data.augment import LetterBox

    width, height = size_wh
    picture = np.random.default_rng(2).integers(0, 255, (height, width, 3), dtype=np.uint8)
    ours = Letterbox.of(size_wh, 640, 32).apply(picture)
    theirs: Any = LetterBox(640, auto=True, stride=32)(image=picture)
    assert np.array_equal(ours, theirs)


def test_boxes_come_back_to_where_they_were_in_the_picture() -> None:
    letterbox = Letterbox.of((1280, 720), 640, 32)
    inside = np.array([[10.0, 12.0 + 20, 100.0, 12.0 + 200]], dtype=np.float32)
    assert letterbox.boxes_to_picture(inside).tolist() == [[20.0, 40.0, 200.0, 400.0]]


def test_boxes_are_clipped_to_the_picture() -> None:
    letterbox = Letterbox.of((640, 480), 640, 32)
    outside = np.array([[-5.0, -5.0, 900.0, 900.0]], dtype=np.float32)
    assert letterbox.boxes_to_picture(outside).tolist() == [[0.0, 0.0, 640.0, 480.0]]


def ring_logits(letterbox: Letterbox, centre_xy: tuple[float, float], radius: float) -> np.ndarray:
    """A ring's signed distance, in a picture's pixels, at the prototypes' resolution: positive from
    half the radius to the radius."""
    width, height = (side // 4 for side in letterbox.outer_wh)
    scale_x, scale_y = letterbox.scale_xy
    x = ((np.arange(width) + 0.5) * 4 - letterbox.left) / scale_x - centre_xy[0]
    y = ((np.arange(height) + 0.5) * 4 - letterbox.top) / scale_y - centre_xy[1]
    distance = np.hypot(x[None, :], y[:, None])
    return np.minimum(radius - distance, distance - radius / 2).astype(np.float32)


@pytest.mark.parametrize("picture_wh", [(1280, 720), (333, 777), (100, 80)])
def test_a_mask_lies_where_its_prototype_says_and_keeps_its_hole(
    picture_wh: tuple[int, int],
) -> None:
    """Against the ring drawn at full resolution: no shift by the padding or by half a pixel."""
    letterbox = Letterbox.of(picture_wh, 640, 32)
    centre, radius = (picture_wh[0] * 0.4, picture_wh[1] * 0.55), min(picture_wh) * 0.3
    box = np.array([0, 0, *picture_wh], dtype=np.float32)
    mask = decode_mask(ring_logits(letterbox, centre, radius), box, letterbox)
    x, y = np.arange(picture_wh[0]) + 0.5 - centre[0], np.arange(picture_wh[1]) + 0.5 - centre[1]
    distance = np.hypot(x[None, :], y[:, None])
    expected = Mask.from_full((distance < radius) & (distance > radius / 2))
    assert mask is not None
    assert expected is not None
    assert iou(mask, expected) > 0.97
    assert not mask.full()[int(centre[1]), int(centre[0])]


def test_a_mask_ends_at_its_box() -> None:
    letterbox = Letterbox.of((640, 480), 640, 32)
    logits = np.ones((120, 160), dtype=np.float32)
    mask = decode_mask(logits, np.array([10.2, 20.7, 50.0, 60.1], dtype=np.float32), letterbox)
    assert mask is not None
    assert (mask.box.x, mask.box.y, mask.box.width, mask.box.height) == (11, 21, 39, 40)


def test_a_mask_without_pixels_is_no_mask() -> None:
    letterbox = Letterbox.of((640, 480), 640, 32)
    logits = np.full((120, 160), -1, dtype=np.float32)
    assert decode_mask(logits, np.array([10, 20, 50, 60], dtype=np.float32), letterbox) is None
    assert decode_mask(-logits, np.array([10.1, 20, 10.9, 60], dtype=np.float32), letterbox) is None


def test_torchs_threads_stay_and_nothing_is_printed_or_left_behind(
    untrained_weights: Path, tmp_path: Path
) -> None:
    """ultralytics would take all cores but one, create settings in the home folder and `runs/` in
    the current one."""
    home, here, temporary = (tmp_path / name for name in ("home", "here", "temporary"))
    for folder in (home, here, temporary):
        folder.mkdir()
    script = f"""
import os
from pathlib import Path
import seg_pipeline.segmenters.yolo.segmenter as yolo
import numpy as np, torch
torch.set_num_threads(7)
before = dict(os.environ)
segmenter = yolo.YoloSegmenter("x", Path({str(untrained_weights)!r}), "cpu")
assert segmenter.segment([np.full((90, 120, 3), 128, np.uint8)])[0] is not None
assert torch.get_num_threads() == 7, torch.get_num_threads()
added = {{name for name in os.environ if os.environ[name] != before.get(name)}}
ours = {{"OMP_NUM_THREADS", "YOLO_CONFIG_DIR", "YOLO_OFFLINE", "YOLO_AUTOINSTALL"}}
assert not added & ours, added
from ultralytics.utils import ONLINE, AUTOINSTALL
from ultralytics.utils.events import Events
assert not ONLINE and not AUTOINSTALL and not Events().enabled
"""
    environment = {
        **os.environ,
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(Path.cwd()),
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [*home.rglob("*"), *here.rglob("*"), *temporary.rglob("*")] == []


def test_the_weights_folder_may_have_any_name(untrained_weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "".join(ODD_NAMES)
    folder.mkdir()
    weights = Path(shutil.copy(untrained_weights, folder))
    assert make_segmenter(weights).name


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Intruder:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "intruded"),)

    torch.save({"model": Intruder()}, tmp_path / "evil-seg.pt")
    with pytest.raises(ModelError, match=r"evil-seg\.pt cannot be loaded") as failure:
        make_segmenter(tmp_path / "evil-seg.pt")
    assert failure.value.permanent
    assert not (tmp_path / "intruded").exists()


@pytest.mark.parametrize(
    "content", [b"", b"<html>not weights</html>", pickle.dumps({"model": None})]
)
def test_a_file_that_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken-seg.pt").write_bytes(content)
    with pytest.raises(ModelError, match=r"broken-seg\.pt cannot be loaded"):
        make_segmenter(tmp_path / "broken-seg.pt")


def test_a_model_that_finds_boxes_alone_is_refused(tmp_path: Path, untrained_weights: Path) -> None:
    make_segmenter(untrained_weights)
    from ultralytics.nn.tasks import DetectionModel

    torch.save(
        {"model": DetectionModel("yolov8n.yaml", nc=3, verbose=False)}, tmp_path / "boxes.pt"
    )
    with pytest.raises(ModelError, match="no masks"):
        make_segmenter(tmp_path / "boxes.pt")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), ModelOutOfMemory),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            ModelOutOfMemory,
        ),
        (MemoryError(), ModelOutOfMemory),
        (RuntimeError("a matrix did not fit"), ModelFailed),
    ],
)
def test_what_torch_raises_becomes_one_sentence_of_ours(
    raised: Exception, expected: type[ModelFailed], untrained_weights: Path, noise: RgbImage
) -> None:
    segmenter = make_segmenter(untrained_weights)

    def fail(_: object) -> None:
        raise raised

    segmenter._network = fail  # type: ignore[assignment]
    with pytest.raises(expected) as failure:
        segmenter.segment([noise])
    assert type(failure.value) is expected
    assert failure.value.__cause__ is raised
    assert "\n" not in str(failure.value)


def test_a_closed_model_says_so_and_closes_again(untrained_weights: Path, noise: RgbImage) -> None:
    segmenter = make_segmenter(untrained_weights)
    segmenter.close()
    segmenter.close()
    with pytest.raises(ModelFailed):
        segmenter.segment([noise])
