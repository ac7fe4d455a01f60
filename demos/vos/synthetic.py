"""Synthetic video with exact masks: textured shapes that move, turn, pass behind each other, and have doubles.

A clip is drawn from its seed alone. Of its shapes some are objects, to be segmented; each of the first objects has a
look-alike, a distractor of the same kind and nearly the same colours; others are distractors at random, and one is a bar
that only hides things. Shapes have a fixed order of depth, so that what is in front hides what is behind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from demos.vos.data import Clip
from demos.vos.images import Frame, Labels

_TEXTURES = ("stripes", "checks", "rings", "noise")
_MOST_SHAPES = 100


@dataclass(frozen=True)
class SyntheticConfig:
    """What the clips are made of."""

    frames: int = 24
    height: int = 96
    width: int = 160
    objects: int = 3
    look_alikes: int = 2
    """Distractors of the kind of an object, at most one for each object."""
    distractors: int = 2
    """Distractors of a kind of their own."""
    bars: int = 1
    """Plain bars in front of all."""
    speed: float = 1.0
    """1: shapes cross about half of the picture in the course of a clip of 24 frames."""

    def __post_init__(self) -> None:
        for name, lowest in (("frames", 1), ("height", 16), ("width", 16), ("objects", 1)):
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} must be {lowest} or more; got {getattr(self, name)}")
        for name in ("look_alikes", "distractors", "bars", "speed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more; got {getattr(self, name)}")
        if self.look_alikes > self.objects:
            raise ValueError(f"look_alikes must be at most objects, {self.objects}; got {self.look_alikes}")
        if self.objects + self.look_alikes + self.distractors + self.bars > _MOST_SHAPES:
            raise ValueError(f"a clip must have at most {_MOST_SHAPES} shapes; got more")


_Looks = tuple[NDArray[np.float64], float, str, NDArray[np.float64], float, NDArray[np.float64]]
"""The first six fields of a shape."""


@dataclass(frozen=True)
class _Shape:
    """One shape: its outline and texture in coordinates of its own, and its path."""

    harmonics: NDArray[np.float64]
    """(2, k): amplitudes and phases of the outline's radius over the angle."""
    stretch: float
    texture: str
    colors: NDArray[np.float64]
    """(2, 3) in [0, 1]."""
    period: float
    """Of the texture, in units of the radius."""
    noise: NDArray[np.float64]
    """(16, 16): of the texture "noise"."""
    radius: float
    """In pixels."""
    start: NDArray[np.float64]
    """(2,): y, x."""
    velocity: NDArray[np.float64]
    """(2,): pixels a frame."""
    sway: NDArray[np.float64]
    """(2, 3): amplitude, frequency and phase of a swing, of y and x."""
    spin: float
    angle: float


