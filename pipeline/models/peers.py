"""Other people's editors, as diffusers ships them, on the same networks: what the benchmark compares with.

Each takes photographs with their captions and target captions, and knows nothing else. `knobs` are what a search may
turn: the first value of each is where it begins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from pipeline.diffusion.pixels import as_pixels, as_tensor
from pipeline.models.measuring import now
from pipeline.models.stable_diffusion import StableDiffusion
from pipeline.pixels import Pixels

Settings = Mapping[str, Any]

STEPS: Final = 50  # as many as ours take
_SEED: Final = 0  # of every image's own generator, so that its noise does not depend on its batch mates


@dataclass(frozen=True, slots=True)
class PeerTask:
    """Photographs of one size, each with any number of edits, and how many of these go through the network together.

    Attributes:
        images: uint8 (h, w, 3).
        source_prompts: one per image.
        prompts: per image, one per edit.
    """

    images: Sequence[Pixels]
    source_prompts: Sequence[str]
    prompts: Sequence[Sequence[str]]
    batch: int = 32
    num_inference_steps: int = STEPS

    def rows(self) -> Iterator[list[tuple[int, str]]]:
        """All edits as (image, prompt), in batches."""
        edits = [(i, prompt) for i, prompts in enumerate(self.prompts) for prompt in prompts]
        for start in range(0, len(edits), self.batch):
            yield edits[start : start + self.batch]


@dataclass(frozen=True, slots=True)
class PeerEdits:
    """What came of a task: pictures uint8 (h, w, 3) in the order of its edits, and the seconds that it took.

    `inversion_seconds` were spent once per image, `edit_seconds` once per edit; both are totals.
    """

    pictures: list[Pixels]
    inversion_seconds: float
    edit_seconds: float


@dataclass(frozen=True, slots=True)
class Peer:
    """One published editor: what it is, what of it may be tuned, and how it edits."""

    paper: str
    knobs: Mapping[str, tuple[Any, ...]]
    edit: Callable[[StableDiffusion, PeerTask, Settings], PeerEdits]


def _img2img(model: StableDiffusion, task: PeerTask, settings: Settings) -> PeerEdits:
    from diffusers import StableDiffusionImg2ImgPipeline

    pipeline = model.as_pipeline(StableDiffusionImg2ImgPipeline, DDIMScheduler.from_config)
    began, pictures = now(model.device), list[Pixels]()
    for rows in task.rows():
        with _precision(model):
            found = pipeline(
                prompt=[prompt for _, prompt in rows],
                image=as_tensor([task.images[i] for i, _ in rows]),
                generator=_generators(len(rows)),
                num_inference_steps=task.num_inference_steps,
                output_type="pt",
                **settings,
            )
        pictures += as_pixels(found.images)
    return PeerEdits(pictures, 0.0, now(model.device) - began)


def _diffedit(model: StableDiffusion, task: PeerTask, settings: Settings) -> PeerEdits:
    from diffusers import StableDiffusionDiffEditPipeline

    pipeline = model.as_pipeline(StableDiffusionDiffEditPipeline, DDIMScheduler.from_config, inverse_scheduler=None)
    pipeline.inverse_scheduler = DDIMInverseScheduler.from_config(pipeline.scheduler.config)
    steps = {"num_inference_steps": task.num_inference_steps, "inpaint_strength": settings["inpaint_strength"]}
    began, latents = now(model.device), list[Tensor]()
    for start in range(0, len(task.images), task.batch):
        chunk = slice(start, start + task.batch)
        prompts = list(task.source_prompts[chunk])
        with _precision(model):
            # Without guidance, under which inversion does not lead back.
            found = pipeline.invert(
                prompts,
                as_tensor(task.images[chunk]),
                guidance_scale=1.0,
                generator=_generators(len(prompts)),
                **steps,
            )
        latents += found.latents
    inverted, pictures = now(model.device), list[Pixels]()
    for rows in task.rows():
        masks = torch.stack([_diffedit_mask(model, pipeline, task, i, prompt, settings) for i, prompt in rows])
        with _precision(model):
            found = pipeline(
                [prompt for _, prompt in rows],
                mask_image=masks[:, None],
                image_latents=torch.stack([latents[i] for i, _ in rows]),
                guidance_scale=settings["guidance_scale"],
                output_type="pt",
                **steps,
            )
        pictures += as_pixels(found.images)
    return PeerEdits(pictures, inverted - began, now(model.device) - inverted)


def _diffedit_mask(
    model: StableDiffusion, pipeline: Any, task: PeerTask, image: int, prompt: str, settings: Settings
) -> Tensor:
    """Where one edit acts (h, w).

    The pipeline measures differences by their batch's mean: each mask is made alone, and guidance has no say in it.
    """
    if prompt == task.source_prompts[image]:  # equal predictions: the scale is 0 / 0
        size = model.encode_images(torch.zeros(1, 3, *task.images[image].shape[:2])).shape[-2:]
        return torch.ones(size)
    with _precision(model):
        mask = pipeline.generate_mask(
            as_tensor([task.images[image]]),
            target_prompt=prompt,
            source_prompt=task.source_prompts[image],
            mask_encode_strength=settings["mask_encode_strength"],
            mask_thresholding_ratio=settings["mask_thresholding_ratio"],
            num_inference_steps=task.num_inference_steps,
            generator=torch.Generator().manual_seed(_SEED),
        )
    return torch.from_numpy(mask[0]).float()


def _ledits_pp(model: StableDiffusion, task: PeerTask, settings: Settings) -> PeerEdits:
    """One image at a time: the pipeline keeps the last inversion, and gives all images of a batch the same prompts."""
    from diffusers import LEditsPPPipelineStableDiffusion

    scheduler = partial(DPMSolverMultistepScheduler.from_config, algorithm_type="sde-dpmsolver++", solver_order=2)
    pipeline = model.as_pipeline(LEditsPPPipelineStableDiffusion, scheduler)
    inversion, edit, pictures = 0.0, 0.0, list[Pixels]()
    with _own_attention(pipeline.unet), _of_channels(pipeline.unet.config.in_channels):
        for image, source, prompts in zip(task.images, task.source_prompts, task.prompts, strict=True):
            began = now(model.device)
            with _precision(model):
                pipeline.invert(
                    as_tensor([image]),
                    num_inversion_steps=task.num_inference_steps,
                    skip=settings["skip"],
                    generator=torch.Generator().manual_seed(_SEED),
                )
                inverted = now(model.device)
                for prompt in prompts:
                    found = pipeline(
                        **_concepts(settings["concepts"], source, prompt),
                        edit_guidance_scale=settings["edit_guidance_scale"],
                        edit_threshold=settings["edit_threshold"],
                        output_type="pt",
                    )
                    pictures += as_pixels(found.images)
            inversion, edit = inversion + inverted - began, edit + now(model.device) - inverted
    return PeerEdits(pictures, inversion, edit)


def _concepts(which: str, source: str, target: str) -> dict[str, Any]:
    """What LEDITS++ is to add and to remove: whole captions, the target's alone, or the words that differ."""
    if source == target:
        return {"editing_prompt": None}
    if which == "target caption":
        return {"editing_prompt": [target]}
    if which == "changed words":
        source, target = _changed_words(source, target), _changed_words(target, source)
    return {"editing_prompt": [target, source], "reverse_editing_direction": [False, True]}


