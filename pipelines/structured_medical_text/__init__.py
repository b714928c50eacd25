from transformers import AutoModelForCausalLM
from transformers.pipelines import PIPELINE_REGISTRY

from clinsynth.pipelines.structured_medical_text.pipeline_structured_medical_text import (
    TASK,
    StructuredMedicalTextPipeline,
)
from clinsynth.pipelines.structured_medical_text.schema_logits import SchemaConstraint
from clinsynth.pipelines.structured_medical_text.schemas import GeneratedSamples, Icd10Report
from clinsynth.pipelines.structured_medical_text.text_rows import RowRequest, RowResult

__all__ = [
    "GeneratedSamples",
    "Icd10Report",
    "RowRequest",
    "RowResult",
    "SchemaConstraint",
    "StructuredMedicalTextPipeline",
]

PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=StructuredMedicalTextPipeline, pt_model=AutoModelForCausalLM)
