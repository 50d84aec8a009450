"""`relatent bench piebench`: the batch engine on PIE-Bench, scored as its published code scores (Ju et al., 2024).

Preservation and edit belong together: whoever changes nothing has perfect figures but CLIP's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.editor import Editor, published
from pipeline.errors import RowError
from pipeline.inversion import Inversion
from pipeline.io.images import resize
from pipeline.perceptual import Perceptual
from pipeline.quality.metrics import SSIM_WINDOW, psnr, ssim
from pipeline.quality.piebench_data import Case, load_case, parse_entry
from pipeline.settings import EditSettings, InversionSettings
from pipeline.synthesis import EditRequest

_S = TypeVar("_S")
_T = TypeVar("_T")
Scores = dict[str, float | None]

# The seven, as JSON has them → heading and factor of the published tables.
METRICS: Final[Mapping[str, tuple[str, float]]] = {
    "structure_distance": ("distance ×10³", 1e3),
    "background_psnr": ("PSNR", 1),
    "background_lpips": ("LPIPS ×10³", 1e3),
    "background_mse": ("MSE ×10⁴", 1e4),
    "background_ssim": ("SSIM ×10²", 1e2),
    "clip_whole": ("CLIP whole", 1),
    "clip_edited": ("CLIP edited", 1),
}
# The paper's names of `editing_type_id`.
EDITING_TYPES: Final[Mapping[str, str]] = {
    "0": "0 random",
    "1": "1 change object",
    "2": "2 add object",
    "3": "3 delete object",
    "4": "4 change content",
    "5": "5 change pose",
    "6": "6 change colour",
    "7": "7 change material",
    "8": "8 change background",
    "9": "9 change style",
}
# Metric → the learned measure without which it is missing.
_NEEDS: Final = {
    "structure_distance": "dino",
    "background_lpips": "lpips",
    "clip_whole": "clip",
    "clip_edited": "clip",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How entries are edited; `given_masks` says that edits keep to the data set's masks."""

    inversion: InversionSettings
    edit: EditSettings
    given_masks: bool
    batch_size: int
    max_pixels: int


@dataclass(slots=True)
class Results:
    """What came of the entries so far: scores by key, each with its editing type, and failures."""

    scores: dict[str, tuple[str, Scores]] = field(default_factory=dict)
    failures: dict[str, RowError] = field(default_factory=dict)

    @classmethod
    def from_json(cls, figures: Mapping[str, Any]) -> Results:
        """The scores that `as_json` wrote; what failed is tried again."""
        entries = figures["entries"].items()
        return cls({key: (row["editing_type"], {name: row[name] for name in METRICS}) for key, row in entries})

    def as_json(self, missing: Mapping[str, str]) -> dict[str, Any]:
        """Means over all and by editing type, what is missing and why, failures, and every entry's own scores."""
        return {
            "metrics": self.means(),
            "missing": {metric: missing[measure] for metric, measure in _NEEDS.items() if measure in missing},
            "failures": [
                {"key": key, "code": error.code, "message": str(error)} for key, error in self.failures.items()
            ],
            "entries": {key: {"editing_type": kind} | scores for key, (kind, scores) in self.scores.items()},
        }

    def means(self) -> dict[str, dict[str, float | None]]:
        """Over all and by editing type: how many entries, and each metric's mean over those that have it."""
        kinds = sorted({kind for kind, _ in self.scores.values()})
        table: dict[str, dict[str, float | None]] = {}
        for name in ("all", *kinds):
            chosen = [scores for kind, scores in self.scores.values() if name in ("all", kind)]
            table[name] = {"count": len(chosen)}
            for metric in METRICS:
                values = [value for scores in chosen if (value := scores[metric]) is not None]
                table[name][metric] = fmean(values) if values else None
        return table


