"""The claim on STAN (Ye & Liang 2023): it helps where the view of the actor changes, since θ centres the actor."""

from __future__ import annotations

from functools import partial

from gesta.claims.claim import TOP1, Arm, Claim, Comparison, MarionetteSet, Metric
from gesta.claims.controls import PlainLayers, STANControl
from gesta.claims.metrics import by_shift, displaced, theta_centres, theta_follows, theta_matters
from gesta.config import replace
from gesta.marionette.dataset import Marionette
from gesta.model import Insert, LayerConfig
from gesta.plugins.stan import STAN
from gesta.recipe import Augment, EvaluateConfig, Recipe, TrainConfig
from gesta.recipes.synthetic import narrow_resnet

DISPLACED = MarionetteSet(name="displaced", settings={"clips": 480, "size": 96, "aim": "displaced"})
"""Pictures shifted by up to a fifth of their side, zoomed by 0.6 to 1 and rolled by up to 30°, clip by clip."""

AT = 3
"""The block before which layers are put."""


def on_displaced(layer: LayerConfig | None) -> Recipe:
    """A narrow 3-D ResNet on 8 frames of 64 px, with a layer where maps have 8 × 8 positions."""
    model = narrow_resnet()
    model.inserts = [] if layer is None else [Insert(layer=layer, at=AT)]
    return Recipe(
        name="stan",
        model=model,
        data=Marionette(held_out="both"),
        train=TrainConfig(
            epochs=60, batch_size=8, lr=1e-3, warmup_epochs=1, validate_every=0, workers=0,
            augment=Augment(scale=(0.5, 1.0)),
        ),
        evaluate=EvaluateConfig(clips=1, crops=1, short_side=280, workers=0),
    )  # fmt: skip


def arm(name: str, why: str, layer: LayerConfig | None, is_control: bool = False) -> Arm:
    return Arm(name=name, why=why, is_control=is_control, data=DISPLACED, make=partial(on_displaced, layer))


PAPERS = STAN(p_scale=1.0)
"""With steps of θ as large as the paper's; the default's are a tenth, for trainings that are longer."""

NONE = arm("none", "the baseline: the ResNet alone.", None)
WITH_STAN = arm("STAN", "θ from the clip.", PAPERS)
COORDINATES = arm(
    "STAN with coordinates", "our extension: the deformation network also sees where each position is.",
    replace(PAPERS, coordinates=True),
)  # fmt: skip
CONSTANT = arm(
    "constant θ", "θ is learned, and the same for all clips: what the warp and the residual do by themselves.",
    STANControl(theta="constant", stan=PAPERS), True,
)  # fmt: skip
OTHER = arm(
    "another clip's θ", "the same network, and every clip is warped with the θ of another one of its batch.",
    STANControl(theta="other", stan=PAPERS), True,
)  # fmt: skip
PLAIN = arm(
    "plain layers", "a residual bottleneck of 3-D convolutions with as many parameters and more multiply-adds.",
    PlainLayers(), True,
)  # fmt: skip

VIEWPOINT = Claim(
    name="stan.viewpoint",
    statement="STAN makes recognition better where the view of the actor changes.",
    source="Ye & Liang 2023, Abstract, §1 and Table 1: UCF-101 + 3.3 points, HMDB-51 + 4.4",
    experiment="A narrow 3-D ResNet (8 frames of 64 px) from scratch on 312 clips of Marionette's 12 coarse actions, "
    "each shifted, zoomed and rolled in the plane of its picture; tested on 120 clips of subjects and cameras that "
    "training never saw. These displacements are affine, so that some θ (the parameters of STAN's warp) undoes them. "
    "The directions of the cameras (azimuths) are further views, which no affine θ can undo. θ is learned with "
    "steps as large as the paper's (`p_scale=1`); gesta's default is a tenth of them. The paper's "
    "network is MViTv2-S on UCF-101; a tiny one takes five times as long to learn these clips as the "
    "ResNet, which is used in its place. If the view is what STAN helps with, it gains more on clips that are shifted "
    "far (by more than 0.2 of the picture's side) than on those that hardly are (by less than 0.1).",
    arms=(NONE, WITH_STAN, COORDINATES, CONSTANT, OTHER, PLAIN),
    comparisons=(
        Comparison(better="STAN", worse="none"),
        Comparison(better="STAN", worse="constant θ", kind="control"),
        Comparison(better="STAN", worse="another clip's θ", kind="control"),
        Comparison(better="STAN", worse="plain layers", kind="control"),
        Comparison(better="STAN", worse="none", metric="by_shift/> 0.2", relative_to="by_shift/< 0.1", kind="control"),
    ),
    metrics=(
        TOP1,
        Metric(
            name="by_shift",
            title="top-1 of clips that are shifted",
            measure=by_shift,
            axis="by, in picture sides",
        ),
        Metric(
            name="displaced_crop", title="top-1 with the crop moved", measure=displaced(0, 4, 8), axis="by, in pixels"
        ),
    ),
    learn_more="the same with MViTv2, whose attention has relative positions, and on large sets of real videos.",
    minutes=2.0,
)

CENTRES = Claim(
    name="stan.centres",
    statement="θ, the warp that STAN predicts, centres the actor.",
    source="Ye & Liang 2023, §4.2 and Fig. 2",
    experiment="The trainings of stan.viewpoint. In test clips whose crops are moved at random, θ's shift is compared "
    "with where the puppet is: the share of the puppet's way to the centre that θ goes is 1 if θ puts the puppet "
    "there, and 0 if its shift does not depend on the puppet; the correlation is 1 also if θ follows the puppet by a "
    "small part of the way. The claim needs half of the way at least. If another clip's θ costs accuracy, the network "
    "needs its own. As in the paper, the deformation network ends with a mean over positions, which forgets where the "
    "puppet is but for what zero padding tells of the border; in the second arm, which nothing is concluded from, it "
    "also sees coordinates.",
    arms=(WITH_STAN, COORDINATES),
    comparisons=(
        Comparison(better="STAN", worse=None, metric="theta_centres", margin=-0.5),
        Comparison(better="STAN", worse=None, metric="theta_follows"),
        Comparison(better="STAN", worse=None, metric="theta_matters", kind="control"),
    ),
    metrics=(
        Metric(
            name="theta_centres",
            title="share of the puppet's way to the centre that θ goes",
            measure=theta_centres,
            unit="",
        ),
        Metric(
            name="theta_follows",
            title="correlation of θ's shift with the puppet's position",
            measure=theta_follows,
            unit="",
        ),
        Metric(name="theta_matters", title="points lost with another clip's θ", measure=theta_matters, unit="points"),
    ),
    learn_more="the same of networks that are trained for longer, since θ moves slowly.",
    minutes=2.0,
)

CLAIMS = (VIEWPOINT, CENTRES)
