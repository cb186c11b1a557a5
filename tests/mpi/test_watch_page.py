"""The page of `ryzen-mpi watch` in a real browser, beside a real run: it starts, is killed, starts again and ends."""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from launch import Job, environment, metrics, mpirun, overrides, train
from pages import TEXTS

from ryzen_mpi.metrics.events import read_events
from ryzen_mpi.report.read_run import read_run
from ryzen_mpi.report.run_measures import throughput
from ryzen_mpi.report.texts import number_text
from ryzen_mpi.units import bytes_text, duration_text
from ryzen_mpi.watch.ranks import RANK_STEPS

NAME = '<img src=x onerror=alert(1)> & "it\'s" `run`'
KILLED_AFTER, STEPS_MORE = 40, 60


def command(run, steps):
    short = overrides(
        training__max_steps=steps, training__save_interval=25, training__eval_interval=40, hardware__num_threads=1
    )
    return mpirun(1, *train(run, *short))


def events(run):
    return list(read_events(run / "events" / "rank-0000.jsonl"))


def last_step(run):
    return int(metrics(run)["training/step"][-1])


class Watch:
    """The server as a person starts it, on a free port."""

    def __init__(self, *words: str, cwd):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ryzen_mpi", "watch", "--port", "0", *words],
            cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.said = self.process.stdout.readline()
        self.url = re.search(r"http://\S+", self.said)[0]

    def close(self) -> str:
        """Ends it as Ctrl-C does; what it said on standard error."""
        self.process.send_signal(2)
        return self.process.communicate(timeout=30)[1]


class Page:
    """One opened page; what its console said and what it asked of whom."""

    def __init__(self, chromium, url, width=1280, scheme="light"):
        self.context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page, self.said, self.asked = self.context.new_page(), [], []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)

    def until(self, condition: str, limit_s: float = 120):
        """Asks again and again: the page's policy forbids what `wait_for_function` would do, eval."""
        end = time.monotonic() + limit_s
        while not self.page.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, f"not seen in {limit_s} s: {condition}\n{self.said}\n{self.text('body')}"
            self.page.wait_for_timeout(50)
        return self

    def drawn(self):
        """Until a run with steps is shown."""
        return self.until("document.querySelector('[data-card=loss] .number') && document.querySelector('.u-over')")

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def number(self, card: str) -> str:
        return self.text(f"[data-card={card}] .number")

    @property
    def step(self) -> int:
        return int(self.number("steps").replace(",", ""))

    def points(self, name: str) -> list:
        return self.page.evaluate(f"state.points.{name}")

    def until_state(self, word: str):
        return self.until(f"document.getElementById('state').textContent === '{word}'")


@pytest.fixture(scope="module")
def story(chromium, tmp_path_factory):
    """What the page showed along the way; the page is still open when the run is over."""
    folder = tmp_path_factory.mktemp("watch")
    runs = folder / "runs"
    runs.mkdir()
    watch = Watch("--runs", str(runs), cwd=folder)
    try:
        page, seen = Page(chromium, watch.url), {}
        tell(page, seen, runs, folder)
        yield page, runs / NAME, seen, watch
        page.context.close()
    finally:
        said = watch.close()
    assert said == ""


def tell(page, seen, runs, folder):
    """The run's life, and what the page showed at its turns."""
    page.until("document.getElementById('empty').textContent")
    seen["empty"] = page.text("#empty")
    job = Job(command(runs / NAME, 100_000), folder)
    job.wait_for((runs / NAME / "metrics.h5").exists)
    page.drawn()
    first = page.step
    page.until(f"state.points && state.points.step.at(-1) > {max(KILLED_AFTER, first)}")
    seen["while"] = first, page.step, page.text("#state"), page.page.title()
    job.kill()
    page.until_state("Broke off")
    last = [event["ryzen"] for event in events(runs / NAME) if event["event"]["action"] == "step"][-1]
    page.until(f"state.points.step.at(-1) === {last['step']}")
    seen["killed"] = last, page.step, page.points("loss")[-1], page.text("#sentence"), page.text("#status")
    with (runs / NAME / "events" / "rank-0000.jsonl").open("ab") as file:
        file.write(b'{"@timestamp":"2026-')  # a line that the killed writer did not end
    steps = last["step"] + STEPS_MORE
    Job(command(runs / NAME, steps), folder).wait().succeeded()
    page.until_state("Complete").until("state.points")


