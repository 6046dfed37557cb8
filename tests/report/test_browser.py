"""The pages in a real browser: drawn, moved, read on a phone, renewed."""

import shutil
import time
from datetime import datetime

import pytest

from uldm_plugins.report import page
from uldm_plugins.report.comparison import Drawn, comparison_of
from uldm_plugins.report.run_reader import read_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
if not (CHROMIUM and CHROMEDRIVER):
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)
BLANK_CANVASES = """
return [...document.querySelectorAll('canvas')].filter(canvas => {
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  return new Set(pixels.filter((_, index) => index % 4 == 3)).size < 2;
}).length"""
SIDEWAYS = "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
UNDRAWN = "return [...document.images].filter(image => !image.complete || !image.naturalWidth).length"


class Browser:
    """A browser with a page, and what it has to say of it."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, path, *, width=1280, scheme="light"):
        phone = width < 600
        look = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", look)
        size = {"width": width, "height": 800, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.logs()
        self.driver.get(path.as_uri())

    def logs(self):
        """Return what was complained of, and what was asked of the network."""
        complaints = [entry["message"] for entry in self.driver.get_log("browser")]
        events = [entry["message"] for entry in self.driver.get_log("performance")]
        asked = [event for event in events if '"Network.requestWillBeSent"' in event]
        return complaints, [event for event in asked if '"url":"data:' not in event]

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def wait(self, script):
        """Wait until a script returns something true; fail after ten seconds."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            if found := self.run(script):
                return found
            time.sleep(0.05)
        raise AssertionError(script)

    def legend(self, chart):
        values = self.driver.find_elements(By.CSS_SELECTOR, f'[data-chart="{chart}"] .u-value')
        return [value.text for value in values]

    def over(self, chart, share):
        """Return where in the middle of a chart the given share of its width is, from its centre."""
        area = self.find(f'[data-chart="{chart}"] .u-over')
        self.run("arguments[0].scrollIntoView({block: 'center'})", area)
        return area, round((share - 0.5) * area.size["width"])


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium):
    yield Browser(chromium)
    chromium.get("about:blank")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_everything_is_drawn_and_nothing_is_asked_of_the_network(browser, run, width, scheme):
    browser.open(page.write_report(run.everything()), width=width, scheme=scheme)
    assert browser.run("return document.images.length") > 250 and browser.run(UNDRAWN) == 0
    assert browser.run("return document.querySelectorAll('canvas').length") == 9
    assert browser.run(BLANK_CANVASES) == 0
    assert browser.run(SIDEWAYS) == 0
    complaints, asked = browser.logs()
    assert complaints == [] and len(asked) == 1
    light = browser.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] > 128")
    assert light == (scheme == "light")


def test_the_slider_shows_how_samples_became_what_they_are(browser, run):
    browser.open(page.write_report(run.everything()))
    shown = "return [...document.querySelectorAll('#samples-film .frame')].findIndex(frame => !frame.hidden)"
    assert browser.run(shown) == 3 and browser.find("#samples-film output").text == "step 600 of 600"
    browser.find("#samples-film input").send_keys(Keys.ARROW_LEFT)
    assert browser.run(shown) == 2 and browser.find("#samples-film output").text == "step 400 of 600"
    browser.find("#samples-film input").send_keys(Keys.HOME)
    assert browser.run(shown) == 0
    browser.find("#samples-film .play").click()
    browser.wait("return !document.querySelector('#samples-film .frame:last-child').hidden")


def test_pointing_at_a_chart_reads_it_and_dragging_zooms(browser, run):
    browser.open(page.write_report(run.everything()))
    last = browser.legend("second/loss")
    assert last[0] == "600"
    area, middle = browser.over("second/loss", 0.5)
    ActionChains(browser.driver).move_to_element_with_offset(area, middle, 0).perform()
    there = browser.legend("second/loss")
    assert 290 <= int(there[0]) <= 320 and 1 < float(there[1]) < 1.6 and there != last
    reset = browser.find('[data-chart="second/loss"] .reset')
    assert not reset.is_displayed()
    left = browser.over("second/loss", 0.25)[1]
    drag = ActionChains(browser.driver).move_to_element_with_offset(area, left, 0).click_and_hold()
    drag.move_by_offset(100, 0).release().perform()
    assert reset.is_displayed()
    ActionChains(browser.driver).move_to_element_with_offset(area, middle, 0).perform()
    assert int(browser.legend("second/loss")[0]) < 280
    reset.click()
    assert not reset.is_displayed()
    log = browser.find('[data-chart="second/loss"] .log')
    log.click()
    assert log.get_attribute("aria-pressed") == "true" and browser.run(BLANK_CANVASES) == 0


