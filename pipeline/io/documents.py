"""YAML of unknown origin: plain values only, and no more of them than the text is worth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import yaml
from yaml.constructor import SafeConstructor

# PyYAML takes a minute for as much; beyond, a table is the better manifest.
_MOST_TEXT: Final = 4 << 20
_LONGEST_NUMBER: Final = 40
_MOST_VALUES: Final = 10_000


def compose(text: str) -> yaml.Node | None:
    """A document as nodes, aliases not yet expanded; None if it is empty.

    Raises:
        ValueError: it is not YAML, too long, or nested too deeply.
    """
    if len(text) > _MOST_TEXT:
        raise ValueError(f"expected at most {_MOST_TEXT} characters of YAML; got {len(text)}")
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"not YAML ({_line(error)})") from error
    return node


def construct(node: yaml.Node) -> Any:
    """The plain values that a node stands for.

    Raises:
        ValueError: they are none, refer to themselves, or are too many once aliases and merged keys are expanded.
    """
    if _expanded(node, {}) > _MOST_VALUES:
        raise ValueError(f"expected at most {_MOST_VALUES} values in one place, with aliases expanded")
    try:
        return SafeConstructor().construct_document(node)
    # PyYAML answers a value that does not fit its tag with whatever its conversion raises.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"not YAML ({_line(error)})") from error


def _expanded(node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many values a node would be if every alias were written out."""
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise ValueError(f"not YAML of plain values (line {node.start_mark.line + 1} refers to itself)")
        return sizes[id(node)]
    if node.tag == "tag:yaml.org,2002:int" and len(node.value) > _LONGEST_NUMBER:
        raise ValueError(f"expected numbers of at most {_LONGEST_NUMBER} digits")
    sizes[id(node)] = 0
    sizes[id(node)] = 1 + sum(_expanded(child, sizes) for child in _children(node))
    return sizes[id(node)]


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
