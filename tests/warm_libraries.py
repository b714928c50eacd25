"""What the server of `warm_python` has at hand when it forks: libraries, the commands, and what is compiled once."""

import contextlib
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import datasets.config
import evaluate.config
from huggingface_hub import constants, hf_api
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import clinsynth

LIBRARIES = """
    PIL.GifImagePlugin PIL.ImageDraw PIL.ImageFont PIL.ImageMath PIL.JpegImagePlugin PIL.PngImagePlugin
    PIL.PpmImagePlugin
    accelerate datasets datasketch docstring_parser evaluate jinja2 jsonargparse jsonschema llguidance.hf rich.progress
    diffusers.models.unets.unet_2d diffusers.optimization diffusers.pipelines.ddpm diffusers.pipelines.pipeline_utils
    diffusers.schedulers.scheduling_ddim diffusers.schedulers.scheduling_ddpm diffusers.training_utils torch.profiler
    peft pydantic scipy.io scipy.stats sklearn.linear_model sklearn.metrics trl
    transformers.generation.utils transformers.modeling_utils transformers.models.auto transformers.pipelines
    transformers.models.bert.modeling_bert transformers.models.llama.modeling_llama
    transformers.models.resnet.modeling_resnet transformers.models.vit transformers.trainer_pt_utils
""".split()
"""What most commands import, now or later; one that is not installed is left out."""

MODULES = {
    f"clinsynth.{'.'.join(path.relative_to(folder).with_suffix('').parts).removesuffix('.__init__')}"
    for folder in clinsynth.__path__
    for path in Path(folder).rglob("*.py")
    if path.name != "__main__.py" and path.parent != Path(folder)
}

for library in (*LIBRARIES, *sorted(MODULES)):
    with contextlib.suppress(ImportError):
        importlib.import_module(library)
get_checkpoint_conversion_mapping("bert")  # compiles a thousand patterns before the first weights are read


def read_environment_again() -> None:
    """The libraries of the Hub read the environment as they did when they were imported: its address, their caches."""
    for module in (constants, datasets.config, evaluate.config):
        importlib.reload(module)
    hf_api.api.endpoint = constants.ENDPOINT
    copies = {name: getattr(constants, name) for name in ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE")}
    copies["HF_MODULES_CACHE"] = os.environ.get("HF_MODULES_CACHE", f"{constants.HF_HOME}/modules")
    for module in [module for module in sys.modules.values() if isinstance(module, ModuleType)]:
        held = {name: value for name, value in copies.items() if type(vars(module).get(name)) is type(value)}
        vars(module).update(held)
