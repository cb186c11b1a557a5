"""What the tests of every folder may need."""

import os
import shutil

import pytest


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium, of the machine: playwright drives it and brings none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no chromium on PATH, and these tests must not be left out (Debian: apt-get install chromium)")
        pytest.skip("no chromium on PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
