"""Find the grid of a Sudoku in a photograph, and flatten it.

1. *Candidates.* An adaptive threshold makes ink white. The lines of a grid hang together, so each large connected component is
   a candidate, and a quadrilateral around its convex hull gives a first homography from the lattice, ``[0, 9] x [0, 9]``, to
   the photograph.
2. *Fit.* Along the twenty lines of the lattice, the ridge of ink nearest to each of 900 points says how far, across the
   line, the lattice has to move there. A polynomial displacement, of degree 5 in the end, is fitted to that by least
   squares, reweighted so that digits and dirt do not count (Tukey's biweight). So a page that is bent, and an outline of which
   a corner is cut off, are fitted as well.
3. *Choice.* The support of a lattice is the share of its lines under which there is more ink than beside them. The
   candidate with the most support is the grid; below `LEAST_SUPPORT` there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]
FloatArray = NDArray[np.float32]

LEAST_SUPPORT = 0.86
"""A lattice is taken for a grid from this support on; see `support`. Pictures without a grid, or with one of other than
9 x 9 cells, come to less than 0.82, photographed puzzles to 0.93 and more. (Every second line of 18 x 18 cells makes one.)"""
ENOUGH_SUPPORT = 0.97
"""With more than this, no other candidate is looked at."""
WORKING_SIZE = 1000
"""Grids are searched for in a photograph whose longer side is at most so many pixels."""

_DEGREE = 5
_POWERS = [(i, j) for n in range(_DEGREE + 1) for i in range(n, -1, -1) for j in [n - i]]


class GridNotFoundError(ValueError):
    """There is no grid of 9 x 9 cells in the photograph."""


@dataclass(frozen=True)
class Grid:
    """Where the lattice is: from lattice coordinates, u to the right and v down in [0, 9], to pixels of the photograph."""

    homography: NDArray[np.float64]
    """Of shape (3, 3)."""
    bend: NDArray[np.float64]
    """Of shape (2, 21): the displacement in lattice coordinates that comes before it, as coefficients of u^i v^j, i + j <= 5,
    where u and v are scaled to [-1, 1]."""
    support: float
    """See `support`."""

    def locate(self, u: NDArray[np.floating], v: NDArray[np.floating]) -> tuple[FloatArray, FloatArray]:
        """Return the pixel coordinates x and y of lattice points."""
        u, v = np.broadcast_arrays(u, v)
        du, dv = self.bend @ _monomials(u, v)
        return self._project(u + du.reshape(u.shape), v + dv.reshape(u.shape))

    def _project(self, u: NDArray[np.floating], v: NDArray[np.floating]) -> tuple[FloatArray, FloatArray]:
        h = self.homography
        w = h[2, 0] * u + h[2, 1] * v + h[2, 2]
        w = np.where(np.abs(w) < 1e-9, 1e-9, w)
        x = (h[0, 0] * u + h[0, 1] * v + h[0, 2]) / w
        y = (h[1, 0] * u + h[1, 1] * v + h[1, 2]) / w
        return x.astype(np.float32), y.astype(np.float32)

    def across(self) -> tuple[FloatArray, FloatArray]:
        """Return x and y across the lines at the points of the fit, (20, points, len(_ACROSS)), bent as on the line."""
        du, dv = self.bend @ _MONOMIALS
        u, v = _U + du.reshape(_U.shape), _V + dv.reshape(_U.shape)
        step = _VERTICAL[..., None] * _ACROSS
        return self._project(u[..., None] + step, v[..., None] + (_ACROSS - step))

    @property
    def corners(self) -> FloatArray:
        """Return the four corners in pixels, clockwise from the top left: (4, 2)."""
        x, y = self.locate(np.array([0.0, 9, 9, 0]), np.array([0.0, 0, 9, 9]))
        return np.stack([x, y], 1)

    def turned(self, quarters: int) -> Grid:
        """Return the grid as seen after the photograph is turned clockwise by so many quarters."""
        homography, bend = self.homography, self.bend
        for _ in range(quarters % 4):
            # New (u, v) is old (v, 9 - u).
            homography = homography @ np.array([[0.0, 1, 0], [-1, 0, 9], [0, 0, 1]])
            turned = np.zeros_like(bend)
            for n, (i, j) in enumerate(_POWERS):
                # u'^i v'^j of the old coordinates u' = v, v' = -u; and the displacement (du', dv') = (dv, -du).
                m = _POWERS.index((j, i))
                turned[1, m] += bend[0, n] * (-1) ** j
                turned[0, m] -= bend[1, n] * (-1) ** j
            bend = turned
        return Grid(homography, bend, self.support)

    def scaled(self, factor: float) -> Grid:
        """Return the grid in a photograph that is so many times larger."""
        return Grid(np.diag([factor, factor, 1.0]) @ self.homography, self.bend, self.support)


def _monomials(u: NDArray[np.floating], v: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return u^i v^j of scaled coordinates, (21, points)."""
    a, b = (np.asarray(w, np.float64).ravel() / 4.5 - 1 for w in (u, v))
    powers_a, powers_b = [np.ones_like(a)], [np.ones_like(b)]
    for _ in range(_DEGREE):
        powers_a.append(powers_a[-1] * a)
        powers_b.append(powers_b[-1] * b)
    return np.stack([powers_a[i] * powers_b[j] for i, j in _POWERS])


