"""The model of a measuring judge: it counts, and learns nothing, but a folder of it loads as any other model does.

This file is copied into every checkpoint of a measuring judge: it imports nothing from clinsynth.
"""

from typing import Any

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel

from .measured_items import measure_of


class MeasuringConfig(PretrainedConfig):
    """What is measured: `checklist_name`, the name of a checklist whose items are counts."""

    model_type = "checklist-measure"

    def __init__(self, checklist_name: str = "phantom-fundus", **kwargs: Any):
        super().__init__(**kwargs)
        self.checklist_name = checklist_name


class MeasuringModel(PreTrainedModel):
    """Measures uint8 pictures (side, side) or (side, side, 3)."""

    config_class = MeasuringConfig
    main_input_name = "pictures"

    def __init__(self, config: MeasuringConfig):
        super().__init__(config)
        self.measure, _ = measure_of({"name": config.checklist_name})
        # unused: transformers cannot tell the device of a model without a parameter
        self.place = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        self.post_init()

    def forward(self, pictures: list[np.ndarray]) -> list[dict[str, int]]:
        """The counts, or other quantities, of each picture."""
        return [self.measure(picture) for picture in pictures]
