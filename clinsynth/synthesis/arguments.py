"""The flags of generation: how many samples, which images they are made from, and which of them are kept."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

from clinsynth.arguments import check_at_least
from clinsynth.cluster import EngineArguments
from clinsynth.data.arguments import ImageDataArguments
from clinsynth.judges.judges import check_judge
from clinsynth.models.weights import MINILM


class Amounts(Protocol):
    """The flags of a command that say how many samples it makes."""

    per_class: int | None
    counts: str | None
    balance_to: int | None
    dataset: str
    batch_size: int
    shard_size: int
    seed: int


def check_amounts(args: Amounts) -> None:
    """Raise a `ValueError` where not exactly one of the three is given, or a number is too low."""
    if sum(option is not None for option in (args.per_class, args.counts, args.balance_to)) != 1:
        raise ValueError("give exactly one of --per_class N, --counts LABEL=N,… and --balance_to N")
    if args.balance_to is not None and not args.dataset:
        raise ValueError(f"--balance_to {args.balance_to} needs --dataset, whose classes it fills up; name it")
    check_at_least(args, 1, ["per_class", "balance_to", "batch_size", "shard_size"])
    check_at_least(args, 0, ["seed"])


@dataclass(kw_only=True)
class WorkersArguments(EngineArguments):
    """Where samples are drawn."""

    workers: int | None = None
    """--engine ray: how many load the model, one CPU each, and one GPU where there are any; default: as many as the
    cluster has room for"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, ["workers"])
        if self.workers is not None and self.engine != "ray":
            raise ValueError(f"--workers {self.workers} is about --engine ray; give that too, or leave it out")