def darkness(photograph: UInt8Array) -> FloatArray:
    """Return how much darker each pixel is than the paper around it, in [0, 1].

    The darkest of the three colours counts, so that ink of any colour is dark; dividing by the paper takes uneven light out.

    Args:
        photograph: Of shape (height, width, 3).
    """
    value = photograph.min(2)
    side = max(value.shape)
    small = cv2.resize(value, None, fx=min(1.0, 320 / side), fy=min(1.0, 320 / side), interpolation=cv2.INTER_AREA)
    small = cv2.medianBlur(small, 3)
    paper = cv2.dilate(small, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (13, 13)))
    paper = cv2.GaussianBlur(paper, (0, 0), 6)
    paper = cv2.resize(paper, value.shape[::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32)
    dark: FloatArray = np.clip(1 - value.astype(np.float32) / np.maximum(paper, 8), 0, 1)
    return dark


def find_grid(photograph: UInt8Array) -> Grid:
    """Find the grid of 9 x 9 cells with the most support.

    Which side is up is not known yet: see `Grid.turned`.

    Args:
        photograph: Of shape (height, width, 3), at least 64 x 64.

    Raises:
        GridNotFoundError: If no lattice has support.
    """
    if photograph.ndim != 3 or photograph.shape[2] != 3 or photograph.dtype != np.uint8:
        raise ValueError(f"photograph: got {photograph.dtype} {photograph.shape}, wanted uint8 (height, width, 3)")
    if min(photograph.shape[:2]) < 64:
        raise GridNotFoundError(f"no grid found: the picture has {photograph.shape[1]} x {photograph.shape[0]} pixels")
    factor = min(1.0, WORKING_SIZE / max(photograph.shape[:2]))
    small = cv2.resize(photograph, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    dark = darkness(np.asarray(small, np.uint8))
    best: Grid | None = None
    for quad in _candidates(dark):
        grid = _fit(dark, quad)
        if best is None or grid.support > best.support:
            best = grid
        if best.support > ENOUGH_SUPPORT:
            break
    if best is not None and best.support <= ENOUGH_SUPPORT:
        best = _shifted(dark, best)
    if best is None or best.support < LEAST_SUPPORT:
        raise GridNotFoundError("no grid found")
    return best.scaled(1 / factor)


def _shifted(dark: FloatArray, grid: Grid) -> Grid:
    """Try the lattices that are a row or a column off: an outline may hang together with what is beside it."""
    best = grid
    for right, down in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        x, y = grid.locate(np.array([0.0, 9, 9, 0]) + right, np.array([0.0, 0, 9, 9]) + down)
        moved = _fit(dark, np.stack([x, y], 1))
        if moved.support > best.support:
            best = moved
    return best


def _candidates(dark: FloatArray) -> Iterator[FloatArray]:
    """Yield quadrilaterals, (4, 2), clockwise from the top left, that may be the outline, the likeliest first."""
    levels = (255 * (1 - dark)).astype(np.uint8)
    least = 0.25 * min(dark.shape)
    seen: list[FloatArray] = []
    for block, offset in ((25, 10), (41, 5), (25, 5), (15, 3), (61, 14)):
        smooth = cv2.GaussianBlur(levels, (3, 3), 0)
        ink = cv2.adaptiveThreshold(smooth, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY_INV, block, offset)
        for grow in (1, 3):
            thick = cv2.dilate(ink, np.ones((grow, grow), np.uint8)) if grow > 1 else ink
            _, labels, stats, _ = cv2.connectedComponentsWithStats(thick, connectivity=8)
            sides = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]]
            order = np.argsort(-sides.prod(1), kind="stable")
            large = [c for c in order if c > 0 and sides[c].min() >= least and sides[c].max() < 3 * sides[c].min()]
            for component in large[:4]:
                rows, columns = np.nonzero(labels == component)
                hull = cv2.convexHull(np.stack([columns, rows], 1).astype(np.int32))
                for quad in _quadrilaterals(hull):
                    if all(np.abs(quad - other).max() > 4 for other in seen):
                        seen.append(quad)
                        yield quad


