"""The renderer: sphere-traced product photographs with soft shadow, ambient occlusion and reflections.

Scenes are rendered in batches on any torch device. Rays that cannot meet the object's bounding sphere
are never traced, which is most of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.demo.scene import Scene
from pipeline.demo.shapes import BOUND_CENTRE, BOUND_RADIUS, FLAT_FACED, SHAPES, Shape
from pipeline.demo.surfaces import BACKDROPS, REFLECTED, WALL_Z, paint

SUPERSAMPLING: Final = 2
_HALF_FIELD: Final = 0.25  # tangent of half the field of view
_TRACE_STEPS: Final = 40
_SHADOW_STEPS: Final = 14
_HIT: Final = 2e-3
_CHANGED_LEVELS: Final = 8 / 255


@dataclass(frozen=True, slots=True)
class Rendering:
    """Photographs and what is known about them.

    Attributes:
        images: sRGB in [0, 1], (n, 3, size, size), float32.
        object_masks: coverage by the object in [0, 1], (n, 1, size, size), float32.
    """

    images: Tensor
    object_masks: Tensor


@dataclass(frozen=True, slots=True)
class _Setup:
    """What a scene's seed decides: camera, light, pose, and the textures' phases."""

    eye: Tensor
    forward: Tensor
    right: Tensor
    up: Tensor
    light: Tensor
    light_colour: Tensor
    yaw: float
    exposure: float
    phases: Tensor


def render(scenes: Sequence[Scene], size: int, device: str | torch.device = "cpu") -> Rendering:
    """Render each scene at `size` × `size` pixels; a scene's pixels do not depend on its batch mates."""
    by_object: dict[str, list[int]] = defaultdict(list)
    for i, scene in enumerate(scenes):
        by_object[scene.object].append(i)
    images = torch.empty(len(scenes), 3, size, size, device=device)
    masks = torch.empty(len(scenes), 1, size, size, device=device)
    for name, indices in by_object.items():
        group = _render_group([scenes[i] for i in indices], SHAPES[name], size, torch.device(device))
        images[indices], masks[indices] = group.images, group.object_masks
    return Rendering(images, masks)


def changed_mask(before: Tensor, after: Tensor) -> Tensor:
    """Mark the pixels that an edit truly changed: (n, 3, h, w) twice → (n, 1, h, w) of 0 and 1.

    A pixel counts where any channel moves by 8 levels of 255 or more; its neighbours count too, since
    an edit's border is shared with them.
    """
    differs = ((before - after).abs().amax(dim=1, keepdim=True) >= _CHANGED_LEVELS).float()
    return F.max_pool2d(differs, kernel_size=3, stride=1, padding=1)


def _setup(seed: int, device: torch.device) -> _Setup:
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(32, generator=generator).tolist()
    azimuth, elevation = (u[0] - 0.5) * 0.6, 0.22 + 0.24 * u[1]
    distance = 3.0 + 0.6 * u[2]
    target = torch.tensor([(u[3] - 0.5) * 0.28, 0.44 + 0.08 * u[4], (u[5] - 0.5) * 0.2])
    offset = torch.tensor(
        [math.sin(azimuth) * math.cos(elevation), math.sin(elevation), math.cos(azimuth) * math.cos(elevation)]
    )
    forward = -offset
    right = F.normalize(torch.linalg.cross(forward, torch.tensor([0.0, 1.0, 0.0])), dim=0)
    light_azimuth, light_elevation = (u[6] - 0.5) * 2.4, 0.75 + 0.4 * u[7]
    light = torch.tensor(
        [
            math.sin(light_azimuth) * math.cos(light_elevation),
            math.sin(light_elevation),
            math.cos(light_azimuth) * math.cos(light_elevation),
        ]
    )
    warmth = (u[8] - 0.5) * 0.16
    return _Setup(
        eye=(target + offset * distance).to(device),
        forward=forward.to(device),
        right=right.to(device),
        up=torch.linalg.cross(right, forward).to(device),
        light=light.to(device),
        light_colour=torch.tensor([1 + warmth, 1.0, 1 - warmth]).to(device),
        yaw=(u[9] - 0.5) * 1.6,
        exposure=0.92 + 0.16 * u[10],
        phases=torch.tensor(u[11:]).to(device),
    )


