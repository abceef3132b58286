"""Decides whether `turbo` may replace `exact` for a model.

Both segment the same bundled pictures, and a verdict says how alike they are. It is measured once
for a model, its parameters, a device and the libraries' versions, and kept in a file.
"""

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from seg_pipeline.domain import Parameters, RgbImage, Segment
from seg_pipeline.errors import ModelError, ModelOutOfMemory
from seg_pipeline.imaging.masks import mask_iou
from seg_pipeline.segmenters import Segmenter
from seg_pipeline.settings import InferenceMode

LEAST_MEAN_IOU = 0.99
MOST_OTHER_SHARE = 0.05
"""The greatest share of pictures on which the two may find different objects."""

LEAST_PAIR_IOU = 0.5
"""Masks with a lower IoU are not the same object."""

LEAST_PAIRS = 20
"""Fewer masks than this, over all pictures, are too few to judge by."""

PARAMETERS: Parameters = {"points_per_side": 16}
"""SAM-2 gets a quarter of its usual points: enough for a difference, in a quarter of the time."""

WORKER_SECONDS = 1800
"""The time limit of a comparison in a worker, where a job waits for it.

`seg-pipeline parity` has none.
"""

SHORT_SECONDS = 60
"""A comparison that took less is timed once more."""

Load = Callable[[InferenceMode], Segmenter]
"""Loads a model in a mode."""

Progress = Callable[[int, int], None]
"""Called with the number of pictures done, and of all pictures."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """What a verdict holds for. If any of it changes, the verdict no longer does."""

    model: str
    weights_sha256: str
    device: str
    parameters: dict[str, Any]
    versions: dict[str, str]

    @property
    def file_name(self) -> str:
        """The name of the verdict's file."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{Path(self.model).stem}-{digest[:16]}.json"


