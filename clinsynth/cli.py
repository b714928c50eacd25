"""The command `clinsynth`: a table of sub-commands, each a script that also runs alone."""

import difflib
import importlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, get_type_hints

from clinsynth import __version__
from clinsynth.arguments import run
from clinsynth.plain_yaml import cut
from clinsynth.processes import quiet_when_unread

COMMANDS = {
    "train ddpm": "train a class-conditioned DDPM on images",
    "train autoencoder": "train an autoencoder, for a DDPM of its latents: images of 128 pixels and more",
    "train gan": "train a class-conditioned GAN, the baseline",
    "train image-classifier": "train classifiers on real, or real and synthetic, images",
    "train text-lora": "fine-tune a language model to write texts of each label",
    "train text-align": "teach a language model to keep the tone of real texts and to harm nobody",
    "train text-classifier": "train classifiers on real, or real and synthetic, texts",
    "train text-to-image-lora": "fine-tune Stable Diffusion on images, each class behind a prompt",
    "train preference": "train a DDPM further on the preferences of a checklist's judge",
    "generate images": "turn a checkpoint into a synthetic data set",
    "generate text": "turn a language model into a synthetic data set of texts",
    "evaluate images": "compare synthetic with real images and write a report",
    "evaluate text": "compare synthetic with real texts and write a report",
    "judge": "score images against an expert checklist, item by item",
    "fit checklist": "write a checklist whose items are measured limits of real images",
    "sign checklist": "write a page on which an expert corrects and signs a checklist",
    "sign images": "sign the images of a synthetic set, with a certificate",
    "audit membership": "attack a checkpoint: can its training images be told from others",
    "audit text-model": "attack a tuned language model: does it give its texts away",
    "audit text": "find harmful texts in a synthetic set",
    "study": "run a recipe: generators, evidence, classifiers, report",
    "pack": "make an evidence pack of a run, for those who must sign",
    "list": "list studies, tasks, checklists, data sets and more that go by a name",
    "summarize": "count classes, subgroups and duplicates of a data set",
    "push model": "publish a checkpoint on the Hub",
    "push dataset": "publish a synthetic data set on the Hub, with its evidence",
    "push metric": "publish a metric on the Hub",
    "push space": "publish a Space on the Hub",
    "space": "start the demo page on this machine",
    "inspect": "read where a PNG or Parquet file says it comes from",
}
"""What each does; its module is called as the command."""
FIRST_WORDS = {
    "audit text": "synthetic",
    "inspect": "file",
    "list": "kind",
    "pack": "folder",
    "sign images": "folder",
    "space": "folder",
}
FIRST_WORDS |= dict.fromkeys((name for name in COMMANDS if name.startswith("push ")), "folder")
"""The flag that the words right after a command are short for."""


def help_rows(names: Iterable[str]) -> str:
    """A line for each command."""
    return "\n".join(f"  {name:26}{COMMANDS[name]}" for name in names)


def usage() -> str:
    """What `clinsynth --help` prints."""
    return (
        f"clinsynth {__version__}: synthetic medical data sets, with evidence that they help and do not leak\n\n"
        f"usage: clinsynth COMMAND [--flag value ...]\n\ncommands:\n{help_rows(COMMANDS)}\n\n"
        "`clinsynth COMMAND --help` explains a command's flags, `clinsynth list` what they call by name. A first run, "
        "which needs no data and no network:\n\n"
        "  clinsynth train ddpm --dataset phantom-fundus --resolution 32 --channels 1 --width 16 --train_steps 500 "
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
        ValueError: there is none; the message names those that may have been meant.
    """
    for name in COMMANDS:
        if list(words[: len(name.split())]) == name.split():
            return name
    given = " ".join(word for word in words[:2] if not word.startswith("-"))
    names = kin(words[0]) or [*COMMANDS, *(name.split()[0] for name in COMMANDS)]
    close = difflib.get_close_matches(given, names, 1) or difflib.get_close_matches(words[0], names, 1)
    hint = f"did you mean `clinsynth {close[0]}`? " if close else ""
    raise ValueError(
        f"unknown command {cut(given)!r}; {hint}The commands are:\n{help_rows(kin(words[0]) or COMMANDS)}"
    )


def kin(word: str) -> list[str]:
    """The commands whose first of two words is `word`."""
    return [name for name in COMMANDS if name.startswith(f"{word} ")]


def module_name(name: str) -> str:
    """The module of a sub-command; `inspect` alone is a module of Python."""
    file = "inspect_sample" if name == "inspect" else name.replace(" ", "_").replace("-", "_")
    return f"clinsynth.{'trainers' if name.startswith('train ') else 'scripts'}.{file}"


def load_command(name: str) -> tuple[Any, Any]:
    """The module of a sub-command, and the dataclass of arguments that its `main` takes."""
    module = importlib.import_module(module_name(name))
    return module, get_type_hints(module.main)["args"]


def first_words_as(flag: str, words: list[str]) -> list[str]:
    """`A B --flag …` as `--folder A,B --flag …`."""
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return [f"--{flag}", ",".join(words[:count]), *words[count:]] if count else words


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command `clinsynth`."""
    with quiet_when_unread():
        start(list(sys.argv[1:] if argv is None else argv))


def start(words: list[str]) -> None:
    """Run the command that the words name, or print what they ask for."""
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    asks = not words or words[-1] in ("-h", "--help", "--help_all")
    if asks and len(words) <= 1:
        print(usage())
        return
    if words[0] not in COMMANDS and kin(words[0]) and (len(words) == 1 or (asks and len(words) == 2)):
        print(f"usage: clinsynth {words[0]} …\n\ncommands:\n{help_rows(kin(words[0]))}")
        return
    if words[0] == "--version":
        print(__version__)
        return
    try:
        name = find_command(words)
    except ValueError as error:
        print(f"clinsynth: error: {error}", file=sys.stderr)
        sys.exit(2)
    module, arguments_class = load_command(name)
    flags = words[len(name.split()) :]
    if name == "study":
        flags = module.recipe_first(flags)
    if name in FIRST_WORDS:
        flags = first_words_as(FIRST_WORDS[name], flags)
    run(arguments_class, module.main, flags, prog=f"clinsynth {name}")
