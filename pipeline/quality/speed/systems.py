"""The systems: each inverts photographs and makes their edits, at its best settings, and says how long it took."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any, Final, Protocol

from pipeline.config import PRESETS
from pipeline.diffusion.pixels import as_pixels, as_tensor
from pipeline.editor import Editor, published
from pipeline.errors import RowError
from pipeline.inversion import Inversion
from pipeline.models.measuring import now
from pipeline.models.peers import PEERS, STEPS, PeerTask
from pipeline.models.stable_diffusion import StableDiffusion
from pipeline.pixels import Pixels
from pipeline.quality.metrics import psnr
from pipeline.quality.speed.photographs import Photograph
from pipeline.quality.speed.reference import INNER_ITERATIONS, PAPER_GUIDANCE, NullText, null_text, null_text_edit
from pipeline.settings import FITTED, EditSettings, InversionSettings
from pipeline.synthesis import EditRequest

# What a search over nine settings each found on the bundled model (`bench quality` tunes its peers so).
_TUNED: Final[Mapping[str, Mapping[str, Any]]] = {
    "ledits++": {"concepts": "target caption", "edit_guidance_scale": 1.5, "edit_threshold": 0.3, "skip": 0.05},
    "img2img": {"strength": 0.5, "guidance_scale": 4.0},
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run over photographs made, and the seconds that it took in all.

    Attributes:
        outputs: every edit uint8 (h, w, 3), photograph by photograph.
        recon_psnr: measures the reconstruction of the first so many photographs, in dB, off the clock.
        iterations: gradient steps per image; None where nothing is fitted.
    """

    inversion_seconds: float
    edit_seconds: float
    outputs: list[Pixels]
    recon_psnr: Callable[[int], float]
    iterations: float | None = None


class System(Protocol):
    """One way to invert and edit.

    Attributes:
        alone: it takes images one at a time, so that its seconds per image do not depend on how many there are.
        frozen: the network's weights get no gradients.
    """

    @property
    def alone(self) -> bool: ...
    @property
    def frozen(self) -> bool: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...
    def with_steps(self, steps: int) -> System: ...
    def run(self, model: StableDiffusion, photographs: Sequence[Photograph]) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class NullTextLoop:
    """The published loop; the published code does not freeze the network, and computes gradients that nobody uses."""

    guidance_scale: float
    frozen: bool
    stops: bool = True
    steps: int = STEPS
    alone: bool = True

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "weight_gradients": not self.frozen,
            "stops": self.stops,
        }

    def with_steps(self, steps: int) -> NullTextLoop:
        return replace(self, steps=steps)

    def run(self, model: StableDiffusion, photographs: Sequence[Photograph]) -> Outcome:
        inversion, edit, outputs, found = 0.0, 0.0, list[Pixels](), list[NullText]()
        for photo in photographs:
            began = now(model.device)
            pixels = as_tensor([photo.pixels])
            inverted = null_text(model, pixels, photo.source_prompt, self.steps, self.guidance_scale, stops=self.stops)
            between = now(model.device)
            for prompt in photo.prompts:
                outputs += as_pixels(null_text_edit(model, inverted, prompt, self.guidance_scale))
            inversion, edit = inversion + between - began, edit + now(model.device) - between
            found.append(inverted)

        def recon_psnr(n: int) -> float:
            landed = [as_pixels(model.decode_latents(f.z_0))[0] for f in found[:n]]
            return mean_psnr(landed, photographs)

        return Outcome(inversion, edit, outputs, recon_psnr, mean(f.iterations for f in found))


@dataclass(frozen=True, slots=True)
class PeerEditor:
    """One of diffusers' editors, at the best of the settings that `bench quality` tries."""

    peer: str
    alone: bool
    batch: int
    steps: int = STEPS
    frozen: bool = True

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"num_inference_steps": self.steps, **_TUNED[self.peer]}

    def with_steps(self, steps: int) -> PeerEditor:
        return replace(self, steps=steps)

    def run(self, model: StableDiffusion, photographs: Sequence[Photograph]) -> Outcome:
        peer, knobs = PEERS[self.peer], _TUNED[self.peer]
        made = peer.edit(model, self._task(photographs, [photo.prompts for photo in photographs]), knobs)

        def recon_psnr(n: int) -> float:
            """Asked for the source prompt as well, what it returns is its reconstruction."""
            task = self._task(photographs[:n], [[photo.source_prompt] for photo in photographs[:n]])
            return mean_psnr(peer.edit(model, task, knobs).pictures, photographs)

        return Outcome(made.inversion_seconds, made.edit_seconds, made.pictures, recon_psnr)

    def _task(self, photographs: Sequence[Photograph], prompts: Sequence[Sequence[str]]) -> PeerTask:
        images, sources = [photo.pixels for photo in photographs], [photo.source_prompt for photo in photographs]
        return PeerTask(images, sources, prompts, self.batch, self.steps)


