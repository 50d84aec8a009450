"""Settings: what changes a result (and so enters its key), and how a job is run (and does not)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from pipeline.errors import redacted
from pipeline.records import Deltas, WordWeights
from pipeline.words import effective_weights

# The methods that learn embeddings; the others find latents only.
FITTED: Final = ("prompt-tuning", "null-text")
_OF_A_FIT: Final = ("embeddings", "segments", "max_iterations", "learning_rate", "tolerance", "min_gain")
_OF_AN_INVERSION: Final = ("refine_iterations", "refine_rounds")

# Shares of the way to noise at which predictions are compared for an automatic mask: where the layout is settled
# and the content is not (DiffEdit, Couairon et al., 2023, section 3.2, compares at one half).
MASK_LEVELS: Final = (0.4, 0.5, 0.6, 0.7)


# Fixed-point iterations that a round of joint refinement takes at least: guided predictions change faster along a step
# than plain ones, and without them the way up would miss more than the round gains.
JOINT_ITERATIONS: Final = 2


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what Python would take for 0 or 1."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError(f"expected no boolean; got {value}")
        return value


class InversionSettings(_Settings):
    """How an image is inverted. Part of the inversion key."""

    method: Literal["ddim", "prompt-tuning", "null-text", "negative-prompt", "direct", "edit-friendly"] = Field(
        "prompt-tuning", description="how latents and embeddings are found"
    )
    num_inference_steps: int = Field(50, ge=1, le=1000, description="steps from the image to noise, and back")
    guidance_scale: float = Field(1.5, ge=0, le=30, description="guidance at which embeddings are fitted")
    guidance_share: float = Field(
        0.5, ge=0, le=1, description="share of the steps, from the noise down, that are guided; null-text guides all"
    )
    refine_iterations: int = Field(0, ge=0, le=50, description="fixed-point iterations per inversion step")
    refine_rounds: int = Field(
        0,
        ge=0,
        le=10,
        description="rounds of inverting again as the method samples, and fitting again, where that helps",
    )
    embeddings: Literal["per-step", "per-segment", "shared"] = Field(
        "per-step", description="one embedding per step, per segment of steps, or for all steps"
    )
    segments: int = Field(5, ge=1, le=1000, description="how many segments the steps are divided into")
    max_iterations: int = Field(5, ge=0, le=1000, description="gradient steps per embedding, at most")
    learning_rate: float = Field(0.03, gt=0, le=1, description="Adam's learning rate, falling to zero over a fit")
    tolerance: float = Field(1e-4, ge=0, description="a row stops once its latent error is below this")
    min_gain: float = Field(
        0.05, ge=0, lt=1, description="a row stops once an iteration takes less than this share off its error; 0: never"
    )
    artifact: Literal["compact", "full"] = Field(
        "compact",
        description="what is stored: all that edits start from, or the least from which it is computed again",
    )

    @property
    def retraces(self) -> bool:
        """Whether an artifact leaves the latents out: they are found again as the inversion found them."""
        return self.artifact == "compact" and self.refine_rounds == 0

    def guides(self, step: int) -> bool:
        """Whether a step 1..N is guided: there the layout and the content are found.

        Guidance of the later steps only saturates colours (Kynkäänniemi et al., 2024). What null-text learns acts
        through guidance alone, so that it guides at every step.
        """
        share = 1.0 if self.method == "null-text" else self.guidance_share
        return share * self.num_inference_steps > self.num_inference_steps - step

    def scale_at(self, step: int) -> float:
        """The guidance scale at a step 1..N."""
        return self.guidance_scale if self.guides(step) else 1.0

    @model_validator(mode="after")
    def _sensible(self) -> InversionSettings:
        """Refuse combinations in which a setting could not do what it says."""
        if self.method == "null-text" and self.guidance_scale == 1:
            raise ValueError("null-text: expected a guidance scale other than 1; at 1 the learned embedding has no say")
        if self.method == "prompt-tuning" and self.guidance_scale == 0 and self.guidance_share == 1:
            raise ValueError("prompt-tuning: expected a guidance scale above 0; at 0 the learned embedding has no say")
        for name in sorted(unused_by(self.method)):
            value, default = getattr(self, name), InversionSettings.model_fields[name].default
            if value != default:
                why = "it fits nothing" if name in _OF_A_FIT else "its latents are noised and not inverted"
                raise ValueError(f"{self.method}: expected no {name}, as {why}; got {value}")
        steps = self.num_inference_steps
        if self.embeddings == "per-segment" and self.segments > steps:
            raise ValueError(f"segments: expected at most one per step, {steps}; got {self.segments}")
        if self.embeddings != "per-segment" and self.segments != InversionSettings.model_fields["segments"].default:
            raise ValueError(f"segments: expected embeddings per-segment; got {self.embeddings}")
        return self

    def identity(self) -> dict[str, Any]:
        """The settings that change what the method finds; goes into keys."""
        segments = () if self.embeddings == "per-segment" else ("segments",)
        share = ("guidance_share",) if self.method == "null-text" else ()  # it guides every step
        level = () if self.method in FITTED else ("artifact",)  # what is left out comes back exactly
        return self.model_dump(exclude={*unused_by(self.method), *segments, *share, *level})


def unused_by(method: str) -> frozenset[str]:
    """The inversion settings that a method has no use for."""
    unused = frozenset(_OF_AN_INVERSION if method == "edit-friendly" else ())
    return unused if method in FITTED else unused.union(_OF_A_FIT)


class Controlled(Protocol):
    """Whatever asks for an edit: a prompt, and controls of its own, of which None takes the job's."""

    @property
    def prompt(self) -> str: ...
    @property
    def deltas(self) -> Deltas: ...
    @property
    def variation(self) -> float | None: ...
    @property
    def hold_structure(self) -> float | None: ...
    @property
    def hold_self_attention(self) -> float | None: ...
    @property
    def hold_cross_attention(self) -> float | None: ...
    @property
    def word_weights(self) -> Mapping[str, float] | None: ...


