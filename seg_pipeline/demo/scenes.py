"""Pictures of coloured shapes, drawn from a seed, with the true mask of every shape.

They train and test the demo models, so everything that happens in them can be measured.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

LABELS = ("circle", "rectangle", "triangle", "star", "ring", "cross")

_SUBPIXEL_BITS = 8
_CIRCLE_POINTS = 96
_PLACING_TRIES = 12
_COLOUR_TRIES = 24


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One shape: its label, and the pixels of it that can be seen, (H, W) bool."""

    label: str
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, (H, W, 3) uint8 RGB, and its shapes, from back to front."""

    image: np.ndarray
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True)
class _Taste:
    """How hard the scene is to read; made from a difficulty between 0 and 1."""

    max_objects: int
    min_visible: float
    overhang: float
    squash: float
    contrast: float
    texture: float
    blur: float
    noise: float

    @classmethod
    def of(cls, difficulty: float) -> "_Taste":
        return cls(
            max_objects=2 + round(4 * difficulty),
            min_visible=1.0 - 0.3 * difficulty,
            overhang=0.3 * difficulty,
            squash=0.3 * difficulty,
            contrast=130.0 - 50.0 * difficulty,
            texture=20.0 + 60.0 * difficulty,
            blur=1.0 * difficulty,
            noise=1.0 + 9.0 * difficulty,
        )


@dataclass(frozen=True, eq=False)
class _Sprite:
    """A shape before it is drawn: `coverage` is (H, W) uint8, 255 well inside."""

    label: str
    coverage: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        return self.coverage > 127


def make_scene(
    seed: int,
    size: int = 320,
    *,
    width: int | None = None,
    height: int | None = None,
    difficulty: float = 0.7,
) -> Scene:
    """The scene of a seed: always the same one for the same arguments.

    `size` is the side in pixels unless `width` or `height` say otherwise. A shape's longest span is
    18-52% of the shorter side. `difficulty` goes from 0 (one or two shapes, apart, in strong
    colours) to 1 (up to six that overlap, blurred and noisy).
    """
    if not 0.0 <= difficulty <= 1.0:
        raise ValueError(f"difficulty is {difficulty}; it goes from 0 to 1")
    rng = np.random.Generator(np.random.PCG64(seed))
    taste = _Taste.of(difficulty)
    shape_hw = (height or size, width or size)
    canvas, palette = _paint_background(rng, taste, shape_hw)
    objects = _place_objects(rng, taste, shape_hw)
    for sprite in objects:
        palette.append(_pick_colour(rng, palette, taste.contrast))
        _paint_sprite(rng, canvas, sprite, palette[-1])
    return Scene(_photograph(rng, taste, canvas), _visible_objects(objects))


# Shapes: closed outlines inside the unit circle; a second outline cuts a hole.


def _circle(rng: np.random.Generator) -> list[np.ndarray]:
    turn = np.linspace(0.0, 2.0 * np.pi, _CIRCLE_POINTS, endpoint=False)
    return [np.stack([np.cos(turn), np.sin(turn)], axis=1)]


def _ring(rng: np.random.Generator) -> list[np.ndarray]:
    (rim,) = _circle(rng)
    return [rim, rim * rng.uniform(0.45, 0.6)]


def _rectangle(rng: np.random.Generator) -> list[np.ndarray]:
    half = np.array([1.0, rng.uniform(0.6, 1.0)])
    half /= np.hypot(*half)
    return [half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])]


def _triangle(rng: np.random.Generator) -> list[np.ndarray]:
    turn = np.arange(3) * 2.0 * np.pi / 3.0 + rng.uniform(-0.2, 0.2, 3)
    return [np.stack([np.cos(turn), np.sin(turn)], axis=1)]


def _star(rng: np.random.Generator) -> list[np.ndarray]:
    points = int(rng.integers(5, 7))
    turn = np.arange(2 * points) * np.pi / points
    reach = np.where(np.arange(2 * points) % 2 == 0, 1.0, rng.uniform(0.45, 0.55))
    return [reach[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)]


def _cross(rng: np.random.Generator) -> list[np.ndarray]:
    arm = rng.uniform(0.3, 0.4)
    quarter = np.array([[1.0, -arm], [1.0, arm], [arm, arm]]) / np.hypot(1.0, arm)
    turns = [np.array([[0, -1], [1, 0]]), np.eye(2), np.array([[0, 1], [-1, 0]]), -np.eye(2)]
    return [np.concatenate([quarter @ turns[k] for k in (1, 2, 3, 0)])]


_OUTLINES: dict[str, Callable[[np.random.Generator], list[np.ndarray]]] = {
    "circle": _circle,
    "rectangle": _rectangle,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
}


def _draw_sprite(rng: np.random.Generator, taste: _Taste, shape_hw: tuple[int, int]) -> _Sprite:
    """A shape of any kind, anywhere, at any angle."""
    height, width = shape_hw
    label = LABELS[rng.integers(len(LABELS))]
    outlines = _OUTLINES[label](rng)
    radius = min(shape_hw) * (0.09 + 0.17 * rng.random() ** 1.5)
    inset = radius * (1.05 - taste.overhang)
    centre = np.array([rng.uniform(inset, width - inset), rng.uniform(inset, height - inset)])
    stretch = np.array([1.0, 1.0 - taste.squash * rng.random()])
    turn = _rotation(rng.uniform(0.0, 2.0 * np.pi))
    return _Sprite(
        label, _fill([(o * radius) @ turn * stretch + centre for o in outlines], shape_hw)
    )


def _rotation(angle: float) -> np.ndarray:
    """The 2x2 matrix that turns row vectors by an angle in radians."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _fill(outlines: list[np.ndarray], shape_hw: tuple[int, int]) -> np.ndarray:
    """The smooth-edged coverage, (H, W) uint8, of outlines (n, 2) in pixels x, y.

    Where two outlines overlap is a hole.
    """
    coverage = np.zeros(shape_hw, np.uint8)
    fixed_point = [np.round(outline * 2**_SUBPIXEL_BITS).astype(np.int32) for outline in outlines]
    return cv2.fillPoly(coverage, fixed_point, 255, cv2.LINE_AA, _SUBPIXEL_BITS)