def test_a_run_that_starts_later_shows_up_by_itself_and_grows(story):
    page, run, seen, watch = story
    assert "shows up here by itself" in seen["empty"]
    before, later, state, title = seen["while"]
    assert 0 < before < later and state == "Under way" and NAME in title


def test_the_address_and_the_way_from_elsewhere_are_printed(story):
    _, _, _, watch = story
    port = watch.url.rstrip("/").rpartition(":")[2]
    assert (
        watch.url == f"http://127.0.0.1:{port}/"
        and f"ssh -L {port}:127.0.0.1:{port} " in watch.process.stdout.readline()
    )


def test_a_killed_run_is_told_with_its_last_step(story):
    _, _, seen, _ = story
    last, step, loss, sentence, status = seen["killed"]
    assert step == last["step"] and loss == last["loss"]
    assert "is gone" in sentence and "Broke off" in status


def test_every_step_on_the_page_is_that_of_metrics_h5(story):
    page, run, _, _ = story
    recorded = metrics(run)
    steps, loss = recorded["training/step"], recorded["training/loss"]
    assert page.page.evaluate("state.base") == 0 and steps.tolist() == [*range(1, len(steps) + 1)]
    size = page.page.evaluate("Number(state.since.split('.')[1])")
    assert size == 0 and page.points("step") == steps.tolist()
    assert page.points("loss") == loss.tolist()
    page.page.get_by_role("radio", name="newest 100").check()
    page.until("state.points && state.points.step.length === 100")
    assert page.points("step") == steps[-100:].tolist() and page.points("loss") == loss[-100:].tolist()
    batch, seconds = np.diff(recorded["training/samples"])[-100:], recorded["training/step_s"][-100:]
    assert page.points("rate") == pytest.approx((batch / seconds).tolist())
    share = 100 * recorded["communication/communication_s"][-100:] / seconds
    assert page.points("share") == pytest.approx(share.tolist())
    page.page.get_by_role("radio", name="all steps").check()
    page.until("state.points && state.points.step.length > 100")


def test_the_cards_are_the_figures_of_metrics_h5(story):
    page, run, _, _ = story
    recorded = metrics(run)
    assert page.number("loss") == number_text(round(recorded["training/loss"][-1], 4))
    assert page.number("held_out") == number_text(round(recorded["evaluation/held_out_loss"][-1], 4))
    assert f"step {recorded['evaluation/step'][-1]:,}" in page.text("[data-card=held_out]")
    rates = np.diff(recorded["training/samples"])[-20:] / recorded["training/step_s"][-20:]
    assert float(page.number("rate").replace(",", "")) == pytest.approx(np.median(rates), rel=0.02)
    number, unit = bytes_text(recorded["hardware/rank_rss_bytes"][-1].max()).split()
    assert float(page.number("memory")) == float(number) and page.text("[data-card=memory] .unit") == unit
    assert page.number("steps") == f"{last_step(run):,}" and page.number("checkpoint") == f"step {last_step(run):,}"
    whole = page.page.evaluate("JSON.parse(state.drawn.communication)[1][0].value")
    assert whole == throughput(read_run(run)).value


def test_a_rank_is_shown_with_the_means_of_its_newest_steps(story):
    page, run, _, _ = story
    recorded = metrics(run)
    seconds = recorded["training/rank_step_s"][-RANK_STEPS:, 0]
    waited = recorded["communication/rank_communication_s"][-RANK_STEPS:, 0]
    row = page.page.locator("#ranks tbody tr").first
    assert row.locator("[data-column=computing]").inner_text() == duration_text(float((seconds - waited).mean()))
    assert row.locator("[data-column=waiting]").inner_text() == duration_text(float(waited.mean()))
    widths = page.page.evaluate(
        "[...document.querySelectorAll('#ranks .part')].map(part => parseFloat(part.style.width))"
    )
    assert len(widths) == 3 and sum(widths) == pytest.approx(100, abs=0.1)


def test_events_tell_of_both_starts_and_the_end(story):
    page, run, _, _ = story
    text = page.text("#events")
    assert text.count("ranks from step") == 2 and "reached its end" in text and "checkpoint" in text
    resumed = events(run)
    assert f"from step {[e for e in resumed if e['event']['action'] == 'start'][1]['ryzen']['step']}" in text


def test_a_hostile_name_is_text(story):
    page, _, _, _ = story
    assert page.text("#name") == NAME and page.page.locator("img").count() == 0
    assert not [line for line in page.said if line != "debug: "]


