"""A report's three forms: the same figures, nothing from outside taken for markup, nothing fetched."""

import dataclasses
import html
import json
import re
from html.parser import HTMLParser

import pytest
import report_inputs as inputs
from report_inputs import MARKUP
from report_kinds import KINDS, make

from ryzen_mpi.errors import UserError
from ryzen_mpi.report.content import Headline, Report, Section, Table
from ryzen_mpi.report.forms import to_html, to_json, to_markdown, write_report
from ryzen_mpi.report.pictures.ranks import heat_map, ink_on


@pytest.fixture(scope="module", params=KINDS)
def report(request, tmp_path_factory):
    return make(request.param, tmp_path_factory.mktemp(request.param))


class Words(HTMLParser):
    """The texts and the attributes of a page."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.attributes, self.tags = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


def squeezed(text):
    return " ".join(text.split())


def figures(content):
    """Every figure of a report's JSON, wherever it stands."""
    if isinstance(content, dict):
        if {"name", "value", "text", "spread"} <= set(content):
            yield content
        for item in content.values():
            yield from figures(item)
    elif isinstance(content, list):
        for item in content:
            yield from figures(item)


def unescaped(markdown):
    return re.sub(r"\\([\\`*_{}\[\]<>#|~&!.)+=-])", r"\1", markdown)


def test_every_figure_of_the_json_stands_in_both_other_forms(report):
    content = to_json(report)
    page = squeezed(" ".join(Words(to_html(report)).texts))
    markdown = squeezed(unescaped(to_markdown(report, "pictures")))
    found = list(figures(content))
    assert len(found) >= 3
    for figure in found:
        assert figure["text"] in page and figure["text"] in markdown, figure
        if figure["low"] is not None:
            assert re.search(r"interval (\S+) to", figure["spread"])[1] in page, figure
            assert figure["spread"] in markdown, figure
        if figure["verdict"]:
            assert figure["verdict"] in page and figure["verdict"] in markdown, figure


def test_every_text_of_the_json_stands_in_both_other_forms(report):
    content = to_json(report)
    page = squeezed(" ".join(Words(to_html(report)).texts))
    markdown = squeezed(unescaped(to_markdown(report, "pictures")))
    texts = [content["headline"]["verdict"], content["headline"]["text"], content["title"], content["subtitle"]]
    for section in content["sections"]:
        texts += [
            section["title"],
            *section["text"],
            *section["commands"],
            *(picture["words"] for picture in section["pictures"]),
        ]
        texts += [part for advice in section["advice"] for part in (advice["what"], advice["why"], advice["do"])]
        texts += [cell for table in section["tables"] for row in table["rows"] for cell in row if isinstance(cell, str)]
    for text in map(squeezed, texts):
        assert text in page and text in markdown, text


def test_the_json_holds_plain_numbers_and_no_figure_is_lost_in_rounding(report):
    content = json.loads(json.dumps(to_json(report), allow_nan=False))
    for figure in figures(content):
        if figure["value"] is not None and figure["low"] is not None:
            assert figure["low"] <= figure["value"] <= figure["high"], figure


def test_the_page_fetches_nothing_and_runs_nothing(report):
    page = to_html(report)
    words = Words(page)
    assert not {"script", "iframe", "object", "embed", "img", "video", "audio", "form"} & set(words.tags)
    for name, value in words.attributes:
        assert not name.startswith("on"), name
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("#", "data:,")), value
    styles = re.sub(r"var\([^)]*\)", "", page)
    assert "@import" not in styles and not re.search(r"url\((?!#)", styles)
    assert "default-src 'none'" in page


def test_no_two_elements_of_a_page_have_the_same_id(report):
    names = [value for name, value in Words(to_html(report)).attributes if name == "id"]
    assert len(names) == len(set(names))
    page = to_html(report)
    for target in re.findall(r'(?:url\(#|href="#)([^)"]+)', page):
        assert target in names