class SyntheticClip(Clip):
    """A clip drawn from a seed: frames when they are asked for, always the same.

    Args:
        seed: an integer, 0 or more.
        config: sizes and numbers.

    Attributes:
        name: ``synthetic-SEED``.
        config: as given.

    Example:
        >>> from demos.vos.synthetic import SyntheticClip
        >>> clip = SyntheticClip(0)
        >>> clip.frame(0).shape, clip.labels(0).shape, clip.objects
        ((96, 160, 3), (96, 160), (1, 2, 3))
    """

    def __init__(self, seed: int, config: SyntheticConfig | None = None) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed must be an integer, 0 or more; got {seed!r}")
        self.name = f"synthetic-{seed}"
        self.config = SyntheticConfig() if config is None else config
        self._seed = seed
        self._cache: dict[int, tuple[Frame, Labels]] = {}

    @cached_property
    def _drawn(self) -> tuple[list[_Shape], NDArray[np.float64], tuple[NDArray[np.float64], ...]]:
        """Shapes, background, and amount, frequency and phase of the light."""
        rng = np.random.default_rng((20191027, self._seed))
        shapes = self._draw_shapes(rng)
        background = _background(rng, self.config.height, self.config.width)
        return shapes, background, (rng.uniform(0.0, 0.12, 3), rng.uniform(0.1, 0.4, 3), rng.uniform(0, 2 * math.pi, 3))

    def __len__(self) -> int:
        return self.config.frames

    def frame(self, t: int) -> Frame:
        return self._render(t)[0]

    def labels(self, t: int) -> Labels:
        instances = self.instances(t)
        return np.where(instances <= self.config.objects, instances, 0).astype(np.uint8)

    def instances(self, t: int) -> Labels:
        """What is seen where, distractors and bars included, uint8 (H, W): 1 to `config.objects` are the objects."""
        return self._render(t)[1]

    def _draw_shapes(self, rng: np.random.Generator) -> list[_Shape]:
        """Objects, their look-alikes, other distractors; bars are drawn apart."""
        config = self.config
        scale = min(config.height, config.width)
        looks = [_looks(rng) for _ in range(config.objects + config.distractors)]
        alike = [_alike(rng, looks[i]) for i in range(config.look_alikes)]
        looks = looks[: config.objects] + alike + looks[config.objects :]
        # Starts are apart from each other, so that in the first frame every object can be seen.
        starts: list[NDArray[np.float64]] = []
        while len(starts) < len(looks):
            candidates = rng.uniform((0.15, 0.1), (0.85, 0.9), (30, 2)) * (config.height, config.width)
            distance = [min((float(np.hypot(*(c - s))) for s in starts), default=0.0) for c in candidates]
            starts.append(candidates[int(np.argmax(distance))])
        shapes = []
        for look, start in zip(looks, starts, strict=True):
            aim = rng.uniform(0.15, 0.85, 2) * (config.height, config.width)
            direction = (aim - start) / max(1.0, float(np.hypot(*(aim - start))))
            pace = config.speed * rng.uniform(0.4, 1.0) * config.width / 2 / 24
            sway = np.stack(
                (rng.uniform(0, 0.06 * scale, 2) * config.speed, rng.uniform(0.1, 0.5, 2), rng.uniform(0, 6.3, 2)), 1
            )
            radius = rng.uniform(0.09, 0.17) * scale
            spin, angle = rng.uniform(-0.12, 0.12), rng.uniform(0, 2 * math.pi)
            shapes.append(_Shape(*look, radius, start, direction * pace, sway, spin, angle))
        return shapes

    def _render(self, t: int) -> tuple[Frame, Labels]:
        if not 0 <= t < len(self):
            raise IndexError(f"t must be in [0, {len(self)}); got {t}")
        if t not in self._cache:
            config = self.config
            shapes, background, (amount, frequency, phase) = self._drawn
            y, x = np.mgrid[0.5 : config.height + 0.5, 0.5 : config.width + 0.5]
            picture = _sample(background, y + 0.4 * t, x + 0.7 * t)
            instances = np.zeros((config.height, config.width), dtype=np.uint8)
            order = np.random.default_rng((20191028, self._seed)).permutation(len(shapes))
            for i in order:
                window, mask, colors = _draw(shapes[i], t, (config.height, config.width))
                picture[window][mask] = colors
                instances[window][mask] = i + 1
            bars = np.random.default_rng((20191029, self._seed))
            for i in range(config.bars):
                place, wide = bars.uniform(0.2, 0.8) * config.width, bars.uniform(0.03, 0.06) * config.width
                shade, slant = bars.uniform(0.1, 0.9, 3), bars.uniform(-0.4, 0.4)
                mask = np.abs(x - place - slant * (y - config.height / 2)) < wide
                picture[mask] = shade
                instances[mask] = len(shapes) + 1 + i
            picture *= 1 - amount * (1 + np.sin(frequency * t + phase))
            noise = np.random.default_rng((20191030, self._seed, t)).normal(0, 0.02, picture.shape)
            frame = (255 * np.clip(picture + noise, 0, 1)).astype(np.uint8)
            self._cache[t] = frame, instances
        return self._cache[t]


_FIRST_SEED = {"train": 0, "tune": 10**6, "test": 2 * 10**6}


def synthetic_clips(
    use: Literal["train", "tune", "test"], count: int, seed: int = 0, config: SyntheticConfig | None = None
) -> list[SyntheticClip]:
    """Clips of a run with this seed. Those of different uses differ, and so do those of different seeds."""
    first = _FIRST_SEED[use] + 1000 * seed
    return [SyntheticClip(first + i, config) for i in range(count)]


def _looks(rng: np.random.Generator) -> _Looks:
    lobes = rng.integers(2, 6)
    harmonics = np.stack((rng.uniform(0, 0.35, lobes) / np.arange(1, lobes + 1), rng.uniform(0, 2 * math.pi, lobes)))
    colors = rng.uniform(0.05, 0.95, (2, 3))
    texture = _TEXTURES[rng.integers(len(_TEXTURES))]
    return harmonics, rng.uniform(0.7, 1.4), texture, colors, rng.uniform(0.35, 0.8), rng.random((16, 16))