def _quadrilaterals(hull: NDArray[np.int32]) -> Iterator[FloatArray]:
    length = cv2.arcLength(hull, True)
    for share in np.arange(0.02, 0.12, 0.01):
        polygon = cv2.approxPolyDP(hull, share * length, True)
        if len(polygon) == 4:
            yield _clockwise(polygon[:, 0].astype(np.float32))
            break
    yield _clockwise(cv2.boxPoints(cv2.minAreaRect(hull)).astype(np.float32))


def _clockwise(quad: FloatArray) -> FloatArray:
    """Order corners clockwise, beginning with the one nearest to the top left."""
    around = quad - quad.mean(0)
    quad = quad[np.argsort(np.arctan2(around[:, 1], around[:, 0]), kind="stable")]
    return np.roll(quad, -int(quad.sum(1).argmin()), 0)


# --- the fit ------------------------------------------------------------------------------------------------

# Points along each line, away from where lines cross.
_ALONG = np.array([c + s for c in range(9) for s in (0.2, 0.35, 0.5, 0.65, 0.8)])
_ACROSS = np.arange(-15, 16) / 50


# How far beside a line its ink is looked for, and the degree that is fitted to what was found.
_ROUNDS = ((0.3, 1), (0.3, 1), (0.3, 2), (0.3, 3), (0.25, 3), (0.2, 4), (0.15, 5), (0.12, 5))


