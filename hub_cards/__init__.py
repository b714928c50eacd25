from clinsynth.hub_cards.dataset_card import dataset_card
from clinsynth.hub_cards.metric_card import metric_card
from clinsynth.hub_cards.model_card import model_card
from clinsynth.hub_cards.sample_grid import PICTURE, sample_grid
from clinsynth.hub_cards.space_card import space_card

__all__ = ["PICTURE", "dataset_card", "metric_card", "model_card", "sample_grid", "space_card"]
