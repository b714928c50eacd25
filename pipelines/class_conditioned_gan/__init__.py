from clinsynth.pipelines.class_conditioned_gan.dcgan_generator import DCGANGenerator
from clinsynth.pipelines.class_conditioned_gan.pipeline_class_conditioned_gan import ClassConditionedGANPipeline

__all__ = ["ClassConditionedGANPipeline", "DCGANGenerator"]
