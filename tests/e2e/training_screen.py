"""The training area of the page as a person uses it."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from tests.e2e.screens import open_area
from tests.paddock_server import PaddockServer, wait_for

WORK_MS = 120_000  # of a job that loads torch on a busy machine


class TrainingScreen:
    """Data, model, options, check, runs."""

    def __init__(self, page: Page, server: PaddockServer) -> None:
        self.page = page
        self.server = server
        self.name = page.get_by_role("textbox", name="Name of the adapter")
        self.base = page.get_by_label("Base model", exact=True)
        self.prompts = page.get_by_label("Prompts of your own")
        self.format = page.get_by_label("Read as")
        self.samples = page.get_by_role("region", name="The samples as they will be read")
        self.check_button = page.get_by_role("button", name="Check", exact=True)
        self.train_button = page.get_by_role("button", name="Train", exact=True)
        self.found = page.get_by_role("region", name="What the check found")

    def open(self) -> TrainingScreen:
        self.page.goto(self.server.url)
        return self.show()

    def show(self) -> TrainingScreen:
        open_area(self.page, "Training")
        expect(self.base).to_be_visible()
        expect(self.base.locator("option")).not_to_have_count(1)  # the models have come
        return self

    def upload(self, file: Path) -> None:
        """Choose a file as a person would, and wait until it is the chosen data set."""
        self.page.get_by_label("Upload a file").set_input_files(file)
        expect(self.data(file.name)).to_be_checked()

    def data(self, name: str) -> Locator:
        """The radio button of a data set."""
        return self.page.get_by_role("radio", name=name)

    def column(self, meaning: str) -> Locator:
        """The select that says which column has a meaning."""
        return self.page.locator(f"#training-column-{meaning}")

    def box(self, label: str) -> Locator:
        """A text box, number box or switch of an option; its sentence is a part of its name."""
        return self.page.locator("#training-options").get_by_label(label)

    def option(self, label: str) -> Locator:
        """The number box beside the slider of an option."""
        return self.page.get_by_label(f"number input for {label}", exact=True)

    def set(self, label: str, value: str) -> None:
        """Type a number into an option, once the form shows what it was last asked to show."""
        expect(self.page.locator("#training-options")).to_have_js_property("inert", False)
        box = self.option(label)
        box.fill(value)
        box.press("Tab")

    def keeps(self, **values: object) -> None:
        """Wait until the browser keeps these values of options, as typed."""
        kept = "() => JSON.parse(localStorage['paddock.training'] ?? '{}').shown ?? {}"
        wait_for(lambda: self.page.evaluate(kept).items() >= values.items(), f"the form keeps {values}")

    def group(self, title: str) -> None:
        """Open or close a group of options; one that is opened for the first time can be typed in a moment later."""
        head = self.page.locator("#training-options button.label-wrap").filter(has_text=title)
        head.click()
        expect(head.locator("+ div")).to_have_js_property("inert", False)

    def run(self, name: str) -> Locator:
        """The card of a run."""
        return self.page.locator(f'.train-run[data-name="{name}"]')

    def press(self, name: str, verb: str) -> None:
        """A button of a run's card."""
        self.run(name).get_by_role("button", name=f"{verb} {name}", exact=True).click()

    def unfold(self, name: str) -> None:
        """Open a run's card."""
        title = self.run(name).get_by_role("button", name=name, exact=True)
        if title.get_attribute("aria-expanded") != "true":
            title.click()

    def chart(self, name: str, title: str) -> Locator:
        """A plot of an opened run."""
        return self.run(name).locator("figure").filter(has=self.page.get_by_text(title, exact=True)).locator("svg").first

    def forget(self) -> None:
        """End and remove all runs, and delete the data sets."""
        ask = self.server.ask
        for run in ask("GET", "ui/training/runs")["runs"]:
            if run["status"] in ("queued", "running", "interrupted"):
                ask("POST", f"ui/training/runs/{run['id']}/cancel", {})
        wait_for(lambda: not [run for run in ask("GET", "ui/training/runs")["runs"] if run["status"] in ("queued", "running")], "no run is going on")
        for run in ask("GET", "ui/training/runs")["runs"]:
            ask("DELETE", f"ui/training/runs/{run['id']}")
        for row in ask("GET", "ui/datasets")["datasets"]:
            ask("POST", "ui/datasets/delete", {"name": row["name"]})

    def becomes(self, name: str, state: str) -> None:
        """Wait until a run is said to be in a state."""
        expect(self.run(name).locator("header .badge")).to_have_text(re.compile(state), timeout=WORK_MS)