def test_nothing_is_asked_of_anybody_else_and_the_console_is_silent(story):
    page, _, _, watch = story
    assert page.said == []
    assert page.asked and all(url.startswith(watch.url) for url in page.asked)


def test_only_new_steps_are_sent(story):
    page, _, _, _ = story
    with page.page.expect_response(lambda answer: "/api/runs/" in answer.url) as answer:
        page.page.evaluate("look()")
    assert len(answer.value.json()["curves"]["columns"]["step"]) == 1


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (400, "dark"), (1280, "light"), (1280, "dark")])
def test_it_can_be_read_at_every_width_and_in_the_dark(chromium, story, width, scheme):
    _, _, _, watch = story
    page = Page(chromium, watch.url, width, scheme).drawn()
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    texts = page.page.evaluate(TEXTS)
    assert len(texts) > 60
    assert [text for text in texts if text["size"] < 11.95] == []
    assert [text for text in texts if text["contrast"] < 4.5] == []
    assert [text for text in texts if not text["scrolls"] and text["right"] > width + 1] == []
    canvases = page.page.locator("canvas").all()
    assert len(canvases) == 3 and all(canvas.bounding_box()["width"] > 250 for canvas in canvases)
    assert page.said == []
    page.context.close()


def test_every_chart_has_words_and_a_table(story):
    page, run, _, _ = story
    loss = page.page.locator("[data-chart=loss]")
    words = loss.locator(".plot").get_attribute("aria-label")
    assert f"at step {last_step(run)}" in words and "held-out" in words and "lowest" in words
    loss.locator("summary").click()
    newest = loss.locator("tbody tr").first.inner_text().split()
    assert newest[0] == f"{last_step(run):,}"


def test_the_keyboard_reads_a_chart_step_by_step(story):
    page, run, _, _ = story
    plot, legend = page.page.locator("[data-chart=loss] .plot"), "[data-chart=loss] .legend .at"
    plot.focus()
    page.page.keyboard.press("End")
    assert page.text(legend) == f"step {last_step(run):,}"
    page.page.keyboard.press("ArrowLeft")
    assert page.text(legend) == f"step {last_step(run) - 1:,}"
    page.page.keyboard.press("Home")
    assert page.text(legend) == "step 1"


def test_the_keyboard_goes_from_run_to_run_and_focus_is_seen(chromium, story, tmp_path):
    _, run, _, _ = story
    runs = tmp_path / "runs"
    runs.mkdir()
    for name in ("20260101-a", "20260102-b"):
        (runs / name).symlink_to(run)
    watch = Watch("--runs", str(runs), "--expect", "1e9", cwd=tmp_path)
    page = Page(chromium, watch.url).drawn()
    # both are the same directory, and so one run: a name more does not make two of it
    assert page.page.locator("[role=tab]").count() == 1
    (runs / "20260102-b").unlink()
    (runs / "20260102-b").mkdir()
    (runs / "20260102-b" / "config.yaml").write_text("training: {}\n")
    page.until("document.querySelectorAll('[role=tab]').length === 2")
    assert "slower" in page.text("[data-card=rate]") and "--expect" in page.text("#expected")
    tab = page.page.locator("[role=tab][aria-selected=true]")
    before = page.text("#name")
    tab.focus()
    page.page.keyboard.press("ArrowDown")
    page.until(f"document.getElementById('name').textContent !== {before!r}")
    focused = page.page.evaluate("""() => {
        const e = document.activeElement;
        return [e.getAttribute('role'), e.getAttribute('aria-selected'), getComputedStyle(e).outlineStyle];
    }""")
    assert focused == ["tab", "true", "solid"]
    assert page.said == []
    watch.close()
    page.until("document.getElementById('connection').textContent !== 'live'")
    assert "what is shown is old" in page.text("#status")
    page.context.close()


def test_the_server_is_on_loopback_and_speaks_to_no_other_name(story):
    _, _, _, watch = story
    host, port = watch.url.removeprefix("http://").rstrip("/").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    connection.request("GET", "/api/runs", headers={"Host": "evil.example"})
    assert connection.getresponse().status == 421


def test_watching_left_nothing_in_the_run_directory(story):
    _, run, _, _ = story
    files = {path.relative_to(run).parts[0] for path in run.rglob("*")}
    assert not [name for name in files if "watch" in name or name.endswith(".tmp")]
