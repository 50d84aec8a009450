"""What things look like: the object's paint and the procedural floors, walls and skies.

All colours are linear RGB. Textures are sums of sines and smooth steps, whose phases come from the
scene's seed; their finest detail stays above a pixel, so a small render does not alias.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

_PAINT: Final = {
    "red": (0.62, 0.03, 0.03),
    "orange": (0.85, 0.25, 0.02),
    "yellow": (0.85, 0.66, 0.05),
    "green": (0.05, 0.36, 0.08),
    "blue": (0.03, 0.12, 0.60),
    "purple": (0.28, 0.06, 0.45),
    "white": (0.80, 0.80, 0.78),
    "black": (0.02, 0.02, 0.022),
}
_SECOND_PAINT: Final = (0.82, 0.81, 0.78)
_SECOND_PAINT_ON_WHITE: Final = (0.12, 0.12, 0.13)
_DOTS_PER_UNIT: Final = 4.4


@dataclass(frozen=True, slots=True)
class Ground:
    """A backdrop's surface points: linear albedo (n, 3) and how much of it is light of its own (n,)."""

    albedo: Tensor
    emission: Tensor


def _smoothstep(x: Tensor, low: float, high: float) -> Tensor:
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _mix(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    return a + (b - a) * t[..., None]


def _waves(x: Tensor, y: Tensor, phases: Tensor, frequency: float, count: int = 6) -> Tensor:
    """Smooth noise in about [-1, 1]: `count` plane waves in spread directions."""
    total = torch.zeros_like(x)
    for k in range(count):
        angle = 2.4 * k + 6.283 * float(phases[k])
        f = frequency * (0.7 + 0.6 * ((k * 0.618) % 1.0))
        offset = 6.283 * float(phases[(k + 7) % len(phases)])
        total = total + torch.sin(f * (math.cos(angle) * x + math.sin(angle) * y) + offset)
    return total / math.sqrt(count * 1.2)


def paint(colour: str, pattern: str, p: Tensor, normal: Tensor, phases: Tensor, *, flat_faced: bool) -> Tensor:
    """Return the object's linear albedo (n, 3) at points (n, 3) of its own frame."""
    jitter = 0.85 + 0.3 * phases[0]
    first = (p.new_tensor(_PAINT[colour]) * jitter).clamp(max=0.9).expand(p.shape[0], 3)
    if pattern == "plain":
        return first
    second = p.new_tensor(_SECOND_PAINT_ON_WHITE if colour == "white" else _SECOND_PAINT).expand_as(first)
    if pattern == "striped":
        # On a face seen from above, rings of equal height would vanish: stripes run across x there.
        along = torch.where(normal[:, 1].abs() > 0.8, p[:, 0], p[:, 1]) if flat_faced else p[:, 1]
        bands = torch.sin(2 * math.pi * along * 3.8)
        # White bands stay white when a colour changes to white, or from it: the dark ones are where the colour was.
        if colour == "white":
            bands = -bands
        return _mix(first, second, _smoothstep(bands, -0.15, 0.15))
    u, v = _dot_coordinates(p, normal, flat_faced=flat_faced)
    v = v * _DOTS_PER_UNIT
    u = u * _DOTS_PER_UNIT + 0.5 * (torch.floor(v) % 2)
    du, dv = u - torch.floor(u) - 0.5, v - torch.floor(v) - 0.5
    return _mix(second, first, _smoothstep(torch.hypot(du, dv), 0.24, 0.34))


def _dot_coordinates(p: Tensor, normal: Tensor, *, flat_faced: bool) -> tuple[Tensor, Tensor]:
    if not flat_faced:
        # Eight dots around, whatever the radius: the seam closes.
        around = torch.atan2(p[:, 0], p[:, 2]) * (8 / (2 * math.pi * _DOTS_PER_UNIT))
        return around, p[:, 1]
    facing = normal.abs().argmax(dim=-1)
    u = torch.where(facing == 0, p[:, 2], p[:, 0])
    v = torch.where(facing == 1, p[:, 2], p[:, 1])
    return u, v


def _floor_or_wall(floor: Tensor, wall: Tensor, on_floor: Tensor) -> Tensor:
    return torch.where(on_floor[:, None], floor, wall)


def _studio(p: Tensor, direction: Tensor, on_floor: Tensor, phases: Tensor) -> Ground:
    tone = p.new_tensor((0.86, 0.86, 0.87)) * (0.95 + 0.08 * phases[2])
    albedo = tone.expand(p.shape[0], 3)
    return Ground(albedo, torch.where(on_floor, 0.15, 0.62))


def _table(p: Tensor, direction: Tensor, on_floor: Tensor, phases: Tensor) -> Ground:
    light, dark = p.new_tensor((0.50, 0.27, 0.11)), p.new_tensor((0.26, 0.12, 0.045))
    plank = torch.floor(p[:, 2] * 2.6 + phases[3])
    tone = torch.sin(plank * 12.9898 + 6.283 * float(phases[4])) * 0.5 + 0.5
    grain = _waves(p[:, 0] * 0.35 + plank * 1.7, p[:, 2], phases, 16.0)
    seam = (p[:, 2] * 2.6 + phases[3] - plank - 0.5).abs()
    floor = _mix(light, dark, (0.30 + 0.35 * tone + 0.22 * grain).clamp(0, 1))
    floor = floor * (1 - 0.55 * _smoothstep(seam, 0.45, 0.5))[:, None]
    wall = p.new_tensor((0.55, 0.47, 0.38)) * (0.75 + 0.25 * phases[5])
    return Ground(_floor_or_wall(floor, wall.expand_as(floor), on_floor), torch.where(on_floor, 0.0, 0.10))


def _counter(p: Tensor, direction: Tensor, on_floor: Tensor, phases: Tensor) -> Ground:
    warp = _waves(p[:, 0], p[:, 2], phases, 3.0)
    vein = torch.sin(3.2 * p[:, 0] + 2.4 * p[:, 2] + 1.9 * warp + 6.283 * phases[3]).abs()
    floor = _mix(p.new_tensor((0.74, 0.74, 0.76)), p.new_tensor((0.34, 0.35, 0.38)), 1 - _smoothstep(vein, 0.0, 0.40))
    floor = floor * (0.94 + 0.06 * warp)[:, None].clamp(max=1.1)
    wall = p.new_tensor((0.20, 0.27, 0.30)) * (0.8 + 0.3 * phases[5])
    return Ground(_floor_or_wall(floor, wall.expand_as(floor), on_floor), torch.where(on_floor, 0.0, 0.06))


def _sky(direction: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return _mix(low, high, _smoothstep(direction[:, 1], -0.12, 0.35))


def _beach(p: Tensor, direction: Tensor, on_floor: Tensor, phases: Tensor) -> Ground:
    ripple = torch.sin(9.0 * p[:, 2] + 2.0 * _waves(p[:, 0], p[:, 2], phases, 2.5) + 6.283 * phases[3])
    sand = p.new_tensor((0.66, 0.50, 0.29)) * (0.92 + 0.10 * ripple)[:, None]
    sea = p.new_tensor((0.05, 0.26, 0.36))
    shore = -2.6 - 0.8 * phases[4] + 0.25 * _waves(p[:, 0], p[:, 2], phases[4:], 0.8, 3)
    wet = _smoothstep(p[:, 2] - shore, -0.15, 0.15)
    floor = _mix(sea.expand_as(sand), sand, wet)
    sky = _sky(direction, p.new_tensor((0.55, 0.72, 0.88)), p.new_tensor((0.16, 0.38, 0.78)))
    return Ground(_floor_or_wall(floor, sky, on_floor), torch.where(on_floor, 0.0, 0.95))


def _lawn(p: Tensor, direction: Tensor, on_floor: Tensor, phases: Tensor) -> Ground:
    near = _smoothstep(p[:, 2], -2.5, 0.5)
    blades = _waves(p[:, 0] * 1.6, p[:, 2], phases, 13.0) * near
    patches = _waves(p[:, 0], p[:, 2], phases[5:], 2.2)
    floor = p.new_tensor((0.13, 0.33, 0.045)) * (0.95 + 0.16 * blades + 0.12 * patches).clamp(min=0.2)[:, None]
    sky = _sky(direction, p.new_tensor((0.70, 0.80, 0.86)), p.new_tensor((0.30, 0.52, 0.85)))
    hedge = p.new_tensor((0.035, 0.10, 0.03)).expand_as(sky)
    line = 0.02 + 0.02 * torch.sin(9 * direction[:, 0] + 6.283 * phases[6])
    far = _mix(hedge, sky, _smoothstep(direction[:, 1] - line, -0.015, 0.015))
    return Ground(_floor_or_wall(floor, far, on_floor), torch.where(on_floor, 0.0, 0.9))


def _brick(p: Tensor, direction: Tensor, on_floor: Tensor, phases: Tensor) -> Ground:
    row = torch.floor(p[:, 1] * 3.3 + phases[3])
    x = p[:, 0] * 1.5 + 0.5 * (row % 2) + phases[4]
    column = torch.floor(x)
    edge_y = 0.5 - (p[:, 1] * 3.3 + phases[3] - row - 0.5).abs()
    edge_x = (0.5 - (x - column - 0.5).abs()) * 2.2
    tone = torch.sin(row * 12.99 + column * 78.23 + 6.283 * float(phases[5])) * 0.5 + 0.5
    brick = _mix(p.new_tensor((0.42, 0.13, 0.07)), p.new_tensor((0.26, 0.08, 0.05)), tone)
    mortar = p.new_tensor((0.44, 0.35, 0.30)).expand_as(brick)
    wall = _mix(mortar, brick, _smoothstep(torch.minimum(edge_x, edge_y), 0.03, 0.12))
    speckle = _waves(p[:, 0], p[:, 2], phases, 7.0)
    floor = p.new_tensor((0.36, 0.35, 0.34)) * (1 + 0.07 * speckle)[:, None]
    return Ground(_floor_or_wall(floor, wall, on_floor), torch.where(on_floor, 0.0, 0.04))


Backdrop = Callable[[Tensor, Tensor, Tensor, Tensor], Ground]

BACKDROPS: Final[Mapping[str, Backdrop]] = {
    "studio": _studio,
    "table": _table,
    "counter": _counter,
    "beach": _beach,
    "lawn": _lawn,
    "brick": _brick,
}

# Distance of the wall behind the object; None where the floor runs to the horizon.
WALL_Z: Final[Mapping[str, float | None]] = {
    "studio": -1.9,
    "table": -1.7,
    "counter": -1.7,
    "beach": None,
    "lawn": None,
    "brick": -0.95,
}

# What a mirror sees of each place: linear colours above, at and below the horizon.
REFLECTED: Final[Mapping[str, tuple[tuple[float, float, float], ...]]] = {
    "studio": ((0.95, 0.95, 0.97), (0.60, 0.60, 0.62), (0.80, 0.80, 0.80)),
    "table": ((0.75, 0.66, 0.55), (0.30, 0.22, 0.16), (0.34, 0.18, 0.08)),
    "counter": ((0.62, 0.68, 0.72), (0.16, 0.20, 0.22), (0.62, 0.62, 0.64)),
    "beach": ((0.28, 0.50, 0.90), (0.85, 0.90, 0.95), (0.58, 0.44, 0.26)),
    "lawn": ((0.45, 0.65, 0.95), (0.55, 0.65, 0.60), (0.12, 0.28, 0.05)),
    "brick": ((0.60, 0.62, 0.66), (0.30, 0.20, 0.16), (0.30, 0.29, 0.28)),
}
