from clinsynth.pipelines.class_conditioned_ddpm.context_unet import ContextUnet
from clinsynth.pipelines.class_conditioned_ddpm.pipeline_class_conditioned_ddpm import ClassConditionedDDPMPipeline

__all__ = ["ClassConditionedDDPMPipeline", "ContextUnet"]