@dataclass(frozen=True, slots=True)
class Controls:
    """How an edit is controlled: what it asked for, else what the job says."""

    hold_structure: float
    hold_self_attention: float
    hold_cross_attention: float
    word_weights: dict[str, float]
    variation: float


class EditSettings(_Settings):
    """How an edit is made from an inversion. Part of the edit key."""

    interpolation: Literal["towards-target", "source-to-target"] = Field(
        "source-to-target",
        description="learned + s·(target − learned), or learned + s·(target − source) where a source prompt is known",
    )
    hold_structure: float = Field(
        0.8, ge=0, le=1, description="share of the steps that keep the source's shapes; 0 to replace objects"
    )
    hold_self_attention: float = Field(
        0.0, ge=0, le=1, description="share of the steps in which a picture attends to itself as its source does"
    )
    hold_cross_attention: float = Field(
        0.0, ge=0, le=1, description="share of the steps in which words act where the source prompt's do"
    )
    word_weights: WordWeights = Field({}, description="factors of the attention to words, in prompts that have them")
    skip: float = Field(0.0, ge=0, lt=1, description="share of the steps, from the noise down, that an edit leaves out")
    variation: float = Field(
        0.0, ge=0, le=1, description="share of fresh noise in an edit's steps: another result for every seed; 0: none"
    )
    mask: Literal["auto", "attention", "both", "none"] = Field(
        "auto",
        description="where edits act: by predictions, by attention to changed words, where both say so; none: all",
    )
    mask_grow: int = Field(1, ge=0, le=64, description="latent cells by which a mask that is found grows")
    mask_feather: float = Field(0.0, ge=0, le=64, description="latent cells over which its edge then fades")
    mask_given: Literal["replace", "intersect"] = Field(
        "replace", description="a given mask: instead of the one that would be found, or where both say so"
    )
    composite: Literal["full", "none"] = Field(
        "full",
        description="full: into the original, at its size; none: the bare edit, at the working size, without alpha",
    )

    def controls(self, edit: Controlled) -> Controls:
        """The controls that an edit is made with; of the weights, those that its prompt has words for.

        Words of several changes at once have no places in common: none of theirs is held or weighted.
        """
        named = {name: getattr(edit, name) for name in Controls.__slots__}
        found = {name: getattr(self, name) if value is None else value for name, value in named.items()}
        if edit.deltas:
            return Controls(**found | {"hold_cross_attention": 0.0, "word_weights": {}})
        return Controls(**found | {"word_weights": effective_weights(found["word_weights"], edit.prompt)})


class Preset(_Settings):
    """How images are inverted and edits are made, by one name."""

    inversion: InversionSettings
    edit: EditSettings


PresetName = Literal["fast", "balanced", "best"]
# In the order in which images that fall short go through them; `balanced` is what the settings' own defaults say.
PRESETS: Final[Mapping[PresetName, Preset]] = {
    "fast": Preset(
        inversion=InversionSettings(method="edit-friendly", num_inference_steps=20), edit=EditSettings(skip=0.15)
    ),
    "balanced": Preset(inversion=InversionSettings(), edit=EditSettings()),
    "best": Preset(inversion=InversionSettings(method="edit-friendly"), edit=EditSettings(skip=0.15)),
}