def _place_objects(
    rng: np.random.Generator, taste: _Taste, shape_hw: tuple[int, int]
) -> list[_Sprite]:
    """One to six sprites, from back to front, each of which stays mostly visible."""
    wanted = int(rng.integers(1, taste.max_objects + 1))
    placed: list[_Sprite] = []
    for _ in range(wanted * _PLACING_TRIES):
        if len(placed) == wanted:
            break
        candidate = _draw_sprite(rng, taste, shape_hw)
        if _all_stay_visible([*placed, candidate], taste.min_visible):
            placed.append(candidate)
    return placed


def _all_stay_visible(sprites: list[_Sprite], min_visible: float) -> bool:
    """Whether at least that share of each sprite's area is visible."""
    pairs = zip(sprites, _visible_objects(sprites), strict=True)
    return all(seen.mask.sum() >= min_visible * sprite.mask.sum() for sprite, seen in pairs)


def _visible_objects(sprites: list[_Sprite]) -> tuple[SceneObject, ...]:
    """The visible part of each sprite behind the later ones."""
    hidden = np.zeros(sprites[0].coverage.shape, bool)
    objects = []
    for sprite in reversed(sprites):
        objects.append(SceneObject(sprite.label, sprite.mask & ~hidden))
        hidden |= sprite.mask
    return tuple(reversed(objects))


# Paint: colours are float RGB, 0-255; a pattern is (H, W) float32 between 0 and 1 that mixes two of
# them.


def _plain(rng: np.random.Generator, shape_hw: tuple[int, int]) -> np.ndarray:
    return np.zeros(shape_hw, np.float32)


def _gradient(rng: np.random.Generator, shape_hw: tuple[int, int]) -> np.ndarray:
    ramp = _ramp(rng, shape_hw)
    slope: np.ndarray = (ramp - ramp.min()) / max(np.ptp(ramp), 1e-6)
    return slope


def _stripes(rng: np.random.Generator, shape_hw: tuple[int, int]) -> np.ndarray:
    return 0.5 + 0.5 * np.sin(_ramp(rng, shape_hw) * np.float32(rng.uniform(30.0, 120.0)))


def _checks(rng: np.random.Generator, shape_hw: tuple[int, int]) -> np.ndarray:
    return np.clip(
        0.5 + 8.0 * (_stripes(rng, shape_hw) - 0.5) * (_stripes(rng, shape_hw) - 0.5), 0.0, 1.0
    )


def _clouds(rng: np.random.Generator, shape_hw: tuple[int, int]) -> np.ndarray:
    cells = int(rng.integers(3, 13))
    coarse = rng.random((cells, cells), np.float32)
    return np.clip(cv2.resize(coarse, shape_hw[::-1], interpolation=cv2.INTER_CUBIC), 0.0, 1.0)


_PATTERNS = (_plain, _gradient, _stripes, _checks, _clouds)


