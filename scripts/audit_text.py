"""Find harmful texts in a synthetic set: what urges, instructs, insults, deceives or exposes, not what is sad.

    clinsynth audit text runs/posts
    clinsynth audit text runs/posts --guard meta-llama/Llama-Guard-3-1B
    clinsynth audit text runs/posts --guard NAME --endpoint http://127.0.0.1:8000/v1
    clinsynth audit text runs/posts --scores scores.parquet --show_texts true

Writes audit.json (shares with intervals, by category and label, and the numbers of the rows) and audit.html, neither
with a text unless --show_texts asks for those that were flagged. A push of the set reads audit.json.
"""

from dataclasses import dataclass

from clinsynth.arguments import run
from clinsynth.judges.text_audit import AuditArguments


@dataclass
class AuditTextArguments(AuditArguments):
    """Find harmful texts in a synthetic set, by rules, a guard model and experts.

    Example:

      clinsynth audit text runs/posts --guard meta-llama/Llama-Guard-3-1B
    """

    synthetic: str = ""
    """folder of a set that `clinsynth generate text` wrote"""
    endpoint: str | None = None
    """a server of the OpenAI chat protocol that runs --guard, of Llama Guard's format; the synthetic texts go there"""
    scores: str | None = None
    """table of experts' scores: row (number of the text, from 0), item_id (a category), score (0 or 1); where experts
    have judged a text, they decide"""
    output_dir: str = ""
    """where audit.json and audit.html go; default: into the set's folder, where a push looks for them"""
    show_texts: bool = False
    """show the flagged texts in audit.html, for those who review them"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.synthetic:
            raise ValueError("--synthetic is missing; name the folder of a set that `clinsynth generate text` wrote")
        if self.endpoint and not self.guard:
            raise ValueError(f"--endpoint {self.endpoint} runs a guard model: name it with --guard")


def main(args: AuditTextArguments) -> None:
    """Judge every text, write audit.json and audit.html, print what came out."""
    from pathlib import Path

    from clinsynth.judges.text_audit import load_judges
    from clinsynth.reports.audit import audit_set

    categories, judges = load_judges(args, args.endpoint, args.scores)
    output_dir = Path(args.output_dir or args.synthetic)
    print(audit_set(Path(args.synthetic), output_dir, categories, judges, args.show_texts))


if __name__ == "__main__":
    run(AuditTextArguments, main)
