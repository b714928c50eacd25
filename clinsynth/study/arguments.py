"""The flags of evaluations and of studies, and what the two kinds of study, of images and of texts, consist of."""

from __future__ import annotations

import dataclasses
import itertools
import re
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from clinsynth.cluster import EngineArguments
from clinsynth.data.arguments import ImageDataArguments, IntensityArguments, TextDataArguments, WayInArguments
from clinsynth.judges.judges import check_judge
from clinsynth.models.weights import MINILM
from clinsynth.plain_yaml import cut


@dataclass
class EvaluateImagesArguments(WayInArguments, IntensityArguments):
    """Compare a synthetic image set with the real one: distances, variety, privacy, classifiers, a report."""

    essentials: ClassVar[str] = (
        "real synthetic output_dir extractor classifier classifier_seeds bootstrap checklist seed "
    )

    real: str = "phantom-fundus"
    """the real data set that the generator was trained on: any spec that --dataset of `clinsynth train ddpm` takes"""
    synthetic: str = "runs/synthetic"
    """folder that `clinsynth generate images` wrote; real pictures are brought to its resolution and channels"""
    output_dir: str = "runs/evidence"
    """where evidence.json and report.html go; finished parts found there are kept"""
    cache_dir: str | None = None
    """where features and the default extractor are kept, each under a hash of what it was made from, so that several
    evaluations share those of the real pictures; default: --output_dir"""
    extractor: str = "default"
    """default (a small ResNet trained on the real train split), the folder or Hub id of a transformers vision model,
    or a TorchScript file, as path or owner/repo:file"""
    bootstrap: int = 200
    """bootstrap replicates of each distance's 95 % interval; 0 leaves the intervals out"""
    classifier: str = "small-resnet"
    """classifier of the arms real and composite: small-resnet, a transformers folder or Hub id, or none"""
    classifier_seeds: int = 3
    """trainings of each arm"""
    classifier_epochs: int = 30
    """passes over the real train split in each training"""
    shareable: bool = False
    """leave every real image out of report.html, and the synthetic ones too where a sign of copies was found"""
    checklist: str | None = None
    """score every picture's alignment with its class (checklist share, class margin, typicality): name of a checklist
    that comes with clinsynth, or a .yaml file"""
    judge: str = "measure"
    """--checklist: who answers the items, a judge of `clinsynth judge` on this machine; one that neither trained the
    generator nor chose its pictures"""
    judge_model: str | None = None
    """--checklist: the judge's model, folder or Hub id, where it has one"""
    class_model: str | None = None
    """--checklist: folder or Hub id of the classifier of the class margin; default: a small ResNet trained on the real
    train split"""
    seed: int = 0
    """of the choice of few-shot images (give the trainer's), default extractor, subsets, bootstrap and classifiers"""
    fit: str | None = None
    """squash, crop or pad; required where a real picture is not square"""
    label_column: str = "label"
    """column of the real data set that holds the class"""
    label_names: list[str] | str | None = None
    """class names of the real data set as a,b,…, where it has none of its own"""
    train_fraction: float = 1.0
    """share of the real train split that the generator was trained on"""
    few_shot: int | None = None
    """real train images a class that the generator was trained on"""
    min_class_size: int = 2
    """a class with fewer real train images is an error"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, lowest in (("bootstrap", 0), ("classifier_seeds", 1), ("classifier_epochs", 1)):
            if getattr(self, name) < lowest:
                raise ValueError(f"--{name} must be >= {lowest}, got {getattr(self, name)}")
        if self.checklist is not None:
            check_judge("judge", self.judge, self.judge_model)
        elif self.judge_model or self.class_model:
            raise ValueError("--judge_model and --class_model are about a --checklist; name it")


@dataclass
class EvaluateTextArguments(WayInArguments):
    """Compare a synthetic text set with the real one: fidelity, diversity, privacy, a report."""

    essentials: ClassVar[str] = (
        "real synthetic output_dir encoder language_model show_texts bootstrap text_column label_column seed"
    )

    real: str = ""
    """the real data set that the generator saw: any spec that --dataset of `clinsynth generate text` takes"""
    synthetic: str = ""
    """folder that `clinsynth generate text` wrote, or of other Parquet files with columns text and label"""
    output_dir: str = "runs/evidence"
    """where evidence.json and report.html go; finished parts found there are kept"""
    cache_dir: str | None = None
    """where embeddings and losses are kept, each under a hash of what it was made from, so that several evaluations
    share those of the real texts; default: --output_dir"""
    encoder: str = MINILM
    """folder or Hub id of a transformers encoder; where the Hub is out of reach, a folder"""
    language_model: str | None = None
    """folder, Hub id or .gguf file of a causal language model, which measures the perplexity gap; default: left out"""
    canaries: str | None = None
    """canaries.json of the fine-tuned generator, to measure whether sentences planted in its train texts come back;
    default: that of the generator that --synthetic names, if it was trained with some"""
    bootstrap: int = 200
    """bootstrap replicates of each 95 % interval; 0 leaves the intervals out"""
    show_texts: bool = False
    """show the closest pairs of texts side by side in report.html. Give true only if the source's licence and the
    privacy of the people in it allow that; else the page shows what they share in numbers"""
    seed: int = 0
    """of the choice of few-shot texts (give the generator's), of subsets and of the bootstrap"""
    text_column: str = "text"
    """column of the real data set that holds the text"""
    label_column: str = "label"
    """column of the real data set that holds the class"""
    label_names: list[str] | str | None = None
    """class names of the real data set as a,b,…, in the order of their numbers; default: its own"""
    train_fraction: float = 1.0
    """share of the real train split that the generator saw"""
    few_shot: int | None = None
    """real train texts a class that the generator saw"""
    min_class_size: int = 2
    """a class with fewer real train texts is an error, or dropped by --drop_small_classes"""
    drop_small_classes: bool = False
    """leave classes below --min_class_size out, with a message, instead of an error"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, what in (("real", "the real data set"), ("synthetic", "the folder of the synthetic texts")):
            if not getattr(self, name):
                raise ValueError(f"--{name} is missing; give {what}")
        if self.bootstrap < 0:
            raise ValueError(f"--bootstrap must be at least 0, got {self.bootstrap}; 0 leaves the intervals out")


@dataclass(frozen=True)
class Kind:
    """One kind of study.

    Attributes:
        data: dataclass of the data flags that all its commands share.
        trainers: what `trainer:` of a generator may be, and the command that trains it; None where nothing is trained.
        further: trainers that start from another generator of the study, named by its key `of`.
        generate, evaluate, classify: its other commands.
        left_out: data flags that `evaluate` does not take: it reads them off the synthetic set.
        audited: trainers whose checkpoints a loss-based membership attack can be made on.
        shared: flags of the study beside the data's that its trainers and `generate` share.
    """

    data: type
    trainers: dict[str, tuple[str, ...] | None]
    generate: tuple[str, ...]
    evaluate: tuple[str, ...]
    classify: tuple[str, ...]
    further: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    audited: frozenset[str] = frozenset()
    shared: tuple[str, ...] = ()

    @property
    def data_flags(self) -> dict[str, object]:
        """Name and default of each data flag but --dataset."""
        fields = dataclasses.fields(self.data)
        return {field.name: field.default for field in fields if field.name != "dataset"}


IMAGES = Kind(
    ImageDataArguments,
    {
        "ddpm": ("train", "ddpm"),
        "gan": ("train", "gan"),
        "preference": ("train", "preference"),
        "redraw": None,
        "checkpoint": None,
    },
    generate=("generate", "images"),
    evaluate=("evaluate", "images"),
    classify=("train", "image-classifier"),
    further=frozenset({"preference", "redraw"}),
    left_out=frozenset({"resolution", "channels"}),
    audited=frozenset({"ddpm", "preference"}),
)
TEXTS = Kind(
    TextDataArguments,
    {"prompt": None, "text-lora": ("train", "text-lora")},
    generate=("generate", "text"),
    evaluate=("evaluate", "text"),
    classify=("train", "text-classifier"),
    shared=("model", "task", "codes"),
)
NAME = re.compile(r"[A-Za-z0-9_]{1,40}")
RESOURCES = ("cpus", "gpus", "memory_gb")
GENERATOR_KEYS = {"trainer", "of", "train", "generate"}


@dataclass
class StudyArguments(ImageDataArguments, EngineArguments):
    """Run a whole study from one recipe: generators, synthetic sets, evidence, classifiers in every arm, a report.

    Start the same command again to go on; a changed line of the recipe repeats only what depends on it. Example:

      clinsynth study recipes/phantom.yaml --output_dir runs/phantom-study

    One setting of the recipe is changed as in --generators.ddpm.train.width 32.
    """

    essentials: ClassVar[str] = (
        "dataset output_dir dry_run generators classifiers draws task model resolution channels seed"
    )

    title: str = ""
    """heading of the report; default: the data set"""
    task: str | None = None
    """makes it a study of texts: severity-posts, icd10-report, note-sections, … or the path of a .yaml file"""
    codes: str | None = None
    """texts: labels of the task icd10-report, as F32.1,F41.1,…"""
    model: str | None = None
    """texts: the language model that is prompted and fine-tuned: folder, Hub id or .gguf file"""
    text_column: str = "text"
    """texts: column that holds the text"""
    drop_small_classes: bool = False
    """texts: leave classes below --min_class_size out instead of an error"""
    generators: dict[str, dict[str, Any]] = field(default_factory=dict)
    """name: {trainer: ddpm or gan (texts: prompt or text-lora), train: {flags of `clinsynth train …`}, generate:
    {flags of `generate …`}}; data flags in train, e.g. channels: 1, hold for all steps of the generator. {trainer:
    checkpoint, generate: {model: FOLDER}} takes one that is there. {trainer: preference, of: NAME} trains the
    generator NAME, which stands above, further; {trainer: redraw, of: NAME} trains
    nothing, and draws from NAME with other flags. `from_images: dataset` is the study's own data set"""
    judges: dict[str, dict[str, Any]] = field(default_factory=dict)
    """name: {flags of `clinsynth train image-classifier`}: classifiers of real images, trained first, that generators
    take as judges/NAME, e.g. {judge: classifier, judge_model: judges/NAME}"""
    generate: dict[str, Any] = field(default_factory=dict)
    """flags of `clinsynth generate images` (or `text`) for all generators, e.g. {balance_to: 486}"""
    draws: int = 1
    """synthetic sets of every generator, with the seeds --seed, --seed + 1, …: each is evaluated and the worst one's
    privacy reported; classifiers take the first"""
    evaluate: dict[str, Any] = field(default_factory=dict)
    """flags of `clinsynth evaluate images` (or `text`), e.g. {bootstrap: 200, extractor: default}"""
    audit: dict[str, Any] = field(default_factory=dict)
    """flags of `clinsynth audit membership`, e.g. {max_rows: 500}"""
    classifiers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """name: {flags of `clinsynth train image-classifier` (or `text-classifier`)}, e.g. small: {model: small-resnet,
    seeds: 5}; generators: [names] takes the synthetic sets of these generators alone; [[NAME, NAME]] are
    trainings of one generator, whose sets the seeds take in turn; round_trip: NAME is a generator
    with from_class: own, whose set is real pictures come back; ceiling: NAME is a classifier above with all real
    samples, whose control is the top of the gap that this one's arms may close"""
    seed: int = 0
    """of the choice of few-shot samples and, where their flags do not say otherwise, of all steps"""
    underpowered: bool = False
    """go on though the test split and the seeds cannot show a gain of 0.03 in macro-F1; phantoms need no such
    word: they show that the tools work, and nothing of patients"""
    output_dir: str = "runs/study"
    """folder of the study: report.html, report.json, and a folder for each step"""
    shareable: bool = False
    """leave every real image out of report.html, and those of a generator with a sign of copies; the reports of the
    single steps keep theirs"""
    resources: dict[str, dict[str, float]] = field(default_factory=dict)
    """--engine ray: what a step takes, as {train: {gpus: 1, cpus: 4, memory_gb: 16}}, by the step's first word or
    whole name, or all; default: one CPU, and one GPU where the cluster has any"""
    dry_run: bool = False
    """print the commands that would run and which are already done, and stop"""

    def __post_init__(self) -> None:
        super().__post_init__()
        EngineArguments.__post_init__(self)
        self.check_kind()
        self.check_resources()
        for kind in ("generators", "judges", "classifiers"):
            for name in getattr(self, kind):
                if not NAME.fullmatch(name):  # each becomes part of a folder's name
                    raise ValueError(f"{kind}: the name {cut(name)!r} must be at most 40 letters, digits and _ alone")
        for name, recipe in self.generators.items():
            unknown = sorted(set(recipe) - GENERATOR_KEYS)
            if unknown:
                raise ValueError(
                    f"generators: {name} has the unknown key {unknown[0]!r}; it takes trainer, of, train and generate"
                )
            trainers = self.kind.trainers
            if recipe.get("trainer") not in trainers:
                raise ValueError(
                    f"generators: {name} needs trainer: one of {', '.join(trainers)}, got {recipe.get('trainer')!r}"
                )
            if recipe.get("train") and trainers[recipe["trainer"]] is None:
                raise ValueError(f"generators: {name}: trainer {recipe['trainer']} trains nothing; leave train out")
            self.check_base(name, recipe)
        for name, flags in self.classifiers.items():
            own = [[one] if isinstance(one, str) else one for one in flags.get("generators", ())]
            named = {*itertools.chain(*own), *([flags["round_trip"]] if "round_trip" in flags else [])}
            unknown = sorted(named - set(self.generators))
            if unknown:
                raise ValueError(
                    f"classifiers: {name} names the generator {unknown[0]!r}, which the recipe does not have; it has "
                    f"{', '.join(self.generators) or 'none'}"
                )
            above = list(self.classifiers)[: list(self.classifiers).index(name)]
            if "ceiling" in flags and flags["ceiling"] not in above:
                raise ValueError(
                    f"classifiers: {name} has the ceiling {flags['ceiling']!r}, which must be a classifier above it: "
                    f"{', '.join(above) or 'there is none'}"
                )
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, got {self.draws}")
        if not self.generators and not self.classifiers:
            raise ValueError("the recipe names neither generators nor classifiers; see recipes/phantom.yaml")

    def check_resources(self) -> None:
        """Raise a `ValueError` for an amount that is none, or of something else."""
        for name, asked in self.resources.items():
            for key, amount in asked.items():
                if key not in RESOURCES:
                    raise ValueError(f"resources: {cut(name)}: {cut(key)} is unknown; it takes {', '.join(RESOURCES)}")
                if amount < 0:
                    raise ValueError(f"resources: {cut(name)}: {key} must be at least 0, got {amount}")

    def check_base(self, name: str, recipe: dict[str, Any]) -> None:
        """Raise a `ValueError` where a generator starts from another one that there is not, or does so unasked."""
        names = list(self.generators)
        above = [other for other in names[: names.index(name)] if self.generators[other]["trainer"] != "gan"]
        if recipe["trainer"] not in self.kind.further:
            if "of" in recipe:
                raise ValueError(f"generators: {name}: trainer {recipe['trainer']} starts from nothing; leave of out")
        elif recipe.get("of") not in above:
            raise ValueError(
                f"generators: {name}: trainer {recipe['trainer']} needs of: a diffusion model that stands above it, "
                f"{', '.join(above) or 'and there is none'}; got {recipe.get('of')!r}"
            )

    @property
    def kind(self) -> Kind:
        """Of texts where a task is named, else of pictures."""
        return TEXTS if self.task else IMAGES

    def check_kind(self) -> None:
        """Raise a `ValueError` for a flag of the other kind of study."""
        if self.task and self.dataset == ImageDataArguments.dataset:
            raise ValueError("--dataset is missing; name the real texts, e.g. the folder of MTS-Dialog")
        other = IMAGES if self.task else TEXTS
        wrong = {*other.data_flags, *other.shared} - {*self.kind.data_flags, *self.kind.shared}
        defaults = {each.name: each.default for each in fields(self)}
        for name in sorted(wrong):
            if getattr(self, name) != defaults[name]:
                given = f"--{name} {getattr(self, name)} is for studies of"
                if self.task:
                    raise ValueError(f"{given} pictures, and --task {self.task} makes this one of texts; leave it out")
                raise ValueError(f"{given} texts; name their --task, e.g. note-sections, or leave it out")
