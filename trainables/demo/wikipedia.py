"""Articles of a Wikipedia XML dump as plain text."""

import bz2
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import mwparserfromhell
from mwparserfromhell.nodes import Heading, Node, Tag, Wikilink
from mwparserfromhell.wikicode import Wikicode

from trainables.activity import track

MIN_CHARACTERS = 500
"""Shorter articles are left out: stubs and disambiguation pages are lists of links."""

_REMOVED_TAGS = frozenset({"ref", "table", "gallery", "math", "timeline"})
_BACK_MATTER = frozenset(
    ("see also", "references", "external links", "further reading", "notes", "bibliography", "footnotes", "sources")
)

# Leftovers of markup that does not parse and of removed templates, cleaned up in this order
_LEFTOVERS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"<ref\b.*", re.IGNORECASE), ""),  # a note that is never closed
    (re.compile(r"</?[a-z][^>\n]*>", re.IGNORECASE), ""),
    (re.compile(r"'{2,}|\[\[|\]\]|\{\{|\}\}|__[A-Z]+__"), ""),
    (re.compile(r"^[ \t]*(?:[|!]|\{\||File:|Image:).*", re.MULTILINE), ""),  # rows of a broken table, broken images
    (re.compile(r"[\u00a0\t]"), " "),
    (re.compile(r"\( *(?:[,;:] *)+"), "("),  # "(; born 1809)": the pronunciation was a template
    (re.compile(r" *\( *\)"), ""),
    (re.compile(r" +(?=[,.;:)](?:\s|$))"), ""),
    (re.compile(r",(?: *,)+"), ","),
    (re.compile(r"  +"), " "),
    (re.compile(r"^ | $", re.MULTILINE), ""),
    (re.compile(r"^[\W_]+$", re.MULTILINE), ""),  # lines of punctuation alone: emptied list items
    (re.compile(r"\n{3,}"), "\n\n"),
)


def articles(path: Path) -> Iterator[tuple[str, str]]:
    """Title and plain text of each article, in the order of the dump.

    Skips redirects, pages that are not articles (namespace other than 0), and articles of fewer than
    ``MIN_CHARACTERS`` characters.

    Args:
        path: ``pages-articles`` XML, compressed with bzip2.
    """
    for title, source in track(_pages(path), "cleaning Wikipedia", "article"):
        text = plain_text(source)
        if len(text) >= MIN_CHARACTERS:
            yield title, text


def plain_text(source: str) -> str:
    """Running text of an article's wikitext: no templates, tables, notes, images, categories or reference sections."""
    code = Wikicode(_without_back_matter(mwparserfromhell.parse(source).nodes))
    for node in code.filter(matches=_is_removed):
        try:
            code.remove(node)
        except ValueError:  # it was inside a node that is already removed
            continue
    text = code.strip_code(collapse=True)
    for pattern, replacement in _LEFTOVERS:
        text = pattern.sub(replacement, text)
    return text.strip()


def _pages(path: Path) -> Iterator[tuple[str, str]]:
    """Title and wikitext of each page that is an article, with one page in memory at a time."""
    with bz2.open(path) as stream:
        for _, element in ElementTree.iterparse(stream):
            if not element.tag.endswith("}page"):
                continue
            if element.findtext("{*}ns") == "0" and element.find("{*}redirect") is None:
                yield element.findtext("{*}title", ""), element.findtext("{*}revision/{*}text", "")
            element.clear()


def _without_back_matter(nodes: list[Node]) -> list[Node]:
    """Drop each reference-like section, from its heading to the next heading that is not below it."""
    kept: list[Node] = []
    dropping: int | None = None
    for node in nodes:
        if isinstance(node, Heading):
            if dropping is not None and node.level <= dropping:
                dropping = None
            if dropping is None and node.title.strip_code().strip().lower() in _BACK_MATTER:
                dropping = node.level
        if dropping is None:
            kept.append(node)
    return kept


def _is_removed(node: Node) -> bool:
    """Tags that hold no running text, and links to files, categories and other languages (``File:...``)."""
    if isinstance(node, Tag):
        return str(node.tag).strip().lower() in _REMOVED_TAGS
    return isinstance(node, Wikilink) and ":" in str(node.title)
