"""A headless Chromium, driven over its debugging pipe, for tests of the status page.

No driver and no port: commands are JSON objects that end in a zero byte, over file
descriptors 3 and 4 (`--remote-debugging-pipe`). Whatever happens, the browser and its
profile are gone when the `with` ends.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import functools
import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PATIENCE_SECONDS = 120.0
NAMES = ("chromium", "chromium-browser", "google-chrome")


@functools.cache
def find_chromium() -> str | None:
    """Return a browser that runs; Ubuntu's package is a script that asks for a snap."""
    for program in filter(None, map(shutil.which, NAMES)):
        told = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=60
        )
        if told.returncode == 0 and re.search(r"Chrom\w+ \d", told.stdout):
            return program
    return None


class Chromium:
    """One browser with one page."""

    def __init__(self, width: int = 1280, height: int = 1600) -> None:
        self.complaints: list[str] = []
        """What the page logged as an error: broken scripts, refused by the policy."""
        self._size = (width, height)
        self._profile = tempfile.mkdtemp(prefix="farshore-chromium-")
        self._number = 0
        self._buffer = b""

    def __enter__(self) -> Self:
        program = find_chromium()
        assert program is not None
        read_by_it, self._to = os.pipe()
        self._from, written_by_it = os.pipe()
        # Above the numbers that they get, so that neither is overwritten.
        here = [
            fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read_by_it, written_by_it)
        ]
        self._process = subprocess.Popen(
            [
                *("bash", "-c", f'exec "$@" 3<&{here[0]} 4>&{here[1]}', "_"),
                program,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--no-first-run",
                "--disable-background-networking",
                f"--user-data-dir={self._profile}",
                f"--window-size={self._size[0]},{self._size[1]}",
                "--remote-debugging-pipe",
                "about:blank",
            ],
            pass_fds=here,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for end in (read_by_it, written_by_it, *here):
            os.close(end)
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        attached = self._call(
            "Target.attachToTarget", targetId=page["targetId"], flatten=True
        )
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.resize(*self._size)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        shutil.rmtree(self._profile, ignore_errors=True)

    # -- what tests do -----------------------------------------------------------------

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def use_colours(self, scheme: str) -> None:
        """Ask for "light" or "dark", as the system's settings would."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page; a promise is waited for."""
        told = self.call(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
        )
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def until(self, expression: str) -> Any:
        """Wait until an expression is true in the page; return its value."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := self.evaluate(expression)):
            assert time.monotonic() < deadline, (expression, self.complaints)
            time.sleep(0.05)
        return found

    def press(self, key: str, text: str | None = None) -> None:
        """Press and let go of a key, such as "Tab", or "Enter" with "\\r"."""
        codes = {"Tab": 9, "Enter": 13}
        told = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        down = {**told, "text": text} if text else told
        self.call("Input.dispatchKeyEvent", type="keyDown", **down)
        self.call("Input.dispatchKeyEvent", type="keyUp", **told)

    def screenshot(self, path: Path) -> None:
        told = self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(told["data"]))

    # -- the pipe ----------------------------------------------------------------------

    def call(self, method: str, **parameters: Any) -> Any:
        return self._call(method, session=self._session, **parameters)

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:  # ends with the answer, or with our patience
            told = self._read()
            if told.get("id") == self._number:
                assert "error" not in told, told
                return told["result"]
            self._note(told)

    def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._from], [], [], max(0.0, left))
            assert ready, "the browser does not answer"
            data = os.read(self._from, 1 << 20)
            assert data, "the browser has ended"
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        found: dict[str, Any] = json.loads(line)
        return found

    def _note(self, told: dict[str, Any]) -> None:
        match told.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(told["params"]))
            case "Log.entryAdded" if told["params"]["entry"]["level"] == "error":
                self.complaints.append(told["params"]["entry"]["text"])
