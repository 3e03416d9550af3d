"""Requests of a page that wait until a test lets them go."""

from __future__ import annotations

from playwright.sync_api import APIResponse, Page, Route

from tests.paddock_server import wait_for


class HeldRequests:
    """Requests of one page that wait until the test lets them go; with `answered`, the server has them and only its answers wait."""

    def __init__(self, page: Page, method: str, path: str, *, answered: bool = False) -> None:
        self._page = page
        self._method = method
        self._path = f"**/{path}"
        self._answered = answered
        self._waiting: list[tuple[Route, APIResponse | None]] = []
        page.route(self._path, self._take)

    def _take(self, route: Route) -> None:
        if route.request.method == self._method:
            self._waiting.append((route, route.fetch() if self._answered else None))
        else:
            route.continue_()

    def come(self) -> None:
        """Wait until the page has asked; asking the page for its title lets the driver tell of it."""
        wait_for(lambda: (self._page.title(), self._waiting)[1], f"{self._path} is under way")

    def release(self) -> None:
        """Let go what waits, wait for an answer, and hold nothing more."""
        self.come()
        with self._page.expect_response(self._path):
            for route, answer in self._waiting:
                if answer is None:
                    route.continue_()
                else:
                    route.fulfill(response=answer)
        self._page.unroute(self._path, self._take)  # not before: that would let them go too
