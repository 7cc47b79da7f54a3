"""The public names and their types; what is imported when is in ``__init__.py``."""

from .address import find_recipe as find_recipe
from .address import find_table as find_table
from .address import miniature as miniature
from .address import read_recipe as read_recipe
from .catalogue import list_recipes as list_recipes
from .catalogue import list_tables as list_tables
from .own_videos import finetune as finetune
from .own_videos import finetune_vit as finetune_vit
from .own_videos import probe as probe
from .synthetic import demo as demo