def test_every_picture_says_in_words_what_it_shows(report):
    for section in report.sections:
        for picture in section.pictures:
            assert len(picture.words) > 20 and html.escape(picture.title, quote=False) in picture.wide
            assert 'role="img"' in picture.wide and "<desc" in picture.narrow


def test_the_same_report_is_the_same_page(tmp_path):
    first, second = (to_html(make("scaling", tmp_path / name)) for name in ("a", "b"))
    assert first.replace("/a/", "/b/") == second


# -- what comes from outside ------------------------------------------------------------------------------------------


def hostile() -> Report:
    """A report whose every text is markup."""
    matrix = heat_map("pairs", MARKUP, MARKUP, [MARKUP, MARKUP], [[0.0, 1.0], [2.0, 0.0]])
    table = Table((MARKUP, "b"), ((MARKUP, MARKUP),), MARKUP)
    section = Section(MARKUP, (MARKUP, "1. not a list", "- nor this"), pictures=(matrix,), tables=(table,))
    return Report("run", MARKUP, MARKUP, Headline(MARKUP, "bad", MARKUP), 0.0, sections=(section,), sources=(MARKUP,))


def test_markup_from_outside_is_shown_and_not_obeyed():
    page = to_html(hostile())
    words = Words(page)
    assert "script" not in words.tags and "b" not in words.tags
    assert squeezed(" ".join(words.texts)).count(MARKUP) >= 9


def test_markup_from_outside_is_text_in_markdown():
    from markdown_it import MarkdownIt

    made = MarkdownIt("commonmark").enable("table").render(to_markdown(hostile(), "pictures"))
    words = Words(made)
    assert "script" not in words.tags and "<script" not in made
    assert squeezed("".join(words.texts)).count(MARKUP) >= 7
    assert "1. not a list" in words.texts and "- nor this" in words.texts


def test_a_host_with_dollars_is_no_mathematics():
    picture = heat_map("pairs", "t", "us", ["$x_{", "n"], [[0.0, 1.0], [2.0, 0.0]])
    assert "$x_{  0" in html.unescape(picture.wide)


def test_control_characters_do_not_reach_the_page():
    picture = heat_map("pairs", "a\x00b\x1b[31m", "us", ["\x01", "\ud800"], [[0.0, 1.0], [2.0, 0.0]])
    assert not re.search(r"[\x00-\x08\x1b\ud800]", picture.wide)
    picture.wide.encode()


def test_names_in_runs_hosts_and_messages_are_escaped_all_the_way(tmp_path):
    from ryzen_mpi.report.read_run import read_run
    from ryzen_mpi.report.run_report import run_report

    name = "<img src=x onerror=alert(1)>"
    report = run_report(read_run(inputs.write_run(tmp_path / name, host=name)), inputs.NOW)
    page = to_html(report)
    assert "img" not in Words(page).tags and squeezed(" ".join(Words(page).texts)).count(name) > 5


def test_ink_on_every_colour_of_the_heat_map_can_be_read():
    from matplotlib import colormaps

    def luminance(tint):
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in tint]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    for number in range(256):
        tint = colormaps["cividis"](number)[:3]
        light, dark = sorted((luminance(tint), 1.0 if ink_on(tint) == "#ffffff" else 0.0), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_folder_takes_all_forms_and_a_file_name_gives_the_stem(tmp_path):
    report = dataclasses.replace(hostile(), title="t")
    assert [path.name for path in write_report(report, tmp_path / "new" / "folder")] == [
        "run.html",
        "run.md",
        "run.json",
    ]
    (path,) = write_report(report, tmp_path / "mine.html", ("html",))
    assert path == tmp_path / "mine.html" and not (tmp_path / "mine.md").exists()
    for path in write_report(report, tmp_path / "mine.md", ("md", "json")):
        assert path.stem == "mine" and path.exists()
    named = re.findall(r"\]\(([^)]+\.svg)\)", (tmp_path / "mine.md").read_text())
    assert named and all((tmp_path / name).read_text().startswith("<svg") for name in named)


def test_where_nothing_can_be_written_it_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        write_report(hostile(), tmp_path / "file" / "below")
