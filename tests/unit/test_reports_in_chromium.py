"""Every kind of report in a real browser: a silent console, nothing fetched, every picture drawn, all readable."""

import pytest
from pages import TEXTS
from report_kinds import KINDS, make

from ryzen_mpi.report.forms import write_report

VIEWS = [(1280, "light"), (1280, "dark"), (900, "light"), (400, "light")]

PICTURES = """() => [...document.querySelectorAll('figure')].map(figure => {
  const seen = [...figure.querySelectorAll('svg')].filter(svg => svg.getBoundingClientRect().width > 0);
  const boxes = seen.map(svg => svg.getBoundingClientRect());
  return {
    seen: seen.length, widths: boxes.map(box => box.width), heights: boxes.map(box => box.height),
    drawn: seen.map(svg => [...svg.querySelectorAll('path, use')].filter(path => {
      const box = path.getBoundingClientRect(); return box.width > 0 || box.height > 0; }).length),
    named: seen.every(svg => svg.getAttribute('role') === 'img' && svg.querySelector('title').textContent),
  };
})"""


@pytest.fixture(scope="module", params=KINDS)
def page_file(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return write_report(make(request.param, folder), folder / "out", ("html",))[0]


class Opened:
    """The page at one width and colour scheme; what it said in the console and asked of any network."""

    def __init__(self, chromium, file, width, scheme):
        self.context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.context.route(lambda url: not url.startswith("file:"), lambda route: route.abort())
        self.page.goto(file.as_uri())
        self.own = file.as_uri()


@pytest.fixture(scope="module", params=VIEWS, ids=lambda view: f"{view[0]}-{view[1]}")
def opened(request, chromium, page_file):
    one = Opened(chromium, page_file, *request.param)
    yield one
    one.context.close()


def test_a_page_is_silent_and_fetches_nothing(opened):
    opened.page.wait_for_timeout(100)
    assert opened.said == []
    assert [url for url in opened.asked if url != opened.own and not url.startswith("data:")] == []


def test_every_picture_is_drawn_once_at_a_size_that_can_be_seen(opened):
    for picture in opened.page.evaluate(PICTURES):
        assert picture["seen"] == 1 and picture["named"], picture
        assert picture["widths"][0] > 250 and picture["heights"][0] > 90, picture
        assert picture["drawn"][0] >= 5, picture


def test_a_page_does_not_scroll_sideways_and_all_text_is_inside_it(opened):
    width = opened.page.viewport_size["width"]
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    outside = [
        text
        for text in opened.page.evaluate(TEXTS)
        if not text["scrolls"] and (text["left"] < -1 or text["right"] > width + 1)
    ]
    assert outside == []


def test_all_text_is_large_enough_and_stands_out_from_its_ground(opened):
    texts = opened.page.evaluate(TEXTS)
    assert len(texts) > 20
    assert [text for text in texts if text["size"] < 11.95] == []
    assert [text for text in texts if text["contrast"] < 4.5] == []


def test_a_page_on_a_telephone_stacks_its_tables(chromium, page_file):
    one = Opened(chromium, page_file, 400, "light")
    wide = one.page.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    )
    one.context.close()
    assert wide == 0


def test_the_briefing_is_one_page_of_paper(chromium, tmp_path):
    file = write_report(make("briefing", tmp_path), tmp_path / "out", ("html",))[0]
    one = Opened(chromium, file, 1280, "dark")
    paper = one.page.pdf(format="A4", prefer_css_page_size=True, print_background=True)
    one.context.close()
    assert paper.count(b"/Type /Page\n") == 1


def test_the_tests_see_what_is_too_small_too_pale_too_wide_and_fetched(chromium, tmp_path):
    """Each of the looks above fails on a page that has what it looks for."""
    file = tmp_path / "bad.html"
    wide = "<p style='width:3000px'>wide</p><p style='font-size:9px'>small</p><p style='color:#ccc'>pale</p>"
    empty = "<figure><svg viewBox='0 0 10 10'></svg></figure>"
    file.write_text(f"<!doctype html><title>t</title><body>{wide}{empty}<img src='http://127.0.0.1:9/x.png'></body>")
    one = Opened(chromium, file, 400, "light")
    one.page.wait_for_timeout(200)
    texts = {text["text"]: text for text in one.page.evaluate(TEXTS)}
    assert texts["small"]["size"] < 11.95 and texts["pale"]["contrast"] < 4.5 and texts["wide"]["right"] > 401
    assert one.page.evaluate("document.documentElement.scrollWidth") > 400
    assert any("127.0.0.1" in url for url in one.asked) and one.said
    assert one.page.evaluate(PICTURES)[0]["drawn"] == [0]
    one.context.close()
