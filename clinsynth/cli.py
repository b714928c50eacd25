"""The command `clinsynth`: a table of sub-commands, each a script that also runs alone."""

import importlib
import sys
from collections.abc import Sequence

from clinsynth import __version__
from clinsynth.arguments import run

COMMANDS = {
    "train ddpm": ("clinsynth.trainers.train_ddpm", "DDPMArguments", "train a class-conditioned DDPM on images"),
    "train gan": ("clinsynth.trainers.train_gan", "GANArguments", "train a class-conditioned GAN, the baseline"),
    "train image-classifier": (
        "clinsynth.trainers.train_image_classifier",
        "ImageClassifierArguments",
        "train classifiers on real, or real and synthetic, images",
    ),
    "train text-lora": (
        "clinsynth.trainers.train_text_lora",
        "TextLoraArguments",
        "fine-tune a language model to write texts of each label",
    ),
    "train text-classifier": (
        "clinsynth.trainers.train_text_classifier",
        "TextClassifierArguments",
        "train classifiers on real, or real and synthetic, texts",
    ),
    "train text-to-image-lora": (
        "clinsynth.trainers.train_text_to_image_lora",
        "TextToImageLoraArguments",
        "fine-tune Stable Diffusion on images, each class behind a prompt",
    ),
    "train preference": (
        "clinsynth.trainers.train_preference",
        "PreferenceArguments",
        "train a DDPM further on the preferences of a checklist's judge",
    ),
    "generate images": (
        "clinsynth.scripts.generate_images",
        "GenerateImagesArguments",
        "turn a checkpoint into a synthetic data set",
    ),
    "generate text": (
        "clinsynth.scripts.generate_text",
        "GenerateTextArguments",
        "turn a language model into a synthetic data set of texts",
    ),
    "evaluate images": (
        "clinsynth.scripts.evaluate_images",
        "EvaluateImagesArguments",
        "compare synthetic with real images and write a report",
    ),
    "evaluate text": (
        "clinsynth.scripts.evaluate_text",
        "EvaluateTextArguments",
        "compare synthetic with real texts and write a report",
    ),
    "judge": (
        "clinsynth.scripts.judge",
        "JudgeImagesArguments",
        "score images against an expert checklist, item by item",
    ),
    "fit checklist": (
        "clinsynth.scripts.fit_checklist",
        "FitChecklistArguments",
        "write a checklist whose items are measured limits of real images",
    ),
    "sign checklist": (
        "clinsynth.scripts.sign_checklist",
        "ChecklistPageArguments",
        "write a page on which an expert corrects and signs a checklist",
    ),
    "sign images": (
        "clinsynth.scripts.sign_images",
        "SignImagesArguments",
        "sign the pictures of a synthetic set, with a certificate",
    ),
    "audit membership": (
        "clinsynth.scripts.audit_membership",
        "AttackMembershipArguments",
        "attack a checkpoint: can its training images be told from others",
    ),
    "study": ("clinsynth.scripts.study", "StudyArguments", "run a recipe: generators, evidence, classifiers, report"),
    "summarize": (
        "clinsynth.scripts.summarize",
        "SummarizeArguments",
        "count classes, subgroups and duplicates of a data set",
    ),
    "push model": ("clinsynth.scripts.push_model", "PushModelArguments", "publish a checkpoint on the Hub"),
    "push dataset": (
        "clinsynth.scripts.push_dataset",
        "PushDatasetArguments",
        "publish a synthetic data set on the Hub, with its evidence",
    ),
    "push metric": ("clinsynth.scripts.push_metric", "PushMetricArguments", "publish a metric on the Hub"),
    "push space": ("clinsynth.scripts.push_space", "PushSpaceArguments", "publish a Space on the Hub"),
    "inspect": (
        "clinsynth.scripts.inspect_sample",
        "InspectArguments",
        "read where a PNG or Parquet file says it comes from",
    ),
}
FIRST_WORDS = {"inspect": "file", "sign images": "folder"}
FIRST_WORDS |= dict.fromkeys((name for name in COMMANDS if name.startswith("push ")), "folder")
"""The flag that the words right after a command are short for."""


def usage() -> str:
    """What `clinsynth --help` prints."""
    rows = "\n".join(f"  {name:24}{text}" for name, (_, _, text) in COMMANDS.items())
    return (
        f"clinsynth {__version__}: synthetic medical data sets, with evidence that they help and do not leak\n\n"
        f"usage: clinsynth COMMAND [--flag value ...]\n\ncommands:\n{rows}\n\n"
        "`clinsynth COMMAND --help` explains a command's flags. A first run, which needs no data and no network:\n\n"
        "  clinsynth train ddpm --dataset phantom-fundus --resolution 32 --channels 1 --width 16 --train_steps 800 "
        "--output_dir runs/phantom\n"
        "  clinsynth generate images --model runs/phantom --per_class 50 --output_dir runs/phantom-synthetic\n"
        "  clinsynth evaluate images --real phantom-fundus --synthetic runs/phantom-synthetic "
        "--output_dir runs/phantom-evidence\n\n"
        "The same with baselines, classifiers in every arm and one report:\n\n"
        "  clinsynth study recipes/phantom.yaml --output_dir runs/phantom-study\n"
    )


def find_command(words: Sequence[str]) -> str:
    """The sub-command that the command line starts with.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    for name in COMMANDS:
        if list(words[: len(name.split())]) == name.split():
            return name
    given = " ".join(word for word in words[:2] if not word.startswith("-"))
    raise ValueError(f"unknown command {given!r}; the commands are: {', '.join(COMMANDS)}")


def first_words_as(flag: str, words: list[str]) -> list[str]:
    """`A B --flag …` as `--folder A,B --flag …`."""
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return [f"--{flag}", ",".join(words[:count]), *words[count:]] if count else words


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command `clinsynth`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return
    if words[0] == "--version":
        print(__version__)
        return
    try:
        name = find_command(words)
    except ValueError as error:
        print(f"clinsynth: error: {error}", file=sys.stderr)
        sys.exit(2)
    module_name, arguments_name, _ = COMMANDS[name]
    module = importlib.import_module(module_name)
    flags = words[len(name.split()) :]
    if name == "study":
        flags = module.recipe_first(flags)
    if name in FIRST_WORDS:
        flags = first_words_as(FIRST_WORDS[name], flags)
    run(getattr(module, arguments_name), module.main, flags, prog=f"clinsynth {name}")
