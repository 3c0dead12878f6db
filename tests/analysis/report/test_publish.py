import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from shutil import rmtree

import pytest

from analysis.cli import main
from analysis.finding import Analysis, Effect
from analysis.report.publish import _glance, _together, publish
from analysis.report.stored import read_results
from search_spaces.errors import SponError
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
def published(make_results, tmp_path_factory):
    """A directory of results and what was written into it."""
    results = make_results(tmp_path_factory.mktemp("results"))
    return results, publish(results)


@pytest.fixture(scope="module")
def text(published):
    return (published[0] / "report.html").read_text()


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_figures_lie_beside_their_results_and_the_report_above_them(published):
    results, files = published
    assert {str(file.relative_to(results)) for file in files} == {
        *(f"alpha/figures/{name}.{kind}" for name in ("perplexity", "moments", "logits") for kind in ("png", "svg")),
        "beta/figures/where.png",
        "beta/figures/where.svg",
        "figures/cross.png",
        "figures/cross.svg",
        "report.html",
        "tables.tex",
    }
    assert all(file.stat().st_size > 1000 for file in files)


def test_only_curves_on_the_same_text_share_a_figure(findings, tmp_path, monkeypatch):
    monkeypatch.setattr("analysis.report.publish.draw_together", lambda shifts, text: {text: list(shifts)})
    monkeypatch.setattr("analysis.report.publish.write_figure", lambda figure, stem: [figure])
    texts = {"a": ("test", 8), "b": ("validation", 8), "c": ("validation", 8), "d": ("validation", 4)}
    for name, (split, n_blocks) in texts.items():
        examined = subject(name).model_copy(update={"split": split, "n_blocks": n_blocks, "corpus": "own"})
        write_config(Analysis(subjects=(examined,), findings=(findings["shift"],)), tmp_path / name / "analysis.json")
    assert _together(read_results(tmp_path), tmp_path) == [{"8 validation blocks of own": ["b", "c"]}]
    rmtree(tmp_path / "c")
    assert _together(read_results(tmp_path), tmp_path) == []


def test_a_fault_in_the_rows_names_the_file(results):
    rmtree(results / "alpha")
    file = results / "beta" / "analysis.json"
    raw = json.loads(file.read_text())
    for row in raw["findings"][0]["rows"]:
        del row["bin"]
    file.write_text(json.dumps(raw))
    with pytest.raises(SponError, match=r"column bin.*\(at where\) \(at .*beta/analysis.json\)"):
        publish(results)


def test_stored_results_need_no_torch_and_no_ray(results):
    rmtree(results / "alpha")
    code = (
        "import sys, pathlib; from analysis.report.publish import publish; publish(pathlib.Path(sys.argv[1]));"
        "print({'torch', 'ray', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(results)], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_figures_draws_again_and_tables_prints_text_or_latex(results, capsys):
    rmtree(results / "alpha")
    assert main(["figures", str(results)]) == 0
    assert (results / "report.html").exists()
    assert "4 files of figures" in capsys.readouterr().out
    assert main(["tables", str(results)]) == 0
    assert "beta  On where" in capsys.readouterr().out
    assert main(["tables", str(results), "--latex"]) == 0
    assert r"\begin{longtable}" in capsys.readouterr().out


def test_nothing_is_loaded_from_elsewhere(text, page):
    assert page.of("link", "iframe") == []
    assert page.of("script") == [{}]
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.of("img"))
    assert not re.search(r"https?://|url\(|@import", text)


def test_a_script_in_a_label_is_shown_and_not_run_and_the_style_is_not_escaped(text):
    assert text.count("<script") == 1
    assert "&lt;script&gt;alert(" in text
    assert '"Segoe UI"' in text


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


def test_what_compares_trials_comes_before_them_and_negative_numbers_have_a_minus(text):
    assert text.index('<h2 id="r1">Comparison</h2>') < text.index('<h2 id="r2">')
    assert "\N{MINUS SIGN}0.10 [\N{MINUS SIGN}0.20, " in text


def test_trials_stand_side_by_side_first_and_each_cell_leads_to_its_answer(findings, tmp_path):
    for name in ("one", "other"):
        answers = (findings["logits"], findings["shift"])
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
    assert len(rows) == 2
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
