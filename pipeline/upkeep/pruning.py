"""Removing what an output's job no longer asks for, and what killed runs left (infra/decisions/0016-upkeep.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipeline.errors import JobError
from pipeline.io.artifacts import RECOVERED
from pipeline.io.layout import picture_uri
from pipeline.io.lease import Fence, outdated_leases
from pipeline.io.listing import list_sizes, remove_empty_folders, remove_files
from pipeline.io.outcomes import current_failures
from pipeline.io.rewriting import Index, Keep, drop_rows, read_index
from pipeline.io.rows_read import edits_there
from pipeline.io.uris import join
from pipeline.upkeep.wanted import Place, Wanted


@dataclass(frozen=True, slots=True)
class Going:
    """So many of an output's things of one kind go, of how many there are, and about how many bytes they take."""

    what: str
    count: int
    of: int
    bytes: int


def to_prune(wanted: Wanted, temporary: Mapping[str, int]) -> Iterator[Going]:
    """Say what goes, changing nothing; `temporary` are files that killed runs did not finish.

    Raises:
        StorageError: the output cannot be read.
    """
    for what, keep in _ROWS.items():
        index, kept = keep(wanted)
        yield Going(what, int((~kept).sum()), len(index), index.bytes_of(~kept))
    pictures, sizes = _pictures(wanted)
    yield Going("pictures", len(pictures), len(sizes), sum(sizes[uri] for uri in pictures))
    yield Going("unfinished files", len(temporary), len(temporary), sum(temporary.values()))
    yield Going("leases", *_leases(wanted))


def prune(fence: Fence, wanted: Wanted, temporary: Mapping[str, int]) -> None:
    """Remove it, as the output's only writer. Rows go before the pictures they speak of.

    Raises:
        JobError: another run has taken over.
        StorageError: the output cannot be read or written.
    """
    for keep in (_unended_failures, *_ROWS.values()):
        drop_rows(fence, *keep(wanted))
    pictures, _ = _pictures(wanted)
    remove_files(fence, [*pictures, *temporary, *outdated_leases(fence.output)])
    remove_empty_folders(join(fence.output, "images"))


def _unended_failures(wanted: Wanted) -> tuple[Index, Keep]:
    """All failures but those of images that something later ended: they go before that which ended them."""
    index, current = _failures(wanted)
    kept = [
        at
        for at, (edit_id, code) in enumerate(zip(index.column("edit_id"), index.column("code"), strict=True))
        if edit_id is not None or code == RECOVERED or current[at]
    ]
    return index, index.chosen(kept) & index.once()


def _wanted_failures(wanted: Wanted) -> tuple[Index, Keep]:
    """Failures that hold, of what is asked for or refused."""
    index, current = _failures(wanted)
    names = ("image_id", "edit_id", "strength", "code")
    kept = [
        at
        for at, (image_id, edit_id, strength, code) in enumerate(zip(*map(index.column, names), strict=True))
        if current[at]
        and (
            (image_id, edit_id) in wanted.refused
            if code == "row_refused"
            else wanted.image(image_id) and (edit_id is None or wanted.edit((image_id, edit_id, strength)))
        )
    ]
    return index, index.chosen(kept)


def _failures(wanted: Wanted) -> tuple[Index, Keep]:
    """Those that nothing has made good."""
    index = read_index(wanted.plan.output, "failures")
    names = ("image_id", "edit_id", "strength", "fence", "created_at")
    current = {tuple(row[name] for name in names) for row in current_failures(wanted.plan.output)}
    rows = zip(*map(index.column, names), strict=True)
    return index, index.chosen(at for at, row in enumerate(rows) if row in current) & index.once()


def _wanted_edits(wanted: Wanted) -> tuple[Index, Keep]:
    """Edits whose pictures are there, and are asked for in some form."""
    index = read_index(wanted.plan.output, "edits", ("image_id", "edit_id", "strength", "inversion_key"))
    withdrawn = read_index(wanted.plan.output, "withdrawals")
    places = _places(index)
    there = edits_there(index.rows, withdrawn.rows).tolist()
    return index, index.chosen(at for at in there if wanted.edit(places[at]))


def _wanted_withdrawals(wanted: Wanted) -> tuple[Index, Keep]:
    """In each place the last, unless an edit that stays came after it: an earlier one's row may still turn up."""
    edits, kept = _wanted_edits(wanted)
    taken = {place for place, stays in zip(_places(edits), kept, strict=True) if stays}
    index = read_index(wanted.plan.output, "withdrawals")
    return index, index.chosen(at for place, at in _newest(index, _places(index)).items() if place not in taken)


def _wanted_inversions(wanted: Wanted) -> tuple[Index, Keep]:
    """Artifacts that the job would use, and those that edits which stay were made from."""
    edits, kept = _wanted_edits(wanted)
    used = {key for key, stays in zip(edits.column("inversion_key"), kept, strict=True) if stays}
    index = read_index(wanted.plan.output, "inversions", ("image_sha256",))
    rows = zip(*map(index.column, ("inversion_key", "image_id", "image_sha256")), strict=True)
    wanted_rows = index.chosen(
        at
        for at, (key, image_id, sha256) in enumerate(rows)
        if wanted.artifact(key, image_id, sha256) or (key in used and wanted.image(image_id))
    )
    return index, wanted_rows & index.once()


def _wanted_sources(wanted: Wanted) -> tuple[Index, Keep]:
    """What is remembered of files that are asked for, as they last were."""
    index = read_index(wanted.plan.output, "sources")
    newest = _newest(index, index.column("uri"))
    return index, index.chosen(at for uri, at in newest.items() if uri in wanted.uris)


# In the order in which rows go: a failure before what made it good, an edit before what withdrew it.
_ROWS: Final[Mapping[str, Callable[[Wanted], tuple[Index, Keep]]]] = {
    "failures": _wanted_failures,
    "edits": _wanted_edits,
    "withdrawals": _wanted_withdrawals,
    "artifacts": _wanted_inversions,
    "remembered files": _wanted_sources,
}


def _places(index: Index) -> list[Place]:
    return list(zip(*map(index.column, ("image_id", "edit_id", "strength")), strict=True))


def _newest(index: Index, of: list[Any]) -> dict[Any, int]:
    """The number of the newest row of each value."""
    ages = [(fence or 0, time) for fence, time in zip(*map(index.column, ("fence", "created_at")), strict=True)]
    newest: dict[Any, int] = {}
    for at, value in enumerate(of):
        if value not in newest or ages[newest[value]] <= ages[at]:
            newest[value] = at
    return newest


def _pictures(wanted: Wanted) -> tuple[list[str], dict[str, int]]:
    """Pictures that no edit which stays speaks of, and the bytes of all."""
    output = wanted.plan.output
    edits, kept = _wanted_edits(wanted)
    stay = {picture_uri(output, *place) for place, stays in zip(_places(edits), kept, strict=True) if stays}
    sizes = list_sizes(join(output, "images"), ".png")
    if stay and sizes and not stay & sizes.keys():
        raise JobError(f"prune: expected the pictures of {len(stay)} edits below {join(output, 'images')}; got none")
    return sorted(sizes.keys() - stay), sizes


def _leases(wanted: Wanted) -> tuple[int, int, int]:
    sizes = list_sizes(join(wanted.plan.output, "leases"), ".json")
    outdated = outdated_leases(wanted.plan.output)
    return len(outdated), len(sizes), sum(sizes.get(uri, 0) for uri in outdated)
