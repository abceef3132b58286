"""Decides whether `turbo` may replace `exact` for a model, or whether upstream's code is quicker.

All of them segment the same bundled pictures, and a verdict says how alike they are. It is measured
once for a model, its parameters, a device and the libraries' versions, and kept in a file.
"""

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np

from seg_pipeline.domain import Parameters, RgbImage, Segment
from seg_pipeline.errors import ModelError, ModelOutOfMemory
from seg_pipeline.imaging.masks import boxes_meet, mask_iou
from seg_pipeline.segmenters import Segmenter, Settling

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

RunMode = Literal["exact", "turbo", "upstream"]
"""What a model can run as. `upstream` is the model's own package, as it comes."""

Load = Callable[[RunMode], Segmenter]
"""Loads a model in a mode."""

Progress = Callable[[int, int], None]
"""Called with the number of pictures done, and of all pictures."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """What a verdict holds for. If any of it changes, the verdict no longer does.

    `with_upstream` says whether upstream's own code takes part.
    """

    model: str
    weights_sha256: str
    device: str
    parameters: dict[str, Any]
    versions: dict[str, str]
    with_upstream: bool = False

    @property
    def file_name(self) -> str:
        """The name of the verdict's file."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{Path(self.model).stem}-{digest[:16]}.json"


@dataclass(frozen=True)
class AgainstUpstream:
    """How alike exact and upstream's own code are, and how long upstream took."""

    pairs: int
    mean_iou: float
    others: int
    seconds: float

    def is_alike(self, pictures: int) -> bool:
        """Whether exact finds what upstream finds."""
        return self.mean_iou >= LEAST_MEAN_IOU and self.others <= MOST_OTHER_SHARE * pictures


