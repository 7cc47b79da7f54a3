"""The claims of the papers as experiments: what is compared with what, on which data, and what came out.

==============  ====================================================================================================
file            what it holds
==============  ====================================================================================================
``claim``       the classes: a claim, its arms (the trainings it compares), its comparisons and metrics
``stan`` …      the claims of one system, one file each, to be read from top to bottom
``routes``      random routes and the shift of the whole picture, in the place of ATA's matches
``metrics``     what is measured of a trained network beside its accuracy
``run``         which trainings are missing, and doing them
``outcomes``    what trainings gave: in their folders, and collected in one file of the repository
``statistics``  differences over seeds, their intervals, and the verdict
``status``      the verdict on a claim by the outcomes so far, and which trainings are missing
``report``      the page ``docs/claims.md`` with its pictures
==============  ====================================================================================================
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from gesta.claims.claim import Claim
from gesta.config import suggest
from gesta.errors import GestaError

SYSTEMS = ("stan", "ata", "mfst", "fusion", "rpe_stdt", "ctn", "std_former", "st_manet", "pretraining")
"""The modules that hold claims, in the order of the page."""


def list_claims() -> dict[str, Claim]:
    """All claims by their names."""
    modules = [importlib.import_module(f"gesta.claims.{name}") for name in SYSTEMS]
    return {claim.name: claim for module in modules for claim in module.CLAIMS}


def find_claims(names: Sequence[str]) -> list[Claim]:
    """Claims by name, or those of a system (``stan``), or all of them (``all``), each once.

    Raises:
        GestaError: there is none of this name.
    """
    known = list_claims()
    chosen: dict[str, Claim] = {}
    for name in names:
        of_name = {n: claim for n, claim in known.items() if name in ("all", n, n.partition(".")[0])}
        if not of_name:
            raise GestaError(f"there is no claim {name!r}{suggest(name, [*SYSTEMS, *known])} (all: {', '.join(known)})")
        chosen |= of_name
    return list(chosen.values())