def test_a_finger_reads_a_chart(browser, run):
    browser.open(page.write_report(run.everything()), width=390)
    area, _ = browser.over("second/loss", 0.5)
    send = "const [area, kind, share] = arguments, box = area.getBoundingClientRect();"
    send += "area.dispatchEvent(new PointerEvent(kind, {pointerType: 'touch', pointerId: 1, bubbles: true,"
    send += "clientX: box.left + share * box.width, clientY: box.top + 50}))"
    for kind, share in (("pointerdown", 0.2), ("pointermove", 0.5)):
        browser.run(send, area, kind, share)
    assert 290 <= int(browser.legend("second/loss")[0]) <= 320


def test_a_page_of_a_running_run_renews_itself_and_keeps_the_readers_place(browser, run, monkeypatch):
    monkeypatch.setattr(page, "REFRESH_SECONDS", 1)
    now = datetime.now().astimezone().isoformat()
    run.everything()
    run.state("running", updated=now)
    browser.open(page.write_report(run.path))
    renewed = "return performance.getEntriesByType('navigation')[0].type === 'reload' && !window.before"
    top = "return Math.round(document.getElementById('codebook').getBoundingClientRect().top)"
    browser.run(
        "window.before = true; document.getElementById('codebook').scrollIntoView(); scrollBy(0, 70);"
        "const slider = document.querySelector('#samples-film input');"
        "slider.value = 1; slider.dispatchEvent(new Event('input'));"
        "document.getElementById('recipe').open = true"
    )
    place = browser.run(top)
    run.json("stages/scores/artifacts/classes.json", {"labels": ["a"], "samples": [1.0], "real": [1.0]})
    page.write_report(run.path)
    browser.wait(renewed)
    assert browser.wait("return !!document.querySelector('#classes')")
    assert abs(browser.run(top) - place) <= 2
    assert browser.find("#samples-film output").text == "step 200 of 600"
    assert browser.run("return document.getElementById('recipe').open")
    run.state("done")
    page.write_report(run.path)
    browser.run("window.before = true")
    browser.wait(renewed)
    browser.run("window.before = true")
    time.sleep(1.6)
    assert browser.run("return window.before")


def test_a_page_of_a_killed_run_says_so_and_rests(browser, run, monkeypatch):
    run.everything()
    run.state("running")
    browser.open(page.write_report(run.path))
    assert browser.find("[data-silent]").is_displayed() and not browser.find("[data-live]").is_displayed()


def test_hostile_names_do_nothing(browser, run):
    hostile = "<img src=x onerror=\"document.title='hit'\"><script>document.title='hit'</script>"
    run.recipe()
    run.state("failed", error=hostile)
    run.log(
        "first", [{"step": step, hostile: 0.5, "</script><script>alert(1)</script>": 1} for step in (1, 2)]
    )
    browser.open(page.write_report(run.path), width=390)
    assert browser.driver.title == "digits: failed" and browser.logs()[0] == []
    assert browser.run(SIDEWAYS) == 0
    assert browser.run("return document.images.length") == 0 and browser.run(BLANK_CANVASES) == 0


def test_a_comparison_is_drawn(browser, run, tmp_path):
    run.everything()
    drawn = Drawn(read_run(run.path).first_images("samples.npz", 8)[0])
    out = tmp_path / "compare.html"
    for width in (1280, 390):
        out.write_text(comparison_of([run.path, run.path], [drawn, Drawn(why_not="not trained")]), "utf-8")
        browser.open(out, width=width)
        assert browser.run("return document.images.length") == 8 and browser.run(UNDRAWN) == 0
        assert browser.run(BLANK_CANVASES) == 0
        assert browser.run(SIDEWAYS) == 0
        complaints, asked = browser.logs()
        assert complaints == [] and len(asked) == 1
    assert browser.legend("first/distance")[1] == browser.legend("first/distance")[2] != ""


@pytest.mark.parametrize(
    "values",
    [
        [1.0],
        [float("nan")],
        [float("nan")] * 3,
        [1e300, 1e-300],
        [-5.0, 0.0],
        [0.0] * 9,
        [1e9, float("inf"), 2e9],
    ],
)
def test_any_numbers_can_be_drawn(browser, run, values):
    run.recipe()
    run.log("first", [{"step": step, "loss": value} for step, value in enumerate(values)])
    browser.open(page.write_report(run.path))
    for button in browser.driver.find_elements(By.CSS_SELECTOR, ".log"):
        button.click()
    area, middle = browser.over("first/loss", 0.5)
    ActionChains(browser.driver).move_to_element_with_offset(area, middle, 0).perform()
    assert browser.logs()[0] == [] and browser.run(BLANK_CANVASES) == 0
    assert browser.legend("first/loss")[0] != ""
