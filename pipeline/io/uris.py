"""URIs as text: joining, resolving, and what a manifest may name. Touches no storage."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from typing import Final

from pipeline.errors import RelatentError, redacted

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
# fsspec's way to read one file system through another, which nothing here understands.
_CHAIN: Final = re.compile(r"::.*://|.://.*::")
_WILDCARD: Final = re.compile(r"[*?\[]")
# "memory" holds only what this process put there.
_SCHEMES: Final = {"", "s3", "memory"}


class UriRefusedError(RelatentError, ValueError):
    """A manifest names something that it may not."""


def scheme_of(uri: str) -> str:
    """The scheme in lower case; "" for local paths, also when written as file://."""
    match = _SCHEME.match(uri)
    scheme = match.group(1).lower() if match else ""
    return "" if scheme == "file" else scheme


def canonical(uri: str) -> str:
    """A local URI as an absolute path, others with their scheme in lower case."""
    if scheme := scheme_of(uri):
        return _SCHEME.sub(f"{scheme}://", uri, count=1)
    return posixpath.abspath(_SCHEME.sub("", uri, count=1))


def join(base: str, *parts: str) -> str:
    """Put names under a base with exactly one slash between them."""
    path = "/".join(part.strip("/") for part in parts)
    if not base or base.endswith("://"):
        return base + path
    return f"{base.rstrip('/')}/{path}"


def parent(uri: str) -> str:
    """The folder that a file is in."""
    if not scheme_of(uri):
        return posixpath.dirname(canonical(uri))
    scheme, _, path = canonical(uri).partition("://")
    return f"{scheme}://{posixpath.dirname(path)}"


def pattern_root(pattern: str) -> str:
    """The folder below which all matches of a pattern are: all before the first name with a wildcard."""
    fixed = _WILDCARD.split(pattern, maxsplit=1)[0]
    folder = fixed[: fixed.rfind("/") + 1]
    return canonical(folder.rstrip("/") or folder or ".")


def is_pattern(uri: str) -> bool:
    """Whether a URI has wildcards."""
    return _WILDCARD.search(uri) is not None


def resolve(uri: str, relative_to: str) -> str:
    """Make a relative URI absolute against a folder; absolute ones stay.

    `..` may leave the folder, but never the bucket.

    Raises:
        UriRefusedError: a chain of several.
    """
    if _CHAIN.search(uri):
        raise UriRefusedError(f"{uri!r}: expected one URI; got a chain of several")
    if _SCHEME.match(uri) or uri.startswith("/"):
        return canonical(uri)
    if not scheme_of(relative_to):
        return posixpath.normpath(posixpath.join(canonical(relative_to), uri))
    scheme, _, path = canonical(relative_to).partition("://")
    bucket, _, folder = path.partition("/")
    key = posixpath.normpath("/" + posixpath.join(folder, uri)).lstrip("/")
    return f"{scheme}://{bucket}/{key}"


def check_allowed(uri: str, manifest_uri: str, allow: Sequence[str] = ()) -> None:
    """Refuse what a manifest may not name, once `uri` is resolved.

    A manifest on remote storage may name only that storage: it must not read files of the machine that
    runs the job.

    Args:
        uri: absolute.
        manifest_uri: where it stands.
        allow: prefixes, each canonical; if there are any, the URI is below one of them.

    Raises:
        UriRefusedError: the URI's scheme is not allowed, here or anywhere; it is below no allowed prefix; or it holds
            control characters or credentials.
    """
    if _CONTROL.search(uri):
        raise UriRefusedError(f"{uri!r}: holds control characters")
    if redacted(uri) != uri:
        raise UriRefusedError(f"{uri}: expected no credentials; they come from the environment of the job")
    scheme, home = scheme_of(uri), scheme_of(manifest_uri)
    if scheme not in _SCHEMES:
        raise UriRefusedError(f"{uri}: expected a path, file:// or s3:// URI; got scheme {scheme!r}")
    if scheme and {".", ".."} & set(uri.split("/")):
        raise UriRefusedError(f"{uri}: expected no . or .. in a URI that is not relative")
    if home and scheme != home:
        raise UriRefusedError(
            f"{uri}: a manifest on {home}:// may name only {home}:// URIs; got {scheme or 'a local path'}"
        )
    if allow and not any(is_below(uri, prefix) for prefix in allow):
        raise UriRefusedError(f"{uri}: expected a URI below {' or '.join(allow)}, as --allow says")


def is_below(uri: str, prefix: str) -> bool:
    """Whether a canonical URI is a prefix, or in a folder of that name."""
    return f"{uri}/".startswith(prefix.rstrip("/") + "/")
