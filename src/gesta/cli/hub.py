"""Commands about model hubs."""

from __future__ import annotations

import argparse

from gesta.cli.options import Commands, trust_option
from gesta.progress import show


def add_commands(commands: Commands) -> None:
    hub = commands.group("hub", "share trained models")
    text = "upload a run's weights, class names, result and a page about it; hf:OWNER/NAME then stands for the model"
    sub = hub.add("push", _push, text, result=False)
    sub.add_argument("run", metavar="RUN", help="folder of a run")
    sub.add_argument("repository", metavar="OWNER/NAME", help="the repository; it is made if it is not there")
    sub.add_argument("--private", action="store_true", help="make a new repository private")
    sub.add_argument("--revision", metavar="NAME", help="branch (default: main), made if it is not there")
    sub.add_argument("--message", metavar="TEXT", default="", help="message of the commit")
    sub.add_argument(
        "--licence",
        "--license",
        metavar="NAME",
        default="",
        help="licence of the weights as the hub spells it, such as cc-by-nc-4.0",
    )
    sub.add_argument("--unfinished", action="store_true", help="upload a run without a result, too")
    trust_option(sub)


def _push(options: argparse.Namespace) -> None:
    from gesta.evaluation.publish import push

    address = push(
        options.run,
        options.repository,
        private=options.private or None,
        **{name: getattr(options, name) for name in ("revision", "message", "licence", "unfinished", "trust_code")},
    )
    show(address)
