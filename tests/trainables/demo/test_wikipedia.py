import bz2
from pathlib import Path

import pytest

from trainables.demo.wikipedia import articles, plain_text

PROSE = "Some prose that is long enough to be kept as an article. " * 20


def _page(title: str, text: str, namespace: int = 0, redirect: str = "") -> str:
    target = f'<redirect title="{redirect}"/>' if redirect else ""
    body = text.replace("&", "&amp;").replace("<", "&lt;")
    return f"<page><title>{title}</title><ns>{namespace}</ns>{target}<revision><text>{body}</text></revision></page>"


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    pages = [
        _page("Kept", PROSE),
        _page("Moved", PROSE, redirect="Kept"),
        _page("Talk:Kept", PROSE, namespace=1),
        _page("Stub", "Too short."),
        _page("Also kept", PROSE + "<ref>A note</ref>"),
    ]
    xml = f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">{"".join(pages)}</mediawiki>'
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(bz2.compress(xml.encode()))
    return path


def test_articles_are_clean_and_in_order(dump: Path) -> None:
    assert list(articles(dump)) == [("Kept", PROSE.strip()), ("Also kept", PROSE.strip())]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("'''Bold''' and ''italic''", "Bold and italic"),
        ("A [[target|link]] and a [[plain one]]", "A link and a plain one"),
        ("A fact.<ref>[http://a.b A source]</ref> Another.<ref name=x />", "A fact. Another."),
        ("A fact.<ref>never closed", "A fact."),
        ("Before\n{| class=x\n| cell\n|}\nafter", "Before\n\nafter"),
        ("Before [[File:a.png|thumb|with a [[link]]]]after", "Before after"),
        ("Text\n[[Category:Things]]\n[[fr:Chose]]", "Text"),
        ("A <math>x^2</math>formula", "A formula"),
        ("Name ({{IPA|x}}; born 1809) was", "Name (born 1809) was"),
        ("Name ({{IPA|x}}) was", "Name was"),
        ("One\n* {{a}}.\n\n\n\nTwo", "One\n\nTwo"),
        ("Tom &amp; Co", "Tom & Co"),
        ("a ''' stray mark", "a stray mark"),
    ],
)
def test_plain_text(source: str, expected: str) -> None:
    assert plain_text(source) == expected


def test_back_matter_goes_with_its_subsections() -> None:
    source = "Lead\n== History ==\nOld\n== See also ==\n* A\n=== More ===\n* B\n== References ==\nC"
    assert plain_text(source) == "Lead\nHistory\nOld"


def test_a_section_after_back_matter_stays() -> None:
    assert plain_text("Lead\n== Notes ==\nA\n== Legacy ==\nKept") == "Lead\nLegacy\nKept"


def test_a_subsection_of_sources_ends_with_its_level() -> None:
    assert plain_text("== Life ==\nA\n=== Sources ===\nB\n=== Death ===\nC") == "Life\nA\nDeath\nC"