def _render_group(scenes: Sequence[Scene], shape: Shape, size: int, device: torch.device) -> Rendering:
    """Render scenes that share a shape: trace all of them at once, shade each with its own surfaces."""
    setups = [_setup(scene.seed, device) for scene in scenes]
    side = size * SUPERSAMPLING
    n_rays = side * side
    directions = torch.stack([_directions(s, side) for s in setups])
    eyes = torch.stack([s.eye for s in setups])[:, None].expand_as(directions)
    of_scene = torch.arange(len(scenes), device=device)[:, None].expand(-1, n_rays).reshape(-1)
    cos_yaw = torch.tensor([math.cos(s.yaw) for s in setups], device=device)
    sin_yaw = torch.tensor([math.sin(s.yaw) for s in setups], device=device)

    def distance(p: Tensor, index: Tensor) -> Tensor:
        c, s = cos_yaw[index], sin_yaw[index]
        turned = torch.stack((c * p[:, 0] - s * p[:, 2], p[:, 1], s * p[:, 0] + c * p[:, 2]), dim=-1)
        return shape(turned)

    flat_eyes, flat_directions = eyes.reshape(-1, 3), directions.reshape(-1, 3)
    t, hit = _trace(distance, flat_eyes, flat_directions, of_scene)
    t, hit = t.view(len(scenes), n_rays), hit.view(len(scenes), n_rays)

    pixels = torch.stack(
        [_shade(scene, setups[i], distance, directions[i], t[i], hit[i], i) for i, scene in enumerate(scenes)]
    )
    images = pixels.view(len(scenes), side, side, 3).permute(0, 3, 1, 2)
    images = F.avg_pool2d(images, SUPERSAMPLING)
    masks = F.avg_pool2d(hit.view(len(scenes), 1, side, side).float(), SUPERSAMPLING)
    return Rendering(_to_srgb(images), masks)


def _directions(setup: _Setup, side: int) -> Tensor:
    axis = ((torch.arange(side, device=setup.eye.device) + 0.5) / side * 2 - 1) * _HALF_FIELD
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    rays = setup.forward + x[..., None] * setup.right + y[..., None] * setup.up
    return F.normalize(rays.reshape(-1, 3), dim=-1)


Distance = Callable[[Tensor, Tensor], Tensor]