def score(output: NDArray[np.uint8], case: Case, learned: Perceptual) -> Scores:
    """The seven metrics of one edited picture (h, w, 3).

    Of the background only: both pictures with the masked area black, over the whole frame. A mask that leaves no
    background has none of these.
    """
    outside = ~case.mask[..., None]
    before, after = case.image * outside, output * outside
    background: Scores = dict.fromkeys(name for name in METRICS if name.startswith("background"))
    if outside.any():
        a, b = before / 255, after / 255
        background = {
            "background_psnr": psnr(a, b),
            "background_lpips": learned.lpips(before, after),
            "background_mse": float(np.square(a - b).mean()),
            "background_ssim": None if min(a.shape[:2]) < SSIM_WINDOW else ssim(a, b),
        }
    return {
        "structure_distance": learned.structure_distance(case.image, output),
        **background,
        "clip_whole": learned.clip_similarity(output, case.entry.prompt),
        "clip_edited": learned.clip_similarity(output * case.mask[..., None], case.entry.prompt),
    }


def run_piebench(
    editor: Editor,
    data: str,
    items: Mapping[str, Any],
    plan: Plan,
    learned: Perceptual,
    results: Results,
    done: Callable[[Results], None],
) -> Results:
    """Edit and score the entries that `results` has no scores of; a bad entry costs itself alone.

    Args:
        editor: the model.
        data: the folder that the entries are of.
        items: entries of the mapping file by key.
        plan: how they are edited.
        learned: the measures that need networks.
        results: what is known already; it grows.
        done: called after each batch.
    """
    unknown = [(key, item) for key, item in items.items() if key not in results.scores]
    entries = _tried(unknown, lambda key, item: parse_entry(data, key, item), results)
    for start in range(0, len(entries), plan.batch_size):
        chunk = [(entry.key, entry) for entry in entries[start : start + plan.batch_size]]
        cases = _tried(chunk, lambda _, entry: load_case(entry, plan.max_pixels), results)
        for case, output in _edited(editor, cases, plan, results):
            results.scores[case.entry.key] = case.entry.kind, score(output, case, learned)
        done(results)
    return results


def _tried(items: Sequence[tuple[str, _S]], make: Callable[[str, _S], _T], results: Results) -> list[_T]:
    """What `make` made of each key and item; where it refuses, the key is a failure."""
    made = []
    for key, item in items:
        try:
            made.append(make(key, item))
        except RowError as error:
            results.failures[key] = error
    return made


def _edited(
    editor: Editor, cases: Sequence[Case], plan: Plan, results: Results
) -> Iterator[tuple[Case, NDArray[np.uint8]]]:
    """Each case with its edited picture, at the size of its image; rows that the engine fails are failures."""
    prompts = [case.entry.source_prompt for case in cases]
    inverted: list[tuple[Case, Inversion]] = []
    for case, inversion in zip(
        cases, editor.invert_rows([case.image for case in cases], prompts, plan.inversion), strict=True
    ):
        if isinstance(inversion, RowError):
            results.failures[case.entry.key] = inversion
        else:
            inverted.append((case, inversion))
    requests = [
        EditRequest(
            i,
            case.entry.prompt,
            mask=resize(case.mask * np.uint8(255), inversion.size) if plan.given_masks else None,
        )
        for i, (case, inversion) in enumerate(inverted)
    ]
    edits = editor.edit_rows([inversion for _, inversion in inverted], requests, plan.edit)
    for (case, inversion), edit in zip(inverted, edits, strict=True):
        if isinstance(edit, RowError):
            results.failures[case.entry.key] = edit
        else:
            output = published(edit, inversion.original, plan.edit)
            yield case, resize(output, (case.image.shape[1], case.image.shape[0]))


def as_markdown(results: Results) -> str:
    """The means as a Markdown table, in the published tables' units."""
    headings = ["editing type", "entries", *(heading for heading, _ in METRICS.values())]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for name, row in results.means().items():
        figures = [
            "missing" if (value := row[metric]) is None else f"{value * factor:.2f}"
            for metric, (_, factor) in METRICS.items()
        ]
        cells = [EDITING_TYPES.get(name, name), str(row["count"]), *figures]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
