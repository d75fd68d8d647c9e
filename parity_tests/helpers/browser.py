"""A headless browser: Chromium from Qt's Python package, controlled by lines of JSON.

The browser runs in a separate process, so that a crash only fails a test. `Browser` talks to that process; running this
file starts it. Input is sent as mouse and keyboard events, not as calls of event handlers.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PATIENCE = 60  # seconds
ENVIRONMENT = {
    "QT_QPA_PLATFORM": "offscreen",
    "QTWEBENGINE_DISABLE_SANDBOX": "1",  # Chromium has no sandbox for root
}
FLAGS = "--disable-gpu --disable-background-networking"


class Browser:
    """A page in Chromium."""

    def __init__(self, *, dark: bool = False) -> None:
        command = [sys.executable, str(Path(__file__))]
        flags = f"{FLAGS} --blink-settings=preferredColorScheme={0 if dark else 1}"
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **environment,
                **ENVIRONMENT,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "QTWEBENGINE_CHROMIUM_FLAGS": flags,
            },
        )
        self.problem = self._answer()  # the reason why no browser can be used, or None

    def open(self, path: Path) -> None:
        assert self._ask(open=str(path)) is True

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page; it must be serialisable as JSON."""
        return json.loads(self._ask(run=f"JSON.stringify({script})") or "null")

    def point(self, selector: str) -> None:
        """Move the mouse to the middle of an element."""
        self._ask(point=self._middle(selector))

    def click(self, selector: str) -> None:
        self._ask(click=self._middle(selector))

    def press(self, key: str) -> None:
        """Press and release a key by Qt's name, such as `Right`."""
        self._ask(press=key)

    def picture(self, path: Path) -> None:
        self._ask(picture=str(path))

    def requests(self) -> list[str]:
        """Every address that the page has requested."""
        return self._ask(requests=True)

    def complaints(self) -> list[str]:
        """The messages of the console."""
        return self._ask(complaints=True)

    def _middle(self, selector: str) -> list[int]:
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        return [int(place) for place in self.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({box})")]

    def _ask(self, **what: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            self.process.kill()
            _, errors = self.process.communicate()
            raise AssertionError(f"the browser gave no answer: {errors[-2000:]}")
        return json.loads(line)

    def close(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired, BrokenPipeError):
            self.process.communicate(timeout=PATIENCE)
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve() -> None:
    """Answer the commands on standard input until it ends."""
    try:
        from PySide6.QtCore import QEventLoop, QPoint, Qt, QTimer, QUrl
        from PySide6.QtTest import QTest
        from PySide6.QtWebEngineCore import QWebEnginePage, QWebEngineProfile, QWebEngineUrlRequestInterceptor
        from PySide6.QtWebEngineWidgets import QWebEngineView
        from PySide6.QtWidgets import QApplication
    except ImportError as error:  # the package, or a system library that it needs
        say(f"PySide6-WebEngine cannot be used: {error}")
        return

    requests: list[str] = []
    complaints: list[str] = []

    class Watch(QWebEngineUrlRequestInterceptor):
        def interceptRequest(self, info: Any) -> None:  # noqa: N802
            requests.append(info.requestUrl().toString())

    class Page(QWebEnginePage):
        def javaScriptConsoleMessage(self, level: Any, message: str, line: int, source: str) -> None:  # noqa: N802
            complaints.append(f"{line}: {message}")

    application = QApplication(sys.argv[:1])
    application.setQuitOnLastWindowClosed(False)
    profile, watch = QWebEngineProfile(), Watch()
    profile.setUrlRequestInterceptor(watch)
    view = QWebEngineView()
    page = Page(profile, view)
    view.setPage(page)
    view.resize(900, 700)
    view.show()

    def wait_for(start: Any) -> Any:
        """The value that `start` passes to its callback, while Qt events are processed."""
        loop, found = QEventLoop(), []

        def done(value: Any = None) -> None:
            found.append(value)
            loop.quit()

        start(done)
        QTimer.singleShot(1000 * PATIENCE, loop.quit)
        if not found:
            loop.exec()
        return found[0] if found else None

    def evaluate(script: str) -> Any:
        return wait_for(lambda done: page.runJavaScript(script, 0, done))

    def settle() -> None:
        """Wait until the page has redrawn after an input event."""
        QTest.qWait(50)
        evaluate("0")

    def load(path: str) -> Any:
        def start(done: Any) -> None:
            view.loadFinished.connect(done, Qt.ConnectionType.SingleShotConnection)
            view.load(QUrl.fromLocalFile(path))

        return wait_for(start)

    say(None)
    for line in sys.stdin:
        [(verb, value)] = json.loads(line).items()
        result = None
        target = view.focusProxy()
        if verb == "open":
            result = load(value)
            view.setFocus()
        elif verb == "run":
            result = evaluate(value)
        elif verb == "point":
            QTest.mouseMove(target, QPoint(*value))
        elif verb == "click":
            QTest.mouseClick(
                target, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, QPoint(*value)
            )
        elif verb == "press":
            QTest.keyClick(target, getattr(Qt.Key, f"Key_{value}"))
        elif verb == "picture":
            settle()
            result = view.grab().save(value)
        elif verb == "requests":
            result = requests
        elif verb == "complaints":
            result = complaints
        if verb in ("point", "click", "press"):
            settle()
        say(result)
    os._exit(0)  # Qt's own shutdown order produces warnings


def say(answer: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