@dataclass(frozen=True)
class ParityVerdict:
    """How alike the two modes are.

    A pair is a mask of each side with the same label and an IoU of a half or more. `mean_iou` is
    that of the pairs. `others` counts the pictures where any mask has no partner, even if both
    sides have as many. `failure` says why nothing could be measured.
    """

    pictures: int = 0
    pairs: int = 0
    mean_iou: float = 0.0
    others: int = 0
    exact_seconds: float = 0.0
    turbo_seconds: float = 0.0
    failure: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether turbo may run."""
        return self.refusal is None

    @property
    def refusal(self) -> str | None:
        """Why turbo may not run; None if it may."""
        if self.failure:
            return self.failure
        if self.pairs < LEAST_PAIRS:
            return (
                f"exact and turbo share {self.pairs} masks on {self.pictures} pictures, too few to"
                " judge by"
            )
        if self.mean_iou < LEAST_MEAN_IOU:
            return (
                f"its masks have a mean IoU of {self.mean_iou:.4f} with those of exact, less than"
                f" {LEAST_MEAN_IOU}"
            )
        if self.others > MOST_OTHER_SHARE * self.pictures:
            return f"it finds other things than exact on {self.others} of {self.pictures} pictures"
        if self.speed_up < 1:
            return (
                f"it takes {self.turbo_seconds:.1f} s for what exact does in"
                f" {self.exact_seconds:.1f} s"
            )
        return None

    @property
    def speed_up(self) -> float:
        """How many times faster turbo was on these pictures; 0 if that was not measured."""
        return self.exact_seconds / self.turbo_seconds if self.turbo_seconds else 0.0


def judge(exact: Sequence[Sequence[Segment]], turbo: Sequence[Sequence[Segment]]) -> ParityVerdict:
    """How alike two answers for the same pictures are."""
    pairs = [_pair(ours, theirs) for ours, theirs in zip(exact, turbo, strict=True)]
    others = sum(
        not len(paired) == len(ours) == len(theirs)
        for paired, ours, theirs in zip(pairs, exact, turbo, strict=True)
    )
    ious = [iou for paired in pairs for iou in paired]
    return ParityVerdict(len(pairs), len(ious), fmean(ious) if ious else 0.0, others)


def _pair(ours: Sequence[Segment], theirs: Sequence[Segment]) -> list[float]:
    """The IoU of each pair, best first. No mask is in two pairs."""
    candidates = [
        (mask_iou(one.mask, other.mask), mine, yours)
        for mine, one in enumerate(ours)
        for yours, other in enumerate(theirs)
        if one.label == other.label
    ]
    paired: list[float] = []
    ours_left, theirs_left = set(range(len(ours))), set(range(len(theirs)))
    for iou, mine, yours in sorted(candidates, reverse=True):
        if iou >= LEAST_PAIR_IOU and mine in ours_left and yours in theirs_left:
            paired.append(iou)
            ours_left.remove(mine)
            theirs_left.remove(yours)
    return paired


def load_turbo_or_exact(subject: Subject, folder: Path, load: Load) -> Segmenter:
    """The model in turbo if turbo is as good as exact here.

    Else it is the model in exact, with the reason in its notes.
    """
    verdict = verdict_on(subject, folder, load)
    if verdict.refusal is None:
        segmenter = load("turbo")
        segmenter.notes |= {
            "parity_mean_iou": round(verdict.mean_iou, 4),
            "parity_speed_up": round(verdict.speed_up, 2),
        }
        return segmenter
    logger.warning("%s runs in exact and not in turbo: %s.", subject.model, verdict.refusal)
    segmenter = load("exact")
    segmenter.notes |= {"turbo_refused": verdict.refusal}
    return segmenter


def verdict_on(subject: Subject, folder: Path, load: Load) -> ParityVerdict:
    """The stored verdict, else a new one, for which both modes are loaded and dropped again.

    Raises what loading the exact model raises.
    """
    with _alone(folder):
        verdict = kept(folder, subject)
        return (
            fresh_verdict(subject, folder, load, log_progress, WORKER_SECONDS)
            if verdict is None
            else verdict
        )


def fresh_verdict(
    subject: Subject,
    folder: Path,
    load: Load,
    progress: Progress,
    limit_seconds: float | None = None,
) -> ParityVerdict:
    """Measures, and stores the verdict.

    A verdict for lack of memory is not stored: there may be more next time.
    """
    from seg_pipeline.segmenters.parity.pictures import parity_pictures

    try:
        verdict = measure(parity_pictures(subject.model), load, progress, limit_seconds)
    except ModelOutOfMemory as error:
        return ParityVerdict(failure=f"exact and turbo could not be compared: {error}")
    keep(folder, subject, verdict)
    return verdict


def measure(
    groups: Sequence[Sequence[RgbImage]],
    load: Load,
    progress: Progress,
    limit_seconds: float | None = None,
) -> ParityVerdict:
    """Segments the pictures in both modes, in turns, and judges.

    Raises what exact raises, and ModelOutOfMemory.
    """
    with closing(load("exact")) as exact:
        try:
            with closing(load("turbo")) as turbo:
                return _compare(exact, turbo, groups, progress, limit_seconds)
        except ModelOutOfMemory:
            raise
        except ModelError as error:
            return ParityVerdict(failure=f"it does not run: {error}")


def _compare(
    exact: Segmenter,
    turbo: Segmenter,
    groups: Sequence[Sequence[RgbImage]],
    progress: Progress,
    limit_seconds: float | None,
) -> ParityVerdict:
    plain, quick = _Side(exact), _Side(turbo)
    began, done, total = time.monotonic(), 0, sum(map(len, groups))
    for group in groups:
        if limit_seconds is not None and time.monotonic() - began > limit_seconds:
            return ParityVerdict(
                failure=(
                    f"comparing it with exact takes over {limit_seconds:.0f} s; see `seg-pipeline"
                    " parity`"
                )
            )
        for side in (plain, quick):
            side.found += side.timed(group)
        done += len(group)
        progress(done, total)
    if time.monotonic() - began < SHORT_SECONDS:
        _time_again(plain, quick, groups)
    verdict = judge(plain.found, quick.found)
    return replace(
        verdict, exact_seconds=round(plain.seconds, 3), turbo_seconds=round(quick.seconds, 3)
    )


def _time_again(plain: "_Side", quick: "_Side", groups: Sequence[Sequence[RgbImage]]) -> None:
    """Times both again, without what the first picture of each shape costs once."""
    plain.seconds = quick.seconds = 0.0
    for group in groups:
        for side in (plain, quick):
            side.timed(group)


class _Side:
    """The output of one mode so far, and how long it took."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.found: list[list[Segment]] = []
        self.seconds = 0.0
        self._segmenter = segmenter

    def timed(self, group: Sequence[RgbImage]) -> list[list[Segment]]:
        begin = time.perf_counter()
        found = self._segmenter.segment(group, PARAMETERS)
        self.seconds += time.perf_counter() - begin
        return found


def kept(folder: Path, subject: Subject) -> ParityVerdict | None:
    """The stored verdict; None if there is none that can be read."""
    try:
        document = json.loads((folder / subject.file_name).read_text())
        return (
            ParityVerdict(**document["verdict"]) if document["subject"] == asdict(subject) else None
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning(
            "the verdict in %s cannot be read (%s), so it is measured again",
            subject.file_name,
            error,
        )
        return None


def keep(folder: Path, subject: Subject, verdict: ParityVerdict) -> None:
    """Writes the verdict atomically."""
    document = {"subject": asdict(subject), "verdict": asdict(verdict)}
    target = folder / subject.file_name
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(document, indent=2))
        unfinished.replace(target)
    except OSError as error:
        logger.warning("the verdict on turbo could not be kept in %s: %s", folder, error)


def log_progress(done: int, total: int) -> None:
    """Writes a line into the log."""
    logger.info("comparing turbo with exact: %s of %s pictures", done, total)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lets one process measure while the others wait for its verdict.

    Where no file can be written, each measures for itself.
    """
    with ExitStack() as held:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context((folder / ".lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