def _ramp(rng: np.random.Generator, shape_hw: tuple[int, int]) -> np.ndarray:
    """A slope in a random direction, (H, W) float32, rising by 1 over the longer side."""
    angle = rng.uniform(0.0, 2.0 * np.pi)
    rows, columns = (np.arange(n, dtype=np.float32) / max(shape_hw) for n in shape_hw)
    return np.float32(np.sin(angle)) * rows[:, None] + np.float32(np.cos(angle)) * columns[None, :]


def _mix(first: np.ndarray, second: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """Two colours mixed by a pattern, (H, W, 3) float32."""
    first, second = first.astype(np.float32), second.astype(np.float32)
    mixed: np.ndarray = first + (second - first) * pattern[..., None].astype(np.float32)
    return mixed


def _random_colour(rng: np.random.Generator) -> np.ndarray:
    """Any hue, seldom pale, never quite black."""
    hue, saturation, value = rng.random() * 6.0, rng.uniform(0.25, 1.0), rng.uniform(0.3, 1.0)
    distance = np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6.0 - 3.0)
    return 255.0 * value * (1.0 - saturation * (1.0 - np.clip(distance - 1.0, 0.0, 1.0)))


def _nearby_colour(rng: np.random.Generator, colour: np.ndarray, reach: float) -> np.ndarray:
    return np.clip(colour + rng.uniform(-reach, reach, 3), 0.0, 255.0)


def _pick_colour(rng: np.random.Generator, taken: list[np.ndarray], contrast: float) -> np.ndarray:
    """A colour at least `contrast` away from those taken, or the furthest one of several tries."""
    best, best_distance = _random_colour(rng), 0.0
    for _ in range(_COLOUR_TRIES):
        colour = _random_colour(rng)
        distance = min(float(np.linalg.norm(colour - other)) for other in taken)
        if distance > best_distance:
            best, best_distance = colour, distance
        if distance >= contrast:
            break
    return best


def _paint_background(
    rng: np.random.Generator, taste: _Taste, shape_hw: tuple[int, int]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """A patterned canvas, (H, W, 3) float32, and the two colours that it is made of."""
    first = _random_colour(rng)
    second = _nearby_colour(rng, first, taste.texture)
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))](rng, shape_hw)
    return _mix(first, second, pattern), [first, second]


def _paint_sprite(
    rng: np.random.Generator, canvas: np.ndarray, sprite: _Sprite, colour: np.ndarray
) -> None:
    """The shadow of a shape, then the shape, into the canvas in place."""
    _cast_shadow(rng, canvas, sprite.coverage)
    x, y, width, height = cv2.boundingRect(sprite.coverage)
    window = (slice(y, y + height), slice(x, x + width))
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))](rng, (height, width))
    paint = _mix(colour, _nearby_colour(rng, colour, 35.0), pattern)
    opacity = sprite.coverage[window][..., None].astype(np.float32) / 255.0
    canvas[window] += (paint - canvas[window]) * opacity


def _cast_shadow(rng: np.random.Generator, canvas: np.ndarray, coverage: np.ndarray) -> None:
    """Darkens the canvas in place, a little beside the shape."""
    short_side = min(coverage.shape)
    dx, dy = rng.uniform(-0.015, 0.015, 2) * short_side
    depth = rng.uniform(0.0, 0.35)
    shift = np.array([[1.0, 0.0, dx], [0.0, 1.0, dy]])
    shadow = cv2.warpAffine(coverage, shift, coverage.shape[::-1])
    shadow = cv2.GaussianBlur(shadow, (0, 0), 0.012 * short_side)
    canvas *= 1.0 - depth / 255.0 * shadow[..., None].astype(np.float32)


def _photograph(rng: np.random.Generator, taste: _Taste, canvas: np.ndarray) -> np.ndarray:
    """The canvas under uneven light, through a soft lens, on a noisy sensor: (H, W, 3) uint8."""
    height, width = canvas.shape[:2]
    light = 1.0 + rng.uniform(0.0, 0.25) * (_gradient(rng, (height, width)) - 0.5)
    lit = canvas * light[..., None].astype(np.float32)
    sigma = rng.uniform(0.3, 0.4 + taste.blur) * min(height, width) / 320.0
    soft = cv2.GaussianBlur(lit, (0, 0), sigma)
    grain = rng.standard_normal((height, width, 1), np.float32) * np.float32(
        rng.uniform(0.0, taste.noise)
    )
    return np.clip(soft + grain, 0.0, 255.0).round().astype(np.uint8)