def _line_points() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return u and v of the points on the ten vertical and then the ten horizontal lines, (20, points)."""
    line, along = np.meshgrid(np.arange(10.0), _ALONG, indexing="ij")
    return np.concatenate([line, along]), np.concatenate([along, line])


_U, _V = _line_points()
_VERTICAL = np.arange(20)[:, None] < 10
_MONOMIALS = _monomials(_U, _V)


def _profiles(dark: FloatArray, grid: Grid) -> FloatArray:
    """Return the ink across the lines at each of their points, (20, points, len(_ACROSS)); outside the picture it is NaN."""
    x, y = grid.across()
    flat = cv2.remap(dark, x.reshape(20, -1), y.reshape(20, -1), cv2.INTER_LINEAR, borderValue=(np.nan,) * 4)
    return np.asarray(flat, np.float32).reshape(x.shape)


def support(profiles: FloatArray) -> float:
    """Return the support of a lattice, in [0, 1]: the share of the points of its lines at which the ink under them stands out.

    It stands out if it exceeds the ink at both sides by a quarter of what is usual for the lines of this grid. Points outside
    the picture count half.
    """
    middle = np.abs(_ACROSS) < 0.07
    sides = (np.abs(_ACROSS) > 0.12) & (np.abs(_ACROSS) < 0.25)
    contrast = profiles[..., middle].max(-1) - profiles[..., sides].mean(-1)
    known = np.isfinite(contrast)
    if known.mean() < 0.5:
        return 0.0
    usual = float(np.median(contrast[known]))
    if usual < 0.02:
        return 0.0
    return float(np.where(known, contrast > usual / 4, 0.5).mean())


def _fit(dark: FloatArray, quad: FloatArray) -> Grid:
    """Fit the lattice to the ink, beginning with an outline."""
    lattice = np.array([[0, 0], [9, 0], [9, 9], [0, 9]], np.float32)
    start = cv2.getPerspectiveTransform(lattice, quad).astype(np.float64)
    cell = float(np.sqrt(cv2.contourArea(quad))) / 9
    smooth = cv2.GaussianBlur(dark, (0, 0), max(0.6, cell / 40))
    grid = Grid(start, np.zeros((2, len(_POWERS))), 0.0)
    for reach, degree in _ROUNDS:
        profile = _profiles(smooth, grid)
        # What a line has along five points in a row stands out from digits and noise.
        padded = np.pad(np.nan_to_num(profile), ((0, 0), (2, 2), (0, 0)), mode="edge")
        joined = np.mean([padded[:, i : i + profile.shape[1]] for i in range(5)], 0)
        within = np.abs(_ACROSS) <= reach + 1e-9
        scored = np.where(within, joined * np.exp(-((_ACROSS / reach) ** 2)), -1)
        peak = scored.argmax(-1)
        height = np.take_along_axis(joined, peak[..., None], -1)[..., 0]
        contrast = height - np.median(joined[..., within], -1)
        shift = _ACROSS[peak]
        used = [n for n, (i, j) in enumerate(_POWERS) if i + j <= degree]
        bent = (grid.bend @ _MONOMIALS).reshape(2, *_U.shape)
        moved = np.where(_VERTICAL, bent[0], bent[1]) + shift
        weight = np.clip(contrast, 0, None) / (np.median(contrast) + 1e-6)
        weight = np.minimum(weight, 1.5) * np.isfinite(profile).all(-1)
        bend = np.zeros_like(grid.bend)
        for axis, lines in ((0, slice(0, 10)), (1, slice(10, 20))):
            A = _MONOMIALS[used].reshape(len(used), *_U.shape)[:, lines].reshape(len(used), -1).T
            b, w = moved[lines].ravel(), weight[lines].ravel()
            bend[axis, used] = _robust(A, b, w, 0.5 * reach)
        grid = Grid(start, bend, 0.0)
    return Grid(start, grid.bend, support(_profiles(smooth, grid)))


def _robust(
    A: NDArray[np.floating], b: NDArray[np.floating], weight: NDArray[np.floating], scale: float
) -> NDArray[np.floating]:
    """Minimize the sum of weighted squares of A x - b, with Tukey's biweight beyond a few times ``scale``."""
    ridge = 1e-2 * np.eye(A.shape[1])
    w, x = weight, np.zeros(A.shape[1])
    for _ in range(4):
        x = np.linalg.solve(A.T @ (w[:, None] * A) + ridge, A.T @ (w * b))
        w = weight * np.clip(1 - ((A @ x - b) / (2 * scale)) ** 2, 0, None) ** 2
    return x


def flatten(image: NDArray[np.generic], grid: Grid, cell: int, margin: float) -> NDArray[np.generic]:
    """Return the cells of a flattened grid.

    Args:
        image: Of shape (height, width) or (height, width, channels), uint8 or float32.
        grid: Where the grid is.
        cell: The side of a returned cell in pixels.
        margin: How much is shown beyond each edge of a cell, as a share of its side.

    Returns:
        Of shape (81, cell, cell), or with channels behind, row by row; what is outside the picture repeats its edge.
    """
    inside = (np.arange(cell) + 0.5) / cell * (1 + 2 * margin) - margin
    lattice = (np.arange(9)[:, None] + inside).ravel()
    x, y = grid.locate(lattice[None, :], lattice[:, None])
    # A pixel of the result covers several of a large photograph.
    step = max(np.hypot(np.diff(x, axis=1), np.diff(y, axis=1)).mean(), 1.0)
    if step > 1.3:
        image = cv2.GaussianBlur(np.asarray(image), (0, 0), 0.45 * float(np.sqrt(step**2 - 1)))
    flat = cv2.remap(np.asarray(image), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    shape = (9, cell, 9, cell, *flat.shape[2:])
    return np.moveaxis(flat.reshape(shape), 2, 1).reshape(81, cell, cell, *flat.shape[2:])