@dataclass(frozen=True, slots=True)
class Ours:
    """This project's engine: all images, then all edits, `batch` of them in its slots, composited as a job does it."""

    inversion: InversionSettings
    edit: EditSettings
    batch: int
    alone: bool = False
    frozen: bool = True

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"inversion": self.inversion.identity(), "edit": self.edit.model_dump(), "batch": self.batch}

    def with_steps(self, steps: int) -> Ours:
        least = self.inversion.segments if self.inversion.embeddings == "per-segment" else 1
        return replace(self, inversion=self.inversion.model_copy(update={"num_inference_steps": max(steps, least)}))

    def run(self, model: StableDiffusion, photographs: Sequence[Photograph]) -> Outcome:
        editor, began = Editor(model, slots=self.batch), now(model.device)
        inversions = self._invert(editor, photographs)
        between = now(model.device)
        requests = [EditRequest(i, prompt) for i, photo in enumerate(photographs) for prompt in photo.prompts]
        outputs = list(self._edit(editor, inversions, requests))
        fitted = self.inversion.method in FITTED
        return Outcome(
            between - began,
            now(model.device) - between,
            outputs,
            lambda n: mean(inversion.recon_psnr for inversion in inversions[:n]),
            mean(inversion.iterations for inversion in inversions) if fitted else None,
        )

    def _invert(self, editor: Editor, photographs: Sequence[Photograph]) -> list[Inversion]:
        prompts = [photo.source_prompt for photo in photographs]
        return editor.invert([p.pixels for p in photographs], source_prompts=prompts, settings=self.inversion)

    def _edit(
        self, editor: Editor, inversions: Sequence[Inversion], requests: Sequence[EditRequest]
    ) -> Iterator[Pixels]:
        for request, result in zip(requests, editor.edit_rows(inversions, requests, self.edit), strict=True):
            if isinstance(result, RowError):
                raise result
            yield published(result, inversions[request.inversion].original, self.edit)


# The preset that is also run one image at a time, for what a batch gains.
IN_BATCHES: Final = "balanced"
ALONE: Final = "balanced-alone"
PUBLISHED, BEST_LOOP = "null-text", "null-text-tuned"


def systems(batch: int, *, fixed: bool) -> dict[str, System]:
    """All of them; where weights are random, fits take `fixed` iterations, as convergence would mean nothing.

    The published loop appears twice: as it is, at the paper's guidance and with gradients of weights; and at its best
    here, at the guidance at which our own default edits, and with the network frozen.
    """
    presets: dict[str, Ours] = {
        name: Ours(_exhausted(preset.inversion) if fixed else preset.inversion, preset.edit, batch)
        for name, preset in PRESETS.items()
    }
    return {
        PUBLISHED: NullTextLoop(PAPER_GUIDANCE, frozen=False, stops=not fixed),
        BEST_LOOP: NullTextLoop(presets[IN_BATCHES].inversion.guidance_scale, frozen=True, stops=not fixed),
        "ledits++": PeerEditor("ledits++", alone=True, batch=1),
        "img2img": PeerEditor("img2img", alone=False, batch=batch),
        **presets,
        ALONE: replace(presets[IN_BATCHES], batch=1, alone=True),
    }


def _exhausted(settings: InversionSettings) -> InversionSettings:
    """The published number of iterations at every step, however small the error."""
    if settings.method not in FITTED:
        return settings
    return settings.model_copy(update={"max_iterations": INNER_ITERATIONS, "tolerance": 0.0, "min_gain": 0.0})


def mean_psnr(pictures: Sequence[Pixels], photographs: Sequence[Photograph]) -> float:
    """Mean PSNR of pictures to the photographs that they reconstruct, in dB; further photographs do not count."""
    return mean(psnr(made / 255, photo.pixels / 255) for made, photo in zip(pictures, photographs, strict=False))
