"""The fidelity ledger: every published cost figure of the seven systems beside ours, with verdict and reason.

``gesta ledger`` prints it; ``docs/fidelity.md`` is made from it (``gesta ledger --write docs/fidelity.md``) and a test
keeps the file true.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gesta.progress import plain_text
from gesta.recipes import ata, ctn, mfst, rpe_stdt, st_manet, stan, std_former
from gesta.recipes.published import Figure, Verdict, judge


@dataclass(frozen=True, slots=True)
class System:
    """A published system.

    Attributes:
        source: the paper, and what holds for all figures.
        figures: its cost figures.
        summary: how its costs compare, in a sentence.
        decisions: number, error or gap of the paper, what gesta does about it.
    """

    source: str
    summary: str
    figures: tuple[Figure, ...]
    decisions: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Unmoved:
    """Parameters that the classification loss does not move, though a model has them.

    Attributes:
        models: their names, with wildcards; ``+token`` is MViTv2 with a class token, ``+eq`` CTN's ``norm="post"``,
            ``+all`` RPE-STDT with its further switches.
        parameters: their names, with wildcards.
        why: the reason, and what moves them instead, if anything does.
    """

    models: tuple[str, ...]
    parameters: tuple[str, ...]
    why: str


_KEYS = "bias of keys: it adds the same to all scores of a query, and the softmax over the keys takes it away"

UNMOVED = (
    Unmoved(("*",), ("*.omega.bias", "*.beta.bias"), f"TDA, SDA: {_KEYS}; kept, as in other attentions, whose bias of "
        "queries, keys and values is often one vector, of which the part of the keys is just as idle"),
    Unmoved(("*mvitv2*",), ("blocks.*.attn.pool_k.norm.bias",), f"MViTv2: {_KEYS}; its public weights have it"),
    Unmoved(("mvitv2*+token",), ("blocks.4.attn.pool_q.conv.weight", "blocks.4.attn.rel_pos.*"),
        "only the class token of the last block is read, whose query is neither pooled nor placed"),
    Unmoved(("ctn*",), ("blocks.3.attn.depthwise.q.*",),
        "only the class token of the last block is read, whose query passes by the convolution"),
    Unmoved(("rpe_stdt*",), ("spatial.1.attn.rpe_q", "temporal.3.attn.rpe_q"),
        "R14: only the class token of the last block is read, which is equally far from everything"),
    Unmoved(("st_manet_50_eq*",), ("aggregation?.sda.eta.bias", "aggregation5.sda.alpha.*", "aggregation5.sda.beta.*",
        "aggregation5.sda.eta.*"), "M7: the softmax over positions; the diversity loss moves α and β of stage 5"),
    Unmoved(("r3d*",), ("inserts.*.out.1.bias", "inserts.*.pi.1.bias", "inserts.*.excite.bias",
        "inserts.*.mix.bias"), "TDA, SDA, SMEM, STDM inserted into a 3-D ResNet (with `mf=False` ST-MANet's own, too): "
        "the shift that they end with, which the batch norms of the next bottleneck take away"),
    Unmoved(("rpe_stdt_tiny+all",), ("inserts.*.deformation.stages.0.norm.bias",), "STAN of several stages, at first: "
        "each max-pool over 27 positions finds a value that the ReLU has not cut, so that the shift before them is a "
        "constant, which the next batch norm takes away; on other models' maps a few windows have none"),
    Unmoved(("vjepa2_1*", "vit_tiny+vjepa*"), ("image_embed", "image_patch_embed.*"),
        "V-JEPA 2.1's embedding of clips of one frame, which clips of more do not pass"),
    Unmoved(("*_tiny*",), ("norm.bias", "rgb.norm.bias", "depth.norm.bias", "trunks.*.norm.bias",
        "ends.image.head.norm.bias", "norm_read.bias", "fc_norm.bias", "blocks.3.norm2.bias",
        "spatial.1.collect.norm.bias"),
        "the last norm of tiny models, whose pooled features are standardised"),
)  # fmt: skip
"""Parameters without a gradient of the classification loss above rounding; a test has all others, in float64. Indices
are those of the tiny models, to which large ones are reduced there."""


def systems() -> dict[str, System]:
    """The systems by name, in the order they were built."""
    papers = {
        "STAN": stan, "ATA": ata, "MFST": mfst, "RPE-STDT": rpe_stdt, "CTN": ctn, "STD-Former": std_former,
        "ST-MANet": st_manet,
    }  # fmt: skip
    return {
        name: System(paper.SOURCE, paper.SUMMARY, paper.FIGURES, getattr(paper, "DECISIONS", ()))
        for name, paper in papers.items()
    }


@dataclass(frozen=True, slots=True)
class Ledger:
    """All verdicts, by system."""

    verdicts: dict[str, list[Verdict]]
    systems: dict[str, System]

    def rows(self) -> Iterator[tuple[str, Verdict]]:
        """Every verdict with the name of its system."""
        for system, verdicts in self.verdicts.items():
            for verdict in verdicts:
                yield system, verdict

    def to_json(self) -> list[dict[str, Any]]:
        """The verdicts as plain values, one dict each."""
        return [
            {
                "system": system,
                "what": v.figure.what,
                "where": v.figure.where,
                "unit": v.figure.unit,
                "paper": v.figure.printed,
                "ours": v.ours,
                "same": v.same,
                "reason": v.figure.reason,
            }
            for system, v in self.rows()
        ]

    def to_markdown(self) -> str:
        """The page ``docs/fidelity.md``."""
        lines = [
            "# Fidelity ledger",
            "",
            "Every published cost figure of the seven systems beside ours. Made by",
            "`gesta ledger --write docs/fidelity.md`; a test fails when it is out of date.",
            "",
            "M: millions of parameters. G: giga multiply-adds (the papers' FLOPs), as fvcore and `gesta table` count",
            "them where a section or a remark says nothing else.",
            "✓: equal to the printed digit; –: the paper prints no number, and ours is our own.",
            "",
            *self._summary(),
            "",
            "Below, each figure and each decision.",
        ]
        for system, verdicts in self.verdicts.items():
            lines += ["", f"## {system}", "", self.systems[system].source, ""]
            lines += ["| figure | paper | ours | | where | remark |", "|---|---:|---:|---|---|---|"]
            for v in verdicts:
                f = v.figure
                lines.append(_cells(f.what, v.paper, f"{v.ours} {f.unit}", v.mark, f.where, f.reason))
            if decisions := self.systems[system].decisions:
                lines += ["", "Where the paper errs or is silent, and what gesta does:", ""]
                lines += ["| | paper | gesta |", "|---|---|---|"]
                lines += [_cells(*decision) for decision in decisions]
        lines += ["", "## Parameters that the classification loss does not move", ""]
        lines += ["All others get a gradient above rounding; a test computes it in float64 for every named model, the"]
        lines += [
            "large ones with their own switches in the sizes of the tiny ones (whose last block is number 3 or 4).",
            "",
        ]
        lines += ["| models | parameters | why |", "|---|---|---|"]
        for entry in UNMOVED:
            names = (", ".join(f"`{name}`" for name in some) for some in (entry.models, entry.parameters))
            lines.append(_cells(*names, entry.why))
        return "\n".join(lines) + "\n"

    def _summary(self) -> list[str]:
        """How many figures are met, in one sentence, and a table of one line for each system."""
        lines = ["| system | equal | different | ours alone | decisions | in short |", "|---|---:|---:|---:|---:|---|"]
        totals = [0, 0, 0, 0]
        for name, verdicts in self.verdicts.items():
            system = self.systems[name]
            counts = [*(sum(v.same is same for v in verdicts) for same in (True, False, None)), len(system.decisions)]
            totals = [total + count for total, count in zip(totals, counts)]
            lines.append(_cells(name, *map(str, counts), system.summary))
        lines.append(_cells("all", *map(str, totals), ""))
        equal, different, _, decisions = totals
        return [
            f"**{equal} of {equal + different} comparisons with a published cost figure give its printed digits**",
            "(some are of other readings, beside one that is equal). "
            f"{decisions} decisions say what gesta does where a paper errs or is",
            "silent. No published accuracy has been reproduced: there was no GPU and none of the papers' data sets.",
            "",
            *lines,
        ]

    def __str__(self) -> str:
        from rich.table import Table  # start-up time

        table = Table(title="Fidelity ledger", expand=False)
        for column in ("system", "figure", "paper", "ours", "", "remark"):
            table.add_column(column, justify="right" if column in ("paper", "ours") else "left")
        for system, v in self.rows():
            f = v.figure
            table.add_row(system, f.what, v.paper, f"{v.ours} {f.unit}", v.mark, f.reason)
        return plain_text(table, width=140)


def _cells(*texts: str) -> str:
    """A row of a Markdown table; a bar in a text does not end its cell."""
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |"


def ledger() -> Ledger:
    """Judge every figure of every system (builds models on the meta device; no weights, seconds)."""
    papers = systems()
    return Ledger({name: [judge(figure) for figure in system.figures] for name, system in papers.items()}, papers)
