import re
from html.parser import HTMLParser

import pytest

from analysis.finding import Analysis, Effect
from analysis.report.html import _glance
from analysis.report.publish import publish
from search_spaces.files import write_config
from tests.analysis.report.conftest import subject

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Every element of a page with its attributes; an element that is not closed is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def of(self, *tags):
        return [attrs for tag, attrs in self.elements if tag in tags]


@pytest.fixture(scope="module")
def text(make_results, tmp_path_factory):
    results = make_results(tmp_path_factory.mktemp("results"))
    publish(results)
    return (results / "report.html").read_text()


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_nothing_is_loaded_from_elsewhere(text, page):
    assert page.of("link", "iframe") == []
    assert page.of("script") == [{}]
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.of("img"))
    assert not re.search(r"https?://|url\(|@import", text)


def test_a_script_in_a_label_is_shown_and_not_run(text):
    assert text.count("<script") == 1
    assert "&lt;script&gt;alert(" in text


def test_every_link_leads_somewhere_and_no_anchor_is_there_twice(page):
    anchors = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(set(anchors)) == len(anchors)
    assert {link["href"].removeprefix("#") for link in page.of("a")} <= set(anchors)


def test_headings_go_down_one_level_at_a_time(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels == [1, 2, 2, 3, 2, 3, 3, 3, 2, 3]


def test_it_can_be_read_without_seeing_it(page):
    assert page.of("html") == [{"lang": "en"}]
    assert all(image["alt"] and image["width"] == "1320" and image["height"] for image in page.of("img"))
    assert all(head["scope"] in ("col", "row") for head in page.of("th"))
    scrolling = [attrs for attrs in page.of("div") if "scroll" in (attrs.get("class") or "")]
    assert all(attrs["tabindex"] == "0" and attrs["aria-label"] for attrs in scrolling)


def test_a_question_is_there_with_null_verdict_effects_figure_and_rows(text, page):
    start = text.index('<article id="r2-moments"')
    article = text[start : text.index("</article>", start)]
    for said in ("Is it so?", "Nothing.", "biases with heavier tails than a Gaussian, of 3", "[0, 1]"):
        assert said in article
    assert "<details>" in article
    assert "2.down_proj" in article
    assert len(page.of("img")) == 5


def test_each_verdict_stands_once_on_the_line_that_opens_its_question(text, page):
    answers = [attrs["id"] for attrs in page.of("article")]
    assert text.count("so it is") == len(answers) == 5
    for answer in answers:
        line = text[: text.index(f'<article id="{answer}"')].rpartition('<details class="answer">')[2]
        assert "so it is" in line.partition("</summary>")[0]


def test_what_compares_trials_comes_before_them(text):
    assert text.index('<h2 id="r1">Comparison</h2>') < text.index('<h2 id="r2">')


def test_negative_numbers_have_a_minus(text):
    assert "\N{MINUS SIGN}0.10 [\N{MINUS SIGN}0.20, " in text


def test_the_style_is_not_escaped(text):
    assert "nav > ol" in text
    assert '"Segoe UI"' in text


def test_trials_stand_side_by_side_first_and_each_cell_leads_to_its_answer(findings, tmp_path):
    for name in ("one", "other"):
        answers = (findings["perplexity"], findings["logits"], findings["shift"])
        kl = {"val_teal_kl_nats": 0.5, "val_kl_nats": 0.4}
        ppl = {"val_dense_ppl": 9, "val_teal_ppl": 12, "val_ppl": 11.5}
        examined = subject(name).model_copy(update={"metrics": kl | ppl, "commit": "0123456789abcdef", "corpus": "own"})
        write_config(Analysis(subjects=(examined,), findings=answers), tmp_path / name / "analysis.json")
    written = publish(tmp_path)
    text = (tmp_path / "report.html").read_text()
    Page(text)
    table = text.partition('<h2 id="trials">')[2].partition("</table>")[0]
    assert table.count("0.5000 \N{RIGHTWARDS ARROW} 0.4000") == 2
    assert table.count("9.00 \N{RIGHTWARDS ARROW} 12.00 \N{RIGHTWARDS ARROW} 11.50") == 2
    assert "<td>0123456</td>" in table
    assert tmp_path / "figures" / "trials.png" in written
    assert 'aria-label="Curves of trials on the same text"' in text
    overview = text.partition('<h2 id="overview">')[2].partition("</table>")[0]
    head = overview.partition("</thead>")[0]
    heads = re.findall(r'<a href="#(r\d+)">', head)
    assert len(heads) == 2
    assert head.count("<small>8 validation blocks of own</small>") == 2
    rows = overview.partition("<tbody>")[2].split("<tr>")[1:]
    assert len(rows) == 3
    for row in rows:
        cells = re.findall(r'<a href="#(r\d+)-(\w+)">', row)
        assert [trial for trial, _ in cells] == heads
        assert len({question for _, question in cells}) == 1
        assert set(re.findall(r'aria-label="([^"]*)"', row)) <= {
            "above its null",
            "below its null",
            "not clear of its null",
        }


@pytest.mark.parametrize(
    ("value", "interval", "null", "said"),
    [
        (0.2, (0.1, 0.3), None, "above its null"),
        (-0.2, (-0.3, -0.1), None, "below its null"),
        (0.2, (-0.1, 0.3), None, "not clear of its null"),
        (7, None, (0, 5), "above its null"),
        (3, None, (0, 5), "not clear of its null"),
        (0.001, None, None, "not clear of its null"),  # of a single unit
        (0.001, None, (0, 0), "not clear of its null"),
    ],
)
def test_a_mark_says_whether_an_effect_is_clear_of_its_null(value, interval, null, said):
    assert _glance(Effect(label="x", value=value, interval=interval, null=null))["said"] == said


@pytest.mark.parametrize(("found", "said"), [((True, False), "above its null"), ((False,), "not clear of its null")])
def test_a_count_is_exact(found, said):
    assert _glance(Effect.count("x", found))["said"] == said