@dataclass(frozen=True)
class ParityVerdict:
    """How alike exact and turbo are.

    A pair is a mask of each side with the same label and an IoU of a half or more. `mean_iou` is
    that of the pairs. `others` counts the pictures where any mask has no partner, even if both
    sides have as many. `failure` says why nothing could be measured. `upstream` is None where it
    took no part.
    """

    pictures: int = 0
    pairs: int = 0
    mean_iou: float = 0.0
    others: int = 0
    exact_seconds: float = 0.0
    turbo_seconds: float = 0.0
    failure: str | None = None
    upstream: AgainstUpstream | None = None

    @property
    def runs(self) -> RunMode:
        """What runs where turbo is asked for: the quickest of those that find the same.

        Upstream finds what upstream finds. So it runs too where exact differs from it.
        """
        if self.refusal is None:
            return "turbo"
        if self.upstream is None or self.failure:
            return "exact"
        quicker = self.upstream.seconds < self.exact_seconds
        return "upstream" if quicker or not self.upstream.is_alike(self.pictures) else "exact"

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
        return self._refusal_for_upstream()

    def _refusal_for_upstream(self) -> str | None:
        if self.upstream is None:
            return None
        if not self.upstream.is_alike(self.pictures):
            return (
                "exact itself does not find what upstream finds: their masks have a mean IoU of"
                f" {self.upstream.mean_iou:.4f}, and others on {self.upstream.others} of"
                f" {self.pictures} pictures"
            )
        if self.upstream.seconds < self.turbo_seconds:
            return (
                f"it takes {self.turbo_seconds:.1f} s for what upstream's own code does in"
                f" {self.upstream.seconds:.1f} s"
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
    meet = boxes_meet(*([each.mask.box for each in side] for side in (ours, theirs)))
    candidates = [
        (mask_iou(ours[mine].mask, theirs[yours].mask), mine, yours)
        for mine, yours in np.argwhere(meet).tolist()
        if ours[mine].label == theirs[yours].label
    ]
    paired: list[float] = []
    ours_left, theirs_left = set(range(len(ours))), set(range(len(theirs)))
    for iou, mine, yours in sorted(candidates, reverse=True):
        if iou >= LEAST_PAIR_IOU and mine in ours_left and yours in theirs_left:
            paired.append(iou)
            ours_left.remove(mine)
            theirs_left.remove(yours)
    return paired


def load_quickest(subject: Subject, folder: Path, load: Load) -> Segmenter:
    """The model in turbo if turbo is as good as exact here, and the quickest.

    Else it is the model in exact or as upstream has it, with the reason in its notes.
    """
    verdict = verdict_on(subject, folder, load)
    segmenter = load(verdict.runs)
    if verdict.refusal is None:
        segmenter.notes |= {
            "parity_mean_iou": round(verdict.mean_iou, 4),
            "parity_speed_up": round(verdict.speed_up, 2),
        }
    else:
        logger.warning(
            "%s runs in %s and not in turbo: %s.", subject.model, verdict.runs, verdict.refusal
        )
        segmenter.notes |= {"turbo_refused": verdict.refusal}
    if verdict.upstream:
        segmenter.notes |= {"parity_upstream_seconds": verdict.upstream.seconds}
    return segmenter


def verdict_on(subject: Subject, folder: Path, load: Load) -> ParityVerdict:
    """The stored verdict, else a new one, for which all modes are loaded and dropped again.

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
        groups = parity_pictures(subject.model)
        verdict = measure(groups, load, progress, limit_seconds, subject.with_upstream)
    except ModelOutOfMemory as error:
        return ParityVerdict(failure=f"exact and turbo could not be compared: {error}")
    keep(folder, subject, verdict)
    return verdict


def measure(
    groups: Sequence[Sequence[RgbImage]],
    load: Load,
    progress: Progress,
    limit_seconds: float | None = None,
    with_upstream: bool = False,
) -> ParityVerdict:
    """Segments the pictures in each mode, in turns, and judges.

    Raises what exact raises, and ModelOutOfMemory.
    """
    with closing(load("exact")) as exact, ExitStack() as others:
        sides = {"exact": _Side(exact)}
        try:
            for mode in _others(with_upstream):
                sides[mode] = _Side(others.enter_context(closing(load(mode))))
            return _compare(sides, groups, progress, limit_seconds)
        except ModelOutOfMemory:
            raise
        except ModelError as error:
            return ParityVerdict(failure=f"it does not run: {error}")


def _others(with_upstream: bool) -> tuple[RunMode, ...]:
    return ("turbo", "upstream") if with_upstream else ("turbo",)


def _compare(
    sides: Mapping[str, "_Side"],
    groups: Sequence[Sequence[RgbImage]],
    progress: Progress,
    limit_seconds: float | None,
) -> ParityVerdict:
    began, done, total = time.monotonic(), 0, sum(map(len, groups))
    for group in groups:
        if limit_seconds is not None and time.monotonic() - began > limit_seconds:
            return ParityVerdict(
                failure=(
                    f"comparing it with exact takes over {limit_seconds:.0f} s; see `seg-pipeline"
                    " parity`"
                )
            )
        for side in sides.values():
            side.found += side.timed(group)
        done += len(group)
        progress(done, total)
    if time.monotonic() - began < SHORT_SECONDS:
        _time_again(sides.values(), groups)
    exact, turbo = sides["exact"], sides["turbo"]
    return replace(
        judge(exact.found, turbo.found),
        exact_seconds=round(exact.seconds, 3),
        turbo_seconds=round(turbo.seconds, 3),
        upstream=_against(exact, sides["upstream"]) if "upstream" in sides else None,
    )


def _against(exact: "_Side", upstream: "_Side") -> AgainstUpstream:
    alike = judge(exact.found, upstream.found)
    return AgainstUpstream(alike.pairs, alike.mean_iou, alike.others, round(upstream.seconds, 3))


def _time_again(sides: Iterable["_Side"], groups: Sequence[Sequence[RgbImage]]) -> None:
    """Times all again, without what the first picture of each shape costs once."""
    for side in sides:
        side.seconds = 0.0
    for group in groups:
        for side in sides:
            side.timed(group)


class _Side:
    """The output of one mode so far, and how long it took."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.found: list[list[Segment]] = []
        self.seconds = 0.0
        self._segmenter = segmenter
        if isinstance(segmenter, Settling):
            segmenter.settle()

    def timed(self, group: Sequence[RgbImage]) -> list[list[Segment]]:
        begin = time.perf_counter()
        found = self._segmenter.segment(group, PARAMETERS)
        self.seconds += time.perf_counter() - begin
        return found


def kept(folder: Path, subject: Subject) -> ParityVerdict | None:
    """The stored verdict; None if there is none that can be read."""
    try:
        document = json.loads((folder / subject.file_name).read_text())
        return _read(document["verdict"]) if document["subject"] == asdict(subject) else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning(
            "the verdict in %s cannot be read (%s), so it is measured again",
            subject.file_name,
            error,
        )
        return None


def _read(verdict: dict[str, Any]) -> ParityVerdict:
    upstream = verdict.pop("upstream", None)
    return ParityVerdict(**verdict, upstream=AgainstUpstream(**upstream) if upstream else None)


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
