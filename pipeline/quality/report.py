"""The benchmark's report: a table, a scatter of preservation against edit, and sheets of examples."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from pipeline.config import PRESETS
from pipeline.demo.contact_sheet import draw_sheet
from pipeline.models.peers import PEERS
from pipeline.quality.cases import KINDS
from pipeline.quality.quality_bench import UNEDITED, Example, QualityBench, QualityReport, ours
from pipeline.quality.scores import BACKGROUND_DB, SUCCESS_DB

_EXAMPLES: Final = 10
_COLUMNS: Final = {
    "success": ("success", "{:.0%}"),
    "nearer": ("nearer", "{:.0%}"),
    "inside_psnr": ("inside, dB", "{:.2f}"),
    "inside_mean": ("its mean", "{:.2f}"),
    "outside_psnr": ("outside, dB", "{:.2f}"),
    "outside_mean": ("its mean", "{:.2f}"),
    "inside_ssim": ("SSIM inside", "{:.3f}"),
    "outside_ssim": ("outside", "{:.3f}"),
    "recon_psnr": ("reconstruction, dB", "{:.2f}"),
    "vae_psnr": ("VAE, dB", "{:.2f}"),
    "monotonicity": ("monotone", "{:.0%}"),
    "seconds": ("s per image", "{:.2f}"),
}
_DECIDING: Final = ("success", "inside_psnr", "outside_psnr")


def write_report(bench: QualityBench, report: QualityReport, folder: Path) -> list[str]:
    """Write the report's files into `folder`, and return what has to be said of them, in lines."""
    (folder / "table.md").write_text(as_markdown(report), encoding="utf-8")
    shown = ours(report.systems)
    if shown is not None:
        best, worst = bench.examples(shown, _EXAMPLES)
        for name, examples in {"best": best, "worst": worst}.items():
            (folder / f"contact-sheet-{name}.png").write_bytes(_sheet(examples, shown, report))
    if importlib.util.find_spec("matplotlib") is None:
        return ["scatter.png is left out: drawing it needs matplotlib (pip install 'relatent[bench]')"]
    _scatter(report, folder / "scatter.png")
    return []


def as_markdown(report: QualityReport) -> str:
    """The report as Markdown tables: all edits together, kind by kind, ours against peers, and peers' settings."""
    preamble = (
        f"{report.scenes} held-out scenes, {report.scenes * len(KINDS)} edits. *Nearer*: inside the changed region at "
        f"least {SUCCESS_DB:g} dB nearer to the truth than the original. *Success*: that, and at least "
        f"{BACKGROUND_DB:g} dB outside. *Inside*, *outside*: median PSNR to the truth. {report.machine}."
    )
    sections = [
        preamble,
        "## All edits",
        summary(report),
        "## By kind of edit",
        _table(
            ["edit", "system"],
            [([kind, name], kinds[kind]) for kind in KINDS for name, kinds in report.systems.items()],
        ),
        *_against_peers(report),
        *_peer_settings(report),
        *(f"`{name}` was skipped: {reason}" for name, reason in report.skipped.items()),
    ]
    return "\n\n".join(sections) + "\n"


def summary(report: QualityReport) -> str:
    """The figures over all edits, as one table."""
    return _table(["system"], [([name], kinds["all"]) for name, kinds in report.systems.items()])


