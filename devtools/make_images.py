"""Creates the images in docs/images: `python -m devtools.make_images`.

Trains the project on scikit-learn's digits, with its own server, and takes screenshots of the
server's pages in Debian's chromium. Takes two minutes; requires the dependencies of the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from mlflow.tracking import MlflowClient
from PIL import Image
from selenium.webdriver.common.by import By

import mlflow_ckpt
from devtools.browser import Browser, browser
from devtools.stores import create_database, serve

IMAGES = Path(__file__).parents[1] / "docs" / "images"
NAME = "mlflow_ckpt"
EPOCHS = 4
TRAIN = (
    *("-m", "mlflow", "run", ".", "--env-manager", "local", "--experiment-name", NAME),
    *("--run-name", "digits", "-P", f"epochs={EPOCHS}", "-P", "dataset=digits"),
)


def main() -> None:
    """Train, and create all images."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        create_database(directory / "template.db")
        (directory / "server").mkdir()
        with serve(directory / "template.db", directory / "server") as store:
            client = MlflowClient(store.uri)
            client.delete_experiment(store.experiment_id)
            environment = {**os.environ, "MLFLOW_TRACKING_URI": store.uri}
            subprocess.run(  # noqa: S603 - the project itself
                [sys.executable, *TRAIN], env=environment, check=True
            )
            (experiment,) = client.search_experiments(filter_string=f"name = '{NAME}'")
            (run,) = client.search_runs([experiment.experiment_id])
            mlflow_ckpt.register(
                run.info.run_id, "best", name="digits", alias="champion", tracking_uri=store.uri
            )
            page = f"{store.uri}/#/experiments/{experiment.experiment_id}"
            with browser(1500, 1050) as window:
                take(window, page, run.info.run_id)


def take(window: Browser, page: str, run_id: str) -> None:
    """Save screenshots of several pages."""
    latest, of_run = f"epoch_{EPOCHS:04d}", f"{page}/runs/{run_id}"
    view = "?workflowType=machine_learning"
    # Select the view, and close the assistant's panel.
    window.open(f"{page}{view}", "digits")
    for button in window.driver.find_elements(By.CSS_SELECTOR, "button[aria-label='Close']"):
        button.click()
    window.open(f"{of_run}{view}", "Show more")
    window.click("Show more")
    window.wait_for("Show less")
    save(window, "run")
    window.driver.execute_script(
        "document.evaluate(\"//*[contains(text(), 'Logged models (')]\", document, null, 9)"
        ".singleNodeValue.scrollIntoView()"
    )
    save(window, "logged_models")
    window.open(f"{page}/models{view}", f"{latest}\nReady")
    save(window, "models")
    window.open(f"{of_run}/artifacts/checkpoints/{latest}/manifest.json{view}", "weights_digest")
    save(window, "artifacts")
    window.open(f"{of_run}/artifacts/checkpoints/index.json{view}", "View as table", "latest")
    save(window, "table")
    window.open(f"{of_run}/artifacts/checkpoints/report.html{view}", "report.html")
    window.frame()
    window.wait_for("Training curves", "histogram")
    window.leave_frame()
    frame = window.driver.find_element(By.TAG_NAME, "iframe")
    window.driver.execute_script("arguments[0].scrollIntoView()", frame)
    save(window, "report")


def save(window: Browser, name: str) -> None:
    """Save a screenshot of the window, with a small palette to reduce its size."""
    path = IMAGES / f"{name}.png"
    window.save(path)
    with Image.open(path) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
