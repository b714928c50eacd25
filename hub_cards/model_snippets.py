"""How a published generator is loaded, by its kind: the code that stands in the card, and that a test runs."""

from clinsynth.hub_cards.checkpoint import DIFFUSION, GAN, TEXT

SNIPPETS = {
    DIFFUSION: """\
import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler

pipe = DiffusionPipeline.from_pretrained({place}, trust_remote_code=True)
pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
images = pipe(
    class_labels=[{label}],
    num_images_per_class=2,
    num_inference_steps=25,
    generator=[torch.Generator().manual_seed(seed) for seed in range(2)],  # one an image
).images
images[0].save("synthetic.png")""",
    GAN: """\
import torch
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained({place}, trust_remote_code=True)
images = pipe(
    class_labels=[{label}],
    num_images_per_class=2,
    generator=[torch.Generator().manual_seed(seed) for seed in range(2)],  # one an image
).images
images[0].save("synthetic.png")""",
    TEXT: """\
from transformers import pipeline

pipe = pipeline("structured-medical-text", model={place}, trust_remote_code=True)
texts = pipe({{"label": {label}}}, num_samples=2, seed=0)  # each valid under the schema, or left out
for text in texts:
    print(text["data"])""",
}
"""To be filled with `place` and `label` as JSON texts."""
