from transformers import AutoModel, AutoModelForImageClassification
from transformers.pipelines import PIPELINE_REGISTRY

from clinsynth.pipelines.checklist_judge.measuring_model import MeasuringConfig, MeasuringModel, measured_items
from clinsynth.pipelines.checklist_judge.pipeline_checklist_judge import TASK, ChecklistJudgePipeline

__all__ = ["ChecklistJudgePipeline", "MeasuringConfig", "MeasuringModel", "measured_items"]

PIPELINE_REGISTRY.register_pipeline(
    TASK,
    pipeline_class=ChecklistJudgePipeline,
    pt_model=(AutoModelForImageClassification, AutoModel),  # type: ignore[arg-type]  # it takes any number
)