def _near_bound(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where rays enter and leave the bounding sphere, and which meet it at all in front of them."""
    to_centre = origin - origin.new_tensor(BOUND_CENTRE)
    b = (to_centre * direction).sum(-1)
    discriminant = b * b - (to_centre * to_centre).sum(-1) + BOUND_RADIUS**2
    root = discriminant.clamp(min=0).sqrt()
    enter, leave = (-b - root).clamp(min=0), -b + root
    return enter, leave, (discriminant > 0) & (leave > 0)


def _trace(distance: Distance, origin: Tensor, direction: Tensor, of_scene: Tensor) -> tuple[Tensor, Tensor]:
    """Sphere-trace rays (n, 3) → distance along each (n,) and whether it met the object (n,)."""
    enter, leave, candidate = _near_bound(origin, direction)
    t_all, hit_all = torch.full_like(enter, math.inf), torch.zeros_like(candidate)
    active = candidate.nonzero().squeeze(1)
    t = enter[active]
    for _ in range(_TRACE_STEPS):
        d = distance(origin[active] + t[:, None] * direction[active], of_scene[active])
        met = d < _HIT
        t_all[active[met]], hit_all[active[met]] = t[met], True
        t = t + d
        going = ~met & (t < leave[active])
        active, t = active[going], t[going]
        if active.numel() == 0:
            break
    return t_all, hit_all


def _shadow(distance: Distance, p: Tensor, light: Tensor, index: int) -> Tensor:
    """Share of the light that reaches points (n, 3), with a penumbra; 1 is lit."""
    enter, leave, candidate = _near_bound(p, light.expand_as(p))
    lit = torch.ones_like(enter)
    rays = candidate.nonzero().squeeze(1)
    if rays.numel() == 0:
        return lit
    origin, t, far = p[rays], enter[rays].clamp(min=0.02), leave[rays]
    of_scene = torch.full_like(rays, index)
    least = torch.ones_like(t)
    for _ in range(_SHADOW_STEPS):
        d = distance(origin + t[:, None] * light, of_scene)
        least = torch.minimum(least, torch.where(t < far, 9.0 * d / t.clamp(min=0.05), 1.0))
        t = t + d.clamp(min=0.03)
    lit[rays] = least.clamp(0, 1)
    return lit


def _occlusion(distance: Distance, p: Tensor, normal: Tensor, index: int) -> Tensor:
    """Ambient occlusion from three samples along the normal; 1 is open."""
    of_scene = torch.full((p.shape[0],), index, device=p.device)
    blocked = torch.zeros_like(p[:, 0])
    for k, reach in enumerate((0.05, 0.14, 0.30)):
        blocked += (reach - distance(p + reach * normal, of_scene)).clamp(min=0) * (1.6 / 2**k) / reach * 0.5
    return (1 - blocked).clamp(0.25, 1)


def _normals(distance: Distance, p: Tensor, of_scene: Tensor) -> Tensor:
    corners = p.new_tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])
    total = sum(c * distance(p + 2e-3 * c, of_scene)[:, None] for c in corners)
    assert isinstance(total, Tensor)
    return F.normalize(total, dim=-1)


def _shade(
    scene: Scene, setup: _Setup, distance: Distance, direction: Tensor, t: Tensor, hit: Tensor, index: int
) -> Tensor:
    pixels = torch.empty_like(direction)
    pixels[~hit] = _shade_backdrop(scene, setup, distance, direction[~hit], index)
    p = setup.eye + t[hit, None] * direction[hit]
    pixels[hit] = _shade_object(scene, setup, distance, p, direction[hit], index)
    return pixels * setup.exposure


def _shade_backdrop(scene: Scene, setup: _Setup, distance: Distance, direction: Tensor, index: int) -> Tensor:
    falling = direction[:, 1] < -1e-3
    t_floor = torch.where(falling, -setup.eye[1] / direction[:, 1], 60.0)
    wall_z = WALL_Z[scene.background]
    t_wall = torch.full_like(t_floor, 60.0)
    if wall_z is not None:
        t_wall = (wall_z - setup.eye[2]) / direction[:, 2].clamp(max=-1e-3)
    on_floor = falling & (t_floor < t_wall)
    p = setup.eye + torch.minimum(t_floor, t_wall)[:, None] * direction
    ground = BACKDROPS[scene.background](p, direction, on_floor, setup.phases)

    up, towards = p.new_tensor((0.0, 1.0, 0.0)), p.new_tensor((0.0, 0.0, 1.0))
    normal = torch.where(on_floor[:, None], up, towards)
    solid = on_floor if wall_z is None else torch.ones_like(on_floor)
    direct = torch.where(solid, _shadow(distance, p + 0.01 * normal, setup.light, index), 1.0)
    direct = direct * (normal @ setup.light).clamp(min=0)
    near = on_floor & ((p - p.new_tensor(BOUND_CENTRE)).norm(dim=-1) < 1.2)
    ambient = torch.ones_like(direct)
    ambient[near] = _occlusion(distance, p[near], normal[near], index)
    lit = ground.albedo * (1.05 * direct[:, None] * setup.light_colour + 0.38 * ambient[:, None])
    e = ground.emission[:, None]
    return lit * (1 - e) + ground.albedo * e


def _reflected(background: str, direction: Tensor, light: Tensor, sharpness: float) -> Tensor:
    """What a mirror sees: the place's colours by height, and the lamp as a soft box."""
    above, at, below = (direction.new_tensor(c) for c in REFLECTED[background])
    y = direction[:, 1:2]
    colour = torch.where(y > 0, at + (above - at) * (y * 1.6).clamp(0, 1), at + (below - at) * (-y * 4).clamp(0, 1))
    lamp = ((direction @ light - sharpness) / (1 - sharpness)).clamp(0, 1)[:, None]
    return colour + 2.2 * lamp * lamp


def _shade_object(scene: Scene, setup: _Setup, distance: Distance, p: Tensor, direction: Tensor, index: int) -> Tensor:
    of_scene = torch.full((p.shape[0],), index, device=p.device)
    normal = _normals(distance, p, of_scene)
    # Round things show no pose: their pattern faces the camera. So a photograph tells where a prompt's pattern will be.
    azimuth = float(torch.atan2(-setup.forward[0], -setup.forward[2]))
    yaw = setup.yaw if scene.object in FLAT_FACED else azimuth
    c, s = math.cos(yaw), math.sin(yaw)
    turn = p.new_tensor([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])
    albedo = paint(
        scene.colour,
        scene.pattern,
        p @ turn.T,
        normal @ turn.T,
        setup.phases,
        flat_faced=scene.object in FLAT_FACED,
    )
    facing = (normal @ setup.light).clamp(min=0)
    direct = (facing * _shadow(distance, p + 0.02 * normal, setup.light, index))[:, None] * setup.light_colour
    ambient = (_occlusion(distance, p, normal, index) * (0.62 + 0.38 * normal[:, 1]))[:, None]
    diffuse = albedo * (1.05 * direct + 0.42 * ambient)
    if scene.material == "matte":
        return diffuse
    cosine = (-(direction * normal).sum(-1)).clamp(0, 1)[:, None]
    mirror = direction + 2 * cosine * normal
    if scene.material == "glossy":
        fresnel = 0.05 + 0.75 * (1 - cosine) ** 4
        return (
            diffuse * (1 - fresnel)
            + fresnel * ambient * _reflected(scene.background, mirror, setup.light, 0.90)
            + 0.9 * ((mirror @ setup.light).clamp(min=0) ** 60)[:, None]
        )
    tint = albedo * 0.85 + 0.15 * albedo.amax(dim=-1, keepdim=True) + 0.03
    return 0.25 * diffuse + 1.25 * tint * ambient.clamp(min=0.4) * _reflected(
        scene.background, mirror, setup.light, 0.80
    )


def _to_srgb(linear: Tensor) -> Tensor:
    # A soft shoulder keeps highlights from clipping flat.
    x = torch.where(linear < 0.7, linear, 0.7 + 0.3 * torch.tanh((linear - 0.7) / 0.3)).clamp(0, 1)
    return torch.where(x <= 0.0031308, 12.92 * x, 1.055 * x.clamp(min=1e-6) ** (1 / 2.4) - 0.055)
