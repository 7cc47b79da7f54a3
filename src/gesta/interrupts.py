"""Ctrl-C, of which a process that works for another one should not hear. Does not import torch."""

from __future__ import annotations

import signal


def leave_interrupts_to_parent(*_: object) -> None:
    """Ignore Ctrl-C: the process that started this one hears it, too, and ends it in order.

    Takes and ignores what pools and loaders give the first function of a worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
