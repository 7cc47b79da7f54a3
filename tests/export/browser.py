"""A headless Chromium that is spoken to in its debugging protocol, over a pipe."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = shutil.which("chromium")


class Browser:
    """One page in a browser that is ended with it.

    Args:
        folder: for the browser's own files.
        flags: further flags of Chromium.
        size: of the window in CSS pixels.

    Attributes:
        requests: addresses that the page, its workers and its frames have asked for.
        console: what they have written, and errors that nothing has caught.
    """

    def __init__(self, folder: Path, *flags: str, size: tuple[int, int] = (1280, 800)) -> None:
        assert CHROMIUM is not None
        (theirs_in, self._out), (self._in, theirs_out) = os.pipe(), os.pipe()

        def at_3_and_4() -> None:
            copies = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(copies[0], 3)
            os.dup2(copies[1], 4)

        command = [CHROMIUM, "--headless", "--no-sandbox", "--remote-debugging-pipe", *flags]
        command += [f"--user-data-dir={folder / 'profile'}", "--disable-background-networking", "--mute-audio"]
        self._process = subprocess.Popen(
            command, preexec_fn=at_3_and_4, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.requests: list[str] = []
        self.console: list[str] = []
        self._buffer, self._number = b"", 0
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._watch(self._session)
        self._ask("Page.enable", session=self._session)
        self.resize(size)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def open(self, address: str) -> None:
        self._ask("Page.navigate", session=self._session, url=address)

    def resize(self, size: tuple[int, int]) -> None:
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 500}
        self._ask("Emulation.setDeviceMetricsOverride", session=self._session, **metrics)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page, or what its promise gives."""
        how = {"returnByValue": True, "awaitPromise": True, "userGesture": True}
        answer = self._ask("Runtime.evaluate", session=self._session, expression=expression, **how)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60) -> Any:
        """The first value of an expression that is true."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, (
                f"{expression}: never; {self.console}; {self.evaluate('document.body.innerText')}"
            )
            time.sleep(0.1)
        return value

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file in an input of the page."""
        root = self._ask("DOM.getDocument", session=self._session)["root"]["nodeId"]
        node = self._ask("DOM.querySelector", session=self._session, nodeId=root, selector=selector)["nodeId"]
        self._ask("DOM.setFileInputFiles", session=self._session, nodeId=node, files=[str(file)])

    def press(self, key: str) -> None:
        """Press a key, such as Tab or Enter."""
        codes = {"Tab": 9, "Enter": 13}
        how = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        how |= {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", session=self._session, type=kind, **how)

    def downloads(self, folder: Path) -> None:
        """Put what the page gives to download into a folder."""
        self._ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def picture(self, path: Path) -> None:
        """Write what the window shows."""
        data = self._ask("Page.captureScreenshot", session=self._session, format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def _watch(self, session: str) -> None:
        """Note the requests and the console of a page or worker, and those of the workers that it starts."""
        for domain in ("Network", "Runtime", "Log"):
            self._send(f"{domain}.enable", session)
        self._send("Target.setAutoAttach", session, autoAttach=True, waitForDebuggerOnStart=True, flatten=True)
        self._send("Runtime.runIfWaitingForDebugger", session)

    def _ask(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        number = self._send(method, session, **parameters)
        while True:
            message = self._receive()
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return message["result"]

    def _send(self, method: str, session: str | None = None, **parameters: Any) -> int:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        return self._number

    def _receive(self) -> Any:
        while b"\0" not in self._buffer:
            data = os.read(self._in, 65536)
            assert data, "the browser has ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Target.attachedToTarget" and message.get("sessionId"):
            self._watch(parameters["sessionId"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.consoleAPICalled":
            self.console.append(" ".join(str(value.get("value")) for value in parameters["args"]))
        elif method == "Runtime.exceptionThrown":
            self.console.append(str(parameters["exceptionDetails"].get("exception", {}).get("description")))
        elif method == "Log.entryAdded":
            self.console.append(parameters["entry"]["text"])
        return message
