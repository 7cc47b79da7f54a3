"""The public names and their types; what is imported when is in ``__init__.py``."""

from .checkpoint import TrainedModel as TrainedModel
from .checkpoint import import_weights as import_weights
from .checkpoint import load as load
from .checkpoint import save_model as save_model
from .cost import count as count
from .data.lists import Folder as Folder
from .data.lists import Lists as Lists
from .datasets.diving48 import Diving48 as Diving48
from .datasets.epic import EPICKitchens as EPICKitchens
from .datasets.hmdb51 import HMDB51 as HMDB51
from .datasets.isogd import IsoGD as IsoGD
from .datasets.kinetics400 import Kinetics400 as Kinetics400
from .datasets.ntu import NTU as NTU
from .datasets.something import SomethingV1 as SomethingV1
from .datasets.something import SomethingV2 as SomethingV2
from .datasets.ucf101 import UCF101 as UCF101
from .errors import GestaError as GestaError
from .evaluation.evaluate import evaluate as evaluate
from .evaluation.result import Result as Result
from .layers.temporal import TemporalAttention as TemporalAttention
from .marionette.dataset import Marionette as Marionette
from .model import (
    AroundConfig as AroundConfig,
)
from .model import (
    ClipSpec as ClipSpec,
)
from .model import (
    Insert as Insert,
)
from .model import (
    LayerConfig as LayerConfig,
)
from .model import (
    ModelConfig as ModelConfig,
)
from .model import (
    VideoModel as VideoModel,
)
from .models import create_model as create_model
from .models import list_models as list_models
from .models import model_config as model_config
from .plugins.ata import ATA as ATA
from .plugins.smem import SMEM as SMEM
from .plugins.st_manet import SDA as SDA
from .plugins.st_manet import TDA as TDA
from .plugins.stan import STAN as STAN
from .plugins.stdm import STDM as STDM
from .prediction.answer import Prediction as Prediction
from .prediction.predict import predict as predict
from .prediction.timeline import TimelineConfig as TimelineConfig
from .prediction.timeline import timeline as timeline
from .recipe import Augment as Augment
from .recipe import EvaluateConfig as EvaluateConfig
from .recipe import Recipe as Recipe
from .recipe import TrainConfig as TrainConfig
from .records import DataConfig as DataConfig
from .records import Record as Record

__version__: str
