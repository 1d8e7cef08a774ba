"""A headless browser: Debian's chromium, driven by Selenium."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

_WAIT_SECONDS = 60
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    # Disable connections to its vendor at every start.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def is_installed() -> bool:
    """Whether this machine has the browser and its driver."""
    return all(shutil.which(name) for name in ("chromium", "chromedriver"))


class Browser:
    """One browser window.

    Args:
        driver: The Selenium driver.
    """

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str, *expected: str) -> str:
        """Open a page, wait until it shows the expected texts, and return all of its text."""
        # MLflow's pages differ only in the fragment, and changing it does not reload the page.
        self.driver.get("about:blank")
        self.driver.get(url)
        return self.wait_for(*expected)

    def wait_for(self, *expected: str) -> str:
        """Wait until the page shows the expected texts, and return all of its text."""
        waiting = WebDriverWait(
            self.driver, _WAIT_SECONDS, ignored_exceptions=[StaleElementReferenceException]
        )
        try:
            waiting.until(lambda _: all(text in self.text for text in expected))
        except TimeoutException:
            missing = [text for text in expected if text not in self.text]
            raise AssertionError(f"The page does not show {missing}:\n{self.text}") from None
        return self.text

    @property
    def text(self) -> str:
        """The visible text of the page."""
        return str(self.driver.find_element(By.TAG_NAME, "body").text)

    def click(self, text: str) -> None:
        """Click on the element with a text."""
        self.driver.find_element(By.XPATH, f"//*[normalize-space(text())='{text}']").click()

    def frame(self) -> None:
        """Switch to the page's first frame."""
        WebDriverWait(self.driver, _WAIT_SECONDS).until(
            lambda driver: driver.find_elements(By.TAG_NAME, "iframe")
        )
        self.driver.switch_to.frame(self.driver.find_element(By.TAG_NAME, "iframe"))

    def leave_frame(self) -> None:
        """Switch back from a frame to the page."""
        self.driver.switch_to.default_content()

    def save(self, path: Path) -> None:
        """Save a screenshot of the window."""
        self.driver.save_screenshot(str(path))


@contextmanager
def browser(width: int = 1500, height: int = 1100, *, dark: bool = False) -> Iterator[Browser]:
    """Open a window for the duration of the context."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for option in (*_OPTIONS, f"--window-size={width},{height}"):
        options.add_argument(option)
    if dark:
        options.add_argument("--force-dark-mode")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options.add_argument(f"--user-data-dir={profile}")
        driver = webdriver.Chrome(
            options=options, service=Service(str(shutil.which("chromedriver")))
        )
        try:
            yield Browser(driver)
        finally:
            driver.quit()
