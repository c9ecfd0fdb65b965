"""What a GUI test does: open a module, click, wait, look."""

from __future__ import annotations

import gc
import logging
import os
import tempfile
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer

MODULES = ("MPERSegment", "MPERTrainer")  # each after those that it depends on
REPOSITORY = Path(__file__).resolve().parents[2]


def children() -> set[int]:
    """Processes that this one started and that still run (Linux; empty elsewhere)."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.add(int(entry.parent.name))
    return found


def leftovers() -> set[str]:
    """Our files and folders in the system's temporary folder."""
    return {path.name for path in Path(tempfile.gettempdir()).glob("mper-*") if not path.name.startswith("mper-host-")}


class _Failures(logging.Handler):
    """Exceptions that were logged instead of raised, as MPERLib.callbacks does for callbacks."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.found.append(record.exc_info[1])


class SlicerWindow:
    """The window of one test; made by the fixture ``window``.

    Attributes
    ----------
    widget : QMainWindow as PythonQt shows it
    """

    def __init__(self, host: Any, folder: Path):
        self._host, self.folder = host, folder
        self.widget = slicer.util.mainWindow()
        self._opened: dict[str, Any] = {}
        self._closed: list[tuple[str, Any]] = []
        self._kept: Any = None
        self._open = True
        self._failures = _Failures()
        logging.getLogger().addHandler(self._failures)
        host.errors.clear()
        self.widget.resize(1500, 1000)
        self.widget.show()
        slicer.mrmlScene.Clear(0)
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        self.events()

    # ---- modules

    def open(self, name: str) -> Any:
        """Load a module if need be, select it, and return its `ModulePanel`."""
        for module in MODULES:
            self._host.load(REPOSITORY / module / f"{module}.py")
        try:
            panel = self._host.show(name).panel
            self._opened[name] = weakref.ref(panel)
        except BaseException:
            self._host.unload(name)  # or the tests that follow find a module without its panel
            raise
        self.events()
        return panel

    def shut(self, name: str) -> None:
        """Unload a module, as Slicer does when it quits; its panel must be gone for good when the test ends."""
        self._closed.append((name, self._opened.pop(name)))
        self._host.unload(name)
        self.events()

    def survivors(self) -> list[str]:
        """Panels that were closed and are still there, and what holds each."""
        gc.collect()
        found = []
        for name, panel in self._closed:
            if panel() is not None:
                holders = self._host.holders(panel())
                if holders is not None:
                    who = ", ".join(holders[:5]) or "an observer, or another reference in Python"
                    found.append(f"the panel of {name}, held by {who}")
        return found

    def keep(self, engine: Any) -> None:
        """Let the modules use a running engine, which the end of the test does not stop."""
        self._kept = slicer.mperEngine = engine

    # ---- hands and eyes

    def events(self) -> None:
        """Let Qt work off what is waiting."""
        for _ in range(3):
            slicer.app.processEvents()
        qt.QCoreApplication.sendPostedEvents(None, qt.QEvent.DeferredDelete)  # which else waits for an event loop

    def wait_until(self, condition: Callable[[], Any], timeout: float = 10, what: str = "") -> Any:
        """Work off events until `condition` holds, and return its value; an AssertionError after `timeout` seconds."""
        end = time.monotonic() + timeout
        while True:
            self.events()
            value = condition()
            if value:
                return value
            if self.errors():
                raise AssertionError(f"an exception left a callback: {self.errors()[0]!r}") from self.errors()[0]
            if time.monotonic() > end:
                raise AssertionError(f"waited {timeout:g} s in vain for {what or 'a condition'}")
            time.sleep(0.005)

    def click(self, button: Any) -> None:
        """Click as a person can: the button must be there and enabled."""
        assert button.visible, f"the button {button.text!r} is not visible"
        assert button.enabled, f"the button {button.text!r} is greyed"
        button.click()
        self.events()

    def answer(self, *texts: str | None) -> list[str]:
        """Answer the next questions for a line of text, one after the other; None cancels. Returns those asked so far.

        Answer before the click that asks: a dialog waits in an event loop of its own.
        """
        asked: list[str] = []
        waiting = list(texts)

        def look() -> None:
            for dialog in self.widget.findChildren(qt.QInputDialog):
                if waiting and dialog.visible:
                    text = waiting.pop(0)
                    asked.append(dialog.labelText())
                    if text is None:
                        dialog.reject()
                    else:
                        dialog.setTextValue(text)
                        dialog.accept()
            if waiting and self._open:
                qt.QTimer.singleShot(5, look)

        qt.QTimer.singleShot(5, look)
        return asked

    def screenshot(self, name: str) -> Path:
        """A picture of the window: in the folder MPER_SCREENSHOTS, if that is set, else in the test's own."""
        folder = Path(os.environ.get("MPER_SCREENSHOTS") or self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        self.events()
        assert self.widget.grab().save(str(path)), f"{path} could not be written"
        return path

    # ---- the end

    def errors(self) -> list[BaseException]:
        """Exceptions that left callbacks since the test began. A test that provokes some clears both lists."""
        return [*self._host.errors, *self._failures.found]

    def forgive(self) -> None:
        """Forget the exceptions so far: they were what the test is about."""
        self._host.errors.clear()
        self._failures.found.clear()

    def close(self) -> None:
        self._open = False
        for name in list(self._opened):
            self.shut(name)
        if getattr(slicer, "mperEngine", None) is self._kept:
            slicer.mperEngine = None
        else:
            from MPERLib import engine

            engine.stopShared(wait_s=10)
        slicer.mrmlScene.Clear(0)
        self.events()
        logging.getLogger().removeHandler(self._failures)