def _alike(rng: np.random.Generator, look: _Looks) -> _Looks:
    """Nearly the same look: one colour shifted, another period."""
    harmonics, stretch, texture, colors, period, noise = look
    shifted = colors.copy()
    shifted[rng.integers(2)] += rng.choice((-1, 1), 3) * rng.uniform(0.1, 0.2, 3)
    return harmonics, stretch, texture, np.clip(shifted, 0, 1), period * rng.uniform(0.8, 1.25), noise


def _draw(
    shape: _Shape, t: int, size: tuple[int, int]
) -> tuple[tuple[slice, slice], NDArray[np.bool_], NDArray[np.float64]]:
    """A window around the shape at time t, where in it the shape is, bool, and its colours there, (pixels, 3)."""
    amplitude, frequency, phase = shape.sway.T
    where = shape.start + shape.velocity * t + amplitude * (np.sin(frequency * t + phase) - np.sin(phase))
    where = np.array([_bounce(where[0], size[0]), _bounce(where[1], size[1])])
    angle = shape.angle + shape.spin * t
    reach = shape.radius * (1 + float(shape.harmonics[0].sum())) * max(shape.stretch, 1 / shape.stretch) + 1
    window = (
        slice(max(0, math.floor(where[0] - reach)), math.ceil(where[0] + reach)),
        slice(max(0, math.floor(where[1] - reach)), math.ceil(where[1] + reach)),
    )
    y, x = (
        np.mgrid[window[0].start : min(window[0].stop, size[0]), window[1].start : min(window[1].stop, size[1])] + 0.5
    )
    dy, dx = (y - where[0]) / shape.radius, (x - where[1]) / shape.radius
    u = (math.cos(angle) * dx + math.sin(angle) * dy) * shape.stretch
    v = (-math.sin(angle) * dx + math.cos(angle) * dy) / shape.stretch
    theta = np.arctan2(v, u)
    outline = 1 + sum(a * np.sin((k + 2) * theta + p) for k, (a, p) in enumerate(shape.harmonics.T))
    mask = np.hypot(u, v) < outline
    u, v = u[mask], v[mask]
    if shape.texture == "stripes":
        blend = 0.5 + 0.5 * np.sin(2 * math.pi * u / shape.period)
    elif shape.texture == "checks":
        blend = ((np.floor(2 * u / shape.period) + np.floor(2 * v / shape.period)) % 2).astype(np.float64)
    elif shape.texture == "rings":
        blend = 0.5 + 0.5 * np.sin(2 * math.pi * np.hypot(u, v) / shape.period)
    else:
        blend = shape.noise[
            (np.floor(4 * u / shape.period) % 16).astype(int), (np.floor(4 * v / shape.period) % 16).astype(int)
        ]
    return window, mask, shape.colors[0] + blend[:, None] * (shape.colors[1] - shape.colors[0])


def _bounce(place: float, size: int) -> float:
    """Reflected at 5% and 95% of the size."""
    low, high = 0.05 * size, 0.95 * size
    offset = (place - low) % (2 * (high - low))
    return low + min(offset, 2 * (high - low) - offset)


def _background(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Noise of several scales, (2 H, 2 W, 3), that repeats itself at its borders."""
    picture = np.zeros((2 * height, 2 * width, 3)) + rng.uniform(0.3, 0.7, 3)
    for cells in (2, 4, 8, 16):
        grid = rng.normal(0, 0.22 / math.sqrt(cells), (cells, cells, 3))
        y, x = np.mgrid[0 : 2 * height, 0 : 2 * width].astype(np.float64)
        picture += _sample(grid, y * cells / (2 * height), x * cells / (2 * width))
    return np.clip(picture, 0, 1)


def _sample(picture: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bilinear, periodic."""
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    fy, fx = (y - y0)[..., None], (x - x0)[..., None]
    height, width = picture.shape[:2]
    rows, columns = (y0 % height, (y0 + 1) % height), (x0 % width, (x0 + 1) % width)
    top = picture[rows[0], columns[0]] * (1 - fx) + picture[rows[0], columns[1]] * fx
    bottom = picture[rows[1], columns[0]] * (1 - fx) + picture[rows[1], columns[1]] * fx
    return top * (1 - fy) + bottom * fy