def _table(heads: Sequence[str], rows: Iterable[tuple[Sequence[str], dict[str, float | None]]]) -> str:
    lines = [_line([*heads, *(head for head, _ in _COLUMNS.values())])]
    lines.append("|---" * (len(heads) + len(_COLUMNS)) + "|")
    lines += [
        _line([*names, *(_cell(figures[c], form) for c, (_, form) in _COLUMNS.items())]) for names, figures in rows
    ]
    return "\n".join(lines)


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _against_peers(report: QualityReport) -> list[str]:
    """Per kind of edit and measure, a preset's figure beside the best that any peer has."""
    presets = [name for name in PRESETS if name in report.systems]
    if not presets or not report.peers:
        return []
    heads = [f"{name}: {_COLUMNS[column][0]}" for name in presets for column in _DECIDING]
    lines = [_line(["edit", *heads]), "|---" * (1 + len(heads)) + "|"]
    for kind in (*KINDS, "all"):
        cells = [_against(report, name, kind, column) for name in presets for column in _DECIDING]
        lines.append(_line([kind, *cells]))
    return ["## Against the best peer in each figure (**bold**: ahead, or level)", "\n".join(lines)]


def _against(report: QualityReport, name: str, kind: str, column: str) -> str:
    figure = report.systems[name][kind][column]
    rivals = [value for peer in report.peers if (value := report.systems[peer][kind][column]) is not None]
    form = _COLUMNS[column][1]
    if figure is None or not rivals:
        return _cell(figure, form)
    best = max(rivals)
    shown = f"**{form.format(figure)}**" if figure >= best else form.format(figure)
    return f"{shown} : {form.format(best)}"


def _peer_settings(report: QualityReport) -> list[str]:
    sections = []
    for name, tuned in report.peers.items():
        lines = [f"## {name}: {PEERS[name].paper}", f"Settings: {_listed(tuned.settings)}."]
        if tuned.candidates:
            rows = [_line([_listed(c.settings), f"{c.worth:.3f}"]) for c in tuned.candidates]
            lines.append("\n".join([_line(["tried", "mean worth, dB"]), "|---|---|", *rows]))
        else:
            lines.append("Not tuned.")
        sections.append("\n\n".join(lines))
    return sections


def _listed(settings: object) -> str:
    assert isinstance(settings, dict)
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _sheet(examples: Sequence[Example], shown: str, report: QualityReport) -> bytes:
    """Original, truth, ours and every peer's, a row per example; under each result its gain and its outside."""
    systems = [shown, *report.peers]
    captions = [
        [f"{e.case.scene.seed} {e.case.kind}: {_changed_words(e)}", "", *(_verdict(e, name) for name in systems)]
        for e in examples
    ]
    cells = [[e.case.image, e.case.truth, *(e.outputs.get(name) for name in systems)] for e in examples]
    return draw_sheet(["original", "true edit", *systems], cells, captions)


def _changed_words(example: Example) -> str:
    source, target = example.case.source_prompt.split(), example.case.prompt.split()
    return " ".join(word for word in target if word not in source)


def _verdict(example: Example, name: str) -> str:
    score = example.scores.get(name)
    if score is None:
        return ""
    outside = "" if score.outside_psnr is None else f", out {score.outside_psnr:.1f}"
    return f"{score.gain:+.1f} dB{outside}"


def _scatter(report: QualityReport, path: Path) -> None:
    """Preservation (outside) against edit (inside), a point per system; up and to the right is better."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    for (outside, inside), names in _points(report).items():
        axes.scatter(outside, inside, marker="s" if names[0] in report.peers else "o", s=60)
        axes.annotate(", ".join(names), (outside, inside), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.axvline(BACKGROUND_DB, linestyle="--", linewidth=1, color="grey")
    axes.set(
        xlabel="preservation: mean PSNR outside the changed region, dB",
        ylabel="edit: mean PSNR inside the changed region, dB",
        title=f"{report.scenes * len(KINDS)} edits against their true results",
    )
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _points(report: QualityReport) -> dict[tuple[float, float], list[str]]:
    """Systems by their mean outside and inside; not the photographs themselves, whose outside is off any scale."""
    points = defaultdict[tuple[float, float], list[str]](list)
    for name, kinds in report.systems.items():
        inside, outside = kinds["all"]["inside_mean"], kinds["all"]["outside_mean"]
        if inside is not None and outside is not None and name != UNEDITED:
            points[outside, inside].append(name)
    return points