@dataclass
class SourceArguments(ImageDataArguments):
    """Where image-to-image generation starts from."""

    from_images: str | None = None
    """make every image from a real one of another class: the data set whose train split gives these, any spec that
    --dataset takes; the data flags hold for it"""
    strength: float | str = 0.3
    """share of the noise that a source is given, in (0, 1]; S, LABEL=S,LABEL=S for each class, or S,S,S to have the
    one chosen by how many images made from validation images are kept (needs --keep_if_checklist or
    --keep_if_class)"""
    from_class: str | None = None
    """classes whose images may be sources, LABEL,LABEL; default: all but the class to make; own: this class
    itself, so that at a small --strength real images come back as the generator sees them"""
    compatible: str | None = None
    """YAML file of columns in which source and class must agree, such as body site: `agree: [column, …]`, and under
    `classes:` LABEL: {column: [value, …]} where not the values of the class's own train images hold"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.from_images:
            for name in ("from_class", "compatible"):
                if getattr(self, name) is not None:
                    raise ValueError(f"--{name} is about the sources of --from_images; name their data set")
        parse_strength(self.strength)

    @property
    def swept(self) -> list[float]:
        """The strengths to choose from; empty where none is to be chosen."""
        found = parse_strength(self.strength)
        return found if isinstance(found, list) else []


def parse_strength(text: float | str) -> float | dict[str, float] | list[float]:
    """`0.3` to a number, `"grade 4=0.5,grade 1=0.3"` to a dict by class, `"0.2,0.3"` to a list.

    Raises:
        ValueError: it is none of these, or a strength is outside (0, 1].
    """
    parts = [part.strip() for part in str(text).split(",")]
    try:
        if "=" in str(text):
            pairs = [part.rpartition("=") for part in parts]
            found: Any = {label.strip(): float(number) for label, _, number in pairs}
            good = all(found) and len(found) == len(parts) and all(0 < value <= 1 for value in found.values())
        else:
            values = [float(part) for part in parts]
            found = values[0] if len(values) == 1 else sorted(set(values))
            good = all(0 < value <= 1 for value in values)
    except ValueError:
        good = False
    if not good:
        raise ValueError(
            f"--strength must be a number in (0, 1], LABEL=S,LABEL=S or S,S,S, got {text!r}; 0.3 keeps "
            "most of an image"
        )
    return found


@dataclass
class KeepArguments(ImageDataArguments):
    """Which generated images are kept."""

    reject_copies: bool = False
    """draw an image anew while it is an exact or near copy of a train image of --dataset"""
    keep_if_checklist: str | None = None
    """draw an image anew while fewer of its class's checklist items are met: 4/5, or as a share 0.8, of the items that
    the judge is trusted with"""
    checklist: str = "phantom-fundus"
    """--keep_if_checklist: name of a checklist that comes with clinsynth, or a .yaml file"""
    judge: str = "measure"
    """--keep_if_checklist: who answers the items, a judge of `clinsynth judge` on this machine"""
    judge_model: str | None = None
    """--keep_if_checklist: the judge's model, folder or Hub id, where it has one"""
    keep_if_class: str | None = None
    """draw an image anew while this image classifier, a folder or Hub id, sees another class in it"""
    least_change: float | None = None
    """--from_images: draw an image anew while it is nearer to its source, a distance of 0 to 2 between thumbnails;
    default: as near as only one in 200 train images comes to another one"""
    most_draws: int = 10
    """draws of an image, after which its row is given up"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_if_checklist is not None:
            parse_share(self.keep_if_checklist)
            check_judge("judge", self.judge, self.judge_model)
            if self.judge == "expert":
                raise ValueError("--judge expert knows only images that there are; take another for new ones")
        if self.least_change is not None and not 0 <= self.least_change <= 2:
            raise ValueError(f"--least_change must be in [0, 2], got {self.least_change}; 0 keeps unchanged images")
        check_at_least(self, 1, ["most_draws"])


def parse_share(text: str) -> Fraction:
    """`"4/5"` or `"0.8"` to 4/5.

    Raises:
        ValueError: it is neither, or not in (0, 1].
    """
    try:
        share = Fraction(str(text).replace(" ", ""))
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not 0 < share <= 1:
        raise ValueError(
            f"--keep_if_checklist must be M/N or a share in (0, 1], got {text!r}; 4/5 is four of five items"
        )
    return share


PARTS = ("topics", "diverse", "contrast", "scale")
HANDLINGS = ("filter", "flag", "off")
REJECTED = ("refusal", "task", "echo", "script")


@dataclass
class TextFilterArguments:
    """Which generated texts are kept."""

    near_duplicate: float = 0.7
    """draw a text anew, up to ten times, while its likeness (Jaccard, pieces of 5 characters) to one kept is this or
    more; 1 rejects equal texts only, 0 none"""
    near_duplicate_encoder: str | None = None
    """folder or Hub id of an encoder, as sentence-transformers/all-MiniLM-L6-v2, by whose sentence embeddings a text
    is a near-duplicate, too"""
    near_duplicate_cosine: float = 0.9
    """their least cosine similarity"""
    reject_copies: bool | None = None
    """draw a text anew also while it is that like a train text of --dataset; default: where real texts stand in the
    prompts (--k_shot), which a model may repeat"""
    verify_labels: str | None = None
    """folder of a classifier trained on the real train texts (clinsynth train text-classifier); a text in which it
    reads another label than the one asked for is drawn anew"""
    keep_if_label: float | None = None
    """draw a text anew while a classifier of the real train texts of --dataset is less sure of its label than of all
    but this share of real texts of that label that it has not seen; 0.1 is usual"""
    label_encoder: str = MINILM
    """--keep_if_label: folder or Hub id of the encoder whose embeddings the classifier reads"""
    reject: str = "refusal,task,echo"
    """draw a text anew that is a refusal of the model, about its task, an echo of eight words of its prompt, or (with
    script, which is not among the defaults) in letters that the real texts, or else the prompt, do not use; or none"""

    audit: str = "flag"
    """safety audit of the texts: flag (audit.json says which are harmful), filter (and such are drawn anew), or off"""
    audit_rules: str = "harm"
    """rules that find harm: harm, or a .yaml file like recipes/audits/harm.yaml"""
    audit_guard: str | None = None
    """also a guard model, folder or Hub id, of Llama Guard's or ShieldGemma's chat format"""

    def __post_init__(self) -> None:
        if self.audit not in HANDLINGS:
            raise ValueError(f"--audit must be one of {', '.join(HANDLINGS)}, got {self.audit!r}")
        if self.audit == "off" and (self.audit_guard or self.audit_rules != "harm"):
            raise ValueError("--audit_rules and --audit_guard are about the audit; leave --audit off out, or them")
        if not 0 <= self.near_duplicate <= 1:
            raise ValueError(f"--near_duplicate must be in [0, 1], got {self.near_duplicate}; 0 turns it off")
        if not 0 < self.near_duplicate_cosine <= 1:
            raise ValueError(f"--near_duplicate_cosine must be in (0, 1], got {self.near_duplicate_cosine}; give 0.9")
        if self.keep_if_label is not None and not 0 < self.keep_if_label < 1:
            raise ValueError(f"--keep_if_label must be above 0 and below 1, got {self.keep_if_label}; give 0.1")
        unknown = sorted(set(self.rejected) - set(REJECTED))
        if unknown:
            raise ValueError(f"--reject must be among {', '.join(REJECTED)}, or none; got {unknown[0]!r}")
        if self.reject_copies and not self.near_duplicate:
            raise ValueError("--reject_copies true needs --near_duplicate above 0, the likeness of a copy; give 0.7")

    @property
    def rejected(self) -> list[str]:
        """What --reject names."""
        return [] if self.reject == "none" else [word.strip() for word in self.reject.split(",")]
