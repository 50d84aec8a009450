"""Signed distance functions of the catalogue's objects.

Each takes points (n, 3) in the object's own frame (y up, standing on y = 0, about one unit high) and
returns distances (n,): negative inside, never larger than the true distance to the surface, so that
sphere tracing cannot step through. Primitives after Quilez, "Distance functions".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

Shape = Callable[[Tensor], Tensor]

# Every object lies inside this sphere.
BOUND_CENTRE: Final = (0.0, 0.48, 0.0)
BOUND_RADIUS: Final = 0.74


def _box(p: Tensor, centre: tuple[float, float, float], half: tuple[float, float, float], round_: float) -> Tensor:
    q = (p - p.new_tensor(centre)).abs() - (p.new_tensor(half) - round_)
    outside: Tensor = q.clamp(min=0).norm(dim=-1)
    inside = q.amax(dim=-1).clamp(max=0)
    return outside + inside - round_


def _cylinder(p: Tensor, bottom: float, top: float, radius: Tensor | float, round_: float = 0.0) -> Tensor:
    """A capped cylinder about the y axis."""
    r = torch.hypot(p[:, 0], p[:, 2])
    dr = r - radius + round_
    dy = (p[:, 1] - (bottom + top) / 2).abs() - (top - bottom) / 2 + round_
    outside = torch.hypot(dr.clamp(min=0), dy.clamp(min=0))
    return outside + torch.maximum(dr, dy).clamp(max=0) - round_


def _smooth_union(a: Tensor, b: Tensor, k: float) -> Tensor:
    h = (k - (a - b).abs()).clamp(min=0) / k
    return torch.minimum(a, b) - h * h * k / 4


def _mug(p: Tensor) -> Tensor:
    wall = torch.maximum(_cylinder(p, 0.0, 0.76, 0.36, 0.03), -_cylinder(p, 0.07, 1.0, 0.31))
    handle_x, handle_y = p[:, 0] - 0.37, (p[:, 1] - 0.39).abs() - 0.06
    ring = torch.hypot(handle_x, handle_y.clamp(min=0)) - 0.19
    handle = torch.hypot(ring, p[:, 2]) - 0.05
    # The part of the ring inside the cup is cut away, so the cup stays hollow.
    handle = torch.maximum(handle, 0.33 - torch.hypot(p[:, 0], p[:, 2]))
    return _smooth_union(wall, handle, 0.04)


def _bottle(p: Tensor) -> Tensor:
    body = _cylinder(p, 0.0, 0.62, 0.25, 0.06)
    neck = _cylinder(p, 0.5, 1.0, 0.085, 0.01)
    lip = _cylinder(p, 0.95, 1.05, 0.105, 0.02)
    return torch.minimum(_smooth_union(body, neck, 0.25), lip)


def _vase(p: Tensor) -> Tensor:
    y = p[:, 1].clamp(0.0, 0.95)
    profile = 0.20 + 0.15 * torch.sin(y * 4.6 + 0.1) * torch.exp(-y * 0.35) + 0.05 * y
    outer = _cylinder(p, 0.0, 0.95, profile, 0.02)
    hollow = _cylinder(p, 0.2, 1.2, profile - 0.05)
    # The changing radius stretches distances: the slope of the profile is below 0.75.
    return torch.maximum(outer, -hollow) * 0.75


def _bowl(p: Tensor) -> Tensor:
    q = p - p.new_tensor((0.0, 0.52, 0.0))
    shell = (q.norm(dim=-1) - 0.47).abs() - 0.035
    half = torch.maximum(shell, q[:, 1] - 0.02)
    return _smooth_union(half, _cylinder(p, 0.0, 0.09, 0.2, 0.02), 0.05)


def _rounded_box(p: Tensor) -> Tensor:
    return _box(p, (0.0, 0.33, 0.0), (0.40, 0.33, 0.33), 0.04)


def _ball(p: Tensor) -> Tensor:
    from_centre: Tensor = (p - p.new_tensor((0.0, 0.44, 0.0))).norm(dim=-1)
    return from_centre - 0.44


def _chair(p: Tensor) -> Tensor:
    seat = _box(p, (0.0, 0.46, 0.0), (0.32, 0.045, 0.30), 0.02)
    back = _box(p, (0.0, 0.80, -0.27), (0.32, 0.31, 0.035), 0.02)
    mirrored = torch.stack((p[:, 0].abs(), p[:, 1], p[:, 2].abs()), dim=-1)
    legs = _box(mirrored, (0.27, 0.22, 0.25), (0.04, 0.22, 0.04), 0.01)
    return torch.minimum(torch.minimum(seat, back), legs)


def _lamp(p: Tensor) -> Tensor:
    base = _cylinder(p, 0.0, 0.07, 0.24, 0.02)
    pole = _cylinder(p, 0.0, 0.75, 0.035)
    y = p[:, 1].clamp(0.56, 1.06)
    radius = 0.40 - (y - 0.56) * 0.42
    shade = torch.maximum(_cylinder(p, 0.56, 1.06, radius), -_cylinder(p, 0.5, 1.0, radius - 0.04)) * 0.9
    return torch.minimum(torch.minimum(base, pole), shade)


SHAPES: Final[Mapping[str, Shape]] = {
    "mug": _mug,
    "bottle": _bottle,
    "vase": _vase,
    "bowl": _bowl,
    "box": _rounded_box,
    "ball": _ball,
    "chair": _chair,
    "lamp": _lamp,
}

# Objects with flat faces: their pattern is projected along the face's normal, not around the axis.
FLAT_FACED: Final = frozenset({"box", "chair"})