class JobConfig(_Settings):
    """Every option of a run; a YAML file of these names is what `--config` takes."""

    images: str | None = Field(None, description="image manifest, directory or glob")
    prompts: str | None = Field(None, description="prompt manifest")
    inversions: str | None = Field(None, description="an earlier output whose artifacts `edit` works from")
    output: str | None = Field(None, description="where results go: a directory or s3://bucket/prefix")
    model: str | None = Field(None, description="diffusers folder, s3:// folder or hub id; none: the bundled model")
    lora: tuple[str, ...] = Field(
        (),
        description="LoRA weights to fuse into the model, URI[:scale]: a .safetensors file, here or on s3://",
    )
    preview_vae: str | None = Field(
        None, description="tiny autoencoder (a folder of AutoencoderTiny) in the model's place, for quick previews"
    )
    preset: PresetName = Field("balanced", description="settings by one name; every other setting wins over it")
    inversion: InversionSettings = InversionSettings()
    edit: EditSettings = EditSettings()
    max_side: int = Field(
        0, ge=0, description="side of the square, in pixels, whose area the model works at; 0: the model's own"
    )
    qa_margin: float = Field(
        1.0, ge=0, description="dB that a reconstruction may fall short of the autoencoder's; beyond, it is flagged"
    )
    escalate: bool = Field(
        True, description="invert images that fall short by more than qa_margin again, as the costlier presets say"
    )
    allow: tuple[str, ...] = Field(
        (),
        description="a prefix of the URIs that image manifests may name; may be given again; none: their own storage's",
    )
    max_pixels: int = Field(100_000_000, ge=1, description="images that declare more pixels are refused")
    limit: int | None = Field(None, ge=1, description="only the first so many images")
    sample: int | None = Field(
        None, ge=1, description="only so many images at random, of those within the limit; the same in every run"
    )
    budget_gpu_hours: float | None = Field(
        None,
        gt=0,
        description="stop after so many GPU-hours, committing what is in the works; without GPUs, hours of actors",
    )
    gpu_hour_price: float | None = Field(None, ge=0, description="price of a GPU-hour, for the plan to name a cost")
    skip_invalid: bool = Field(False, description="run without the refused manifest rows, recording them as failures")
    batch_size: int = Field(32, ge=1, le=4096, description="images that an actor is given, and commits, together")
    slots: int = Field(
        16, ge=1, le=4096, description="images or edits in the network together; halved where its memory is too small"
    )
    actors: int = Field(1, ge=1, description="engine actors")
    num_gpus: float | None = Field(None, ge=0, description="GPUs per actor; none: 1 where the cluster has them, else 0")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="the network's precision; none: bfloat16 on a GPU, else float32"
    )
    log_json: bool = Field(False, description="standard error is one JSON line per event, also per image and edit")
    redact_prompts: bool = Field(False, description="these lines have hashes in place of prompts, and codes alone")
    address: str | None = Field(None, description="Ray cluster to join; none: a local one")

    @field_validator("images", "prompts", "inversions", "output", "model", "address", "allow")
    @classmethod
    def _no_credentials(cls, value: Any) -> Any:
        """Refuse what would stand in run.json and in logs."""
        if any(redacted(uri) != uri for uri in ([value] if isinstance(value, str) else value or ())):
            raise ValueError("expected no credentials in a URI; they come from the environment")
        return value

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        """Fill in what the preset says about settings that are not given."""
        if not isinstance(values, Mapping) or values.get("preset") not in PRESETS:
            return values
        filled, preset = dict(values), PRESETS[values["preset"]]
        for group, chosen in (("inversion", preset.inversion), ("edit", preset.edit)):
            given = values.get(group, {})
            if isinstance(given, Mapping):
                filled[group] = _beside(chosen.model_dump(exclude_unset=True), given)
        return filled

    @model_validator(mode="after")
    def _sensible(self) -> JobConfig:
        """Refuse settings of an inversion and of its edits that do not go together."""
        n_steps, skip = self.inversion.num_inference_steps, self.edit.skip
        if 0 < skip * n_steps < 1:
            raise ValueError(f"skip: expected 0, or at least one step of {n_steps}; got {skip:g} of them")
        return self

    @property
    def escalations(self) -> Mapping[PresetName, InversionSettings]:
        """What an image that falls short is inverted with next, and next: the costlier presets, cheapest first.

        What the job says otherwise than its own preset stays under these too, guidance above all, at which edits are
        made: a job of `method: ddim` is never escalated to a fit. A preset that then says nothing new is left out.
        """
        if not self.escalate:
            return {}
        own = PRESETS[self.preset].inversion
        given = {name: value for name, value in self.inversion if value != getattr(own, name)}
        names = list(PRESETS)
        rungs: dict[PresetName, InversionSettings] = {}
        for name in names[names.index(self.preset) + 1 :]:
            chosen = InversionSettings.model_validate(_beside(PRESETS[name].inversion.model_dump(), given))
            if chosen not in (self.inversion, *rungs.values()):
                rungs[name] = chosen
        return rungs


def _beside(preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A preset's settings under those that are given, without what a given method has no use for."""
    unused = unused_by(given["method"]) if "method" in given else frozenset[str]()
    return {name: value for name, value in preset.items() if name not in unused} | dict(given)