def _changed_words(text: str, other: str) -> str:
    return " ".join(word for word in text.split() if word not in other.split()) or text


@contextlib.contextmanager
def _of_channels(channels: int) -> Iterator[None]:
    """Lets LEDITS++ mask latents of any number of channels: it repeats its masks to four, whatever the model has.

    A `TorchFunctionMode` would do without a change to `Tensor`, and take a share of the time that is measured.
    """
    repeat = Tensor.repeat

    def repeated(tensor: Tensor, *sizes: Any) -> Tensor:
        return repeat(tensor, *((1, channels, 1, 1) if sizes == (1, 4, 1, 1) else sizes))

    Tensor.repeat = repeated  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Tensor.repeat = repeat  # type: ignore[method-assign]


@contextlib.contextmanager
def _own_attention(unet: Any) -> Iterator[None]:
    """Give the network its attention processors back after a pipeline has put in its own."""
    processors = unet.attn_processors
    try:
        yield
    finally:
        unet.set_attn_processor(processors)


def _precision(model: StableDiffusion) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(model.device.type, model.dtype, enabled=model.dtype is not torch.float32)


def _generators(n: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(_SEED) for _ in range(n)]


# Each has nine candidates in a search that turns one knob after the other (pipeline/quality/tuning.py). The pipelines'
# own defaults are among the values; first stand those that suited the bundled model best in a few trials.
PEERS: Final[Mapping[str, Peer]] = {
    "ledits++": Peer(
        "LEDITS++ (Brack et al., CVPR 2024, arXiv 2311.16711)",
        {
            "concepts": ("target caption", "changed words", "target and source caption"),
            "edit_guidance_scale": (3.0, 1.5, 5.0),
            "edit_threshold": (0.6, 0.3, 0.9),
            "skip": (0.15, 0.05, 0.3),
        },
        _ledits_pp,
    ),
    "img2img": Peer(
        "SDEdit (Meng et al., ICLR 2022, arXiv 2108.01073)",
        {"strength": (0.6, 0.4, 0.5, 0.7, 0.8), "guidance_scale": (2.5, 1.0, 1.5, 4.0, 7.5)},
        _img2img,
    ),
    "diffedit": Peer(
        "DiffEdit (Couairon et al., ICLR 2023, arXiv 2210.11427)",
        {
            "guidance_scale": (1.5, 3.0, 7.5),
            "inpaint_strength": (0.8, 0.6, 1.0),
            "mask_thresholding_ratio": (1.0, 0.6, 3.0),
            "mask_encode_strength": (0.5, 0.3, 0.7),
        },
        _diffedit,
    ),
}
