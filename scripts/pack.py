"""Make an evidence pack of a run: one page for those who must sign, its print, and a file for machines.

    clinsynth pack runs/retina-synthetic runs/retina-evidence --output_dir runs/retina-pack
    clinsynth pack runs/retina-synthetic runs/retina-evidence runs/retina-audit --output_dir runs/retina-pack
    clinsynth pack runs/retina-study --output_dir runs/retina-study-pack

Name the folders that belong together: a synthetic set and the evidence on it, classifiers, an attack; or a study,
which holds them all. Nothing is measured anew. pack.json holds, for each number, the file and the place where it
stands.
"""

from dataclasses import dataclass
from pathlib import Path

from clinsynth.arguments import run


@dataclass
class PackArguments:
    """Make an evidence pack of a run: what was measured, what was not, and what only a human can fill in.

    Name the folders that belong together: a synthetic set, the evidence on it, and what else there is about it
    (classifiers, an attack); or a study, which holds them all. Nothing is measured anew, and nothing in the pack
    claims that a rule is complied with. Example:

      clinsynth pack runs/retina-synthetic runs/retina-evidence --output_dir runs/retina-pack

    It holds: a first page of what was not done; the ScoreCard in the seven criteria of FDA's scientists; a table of
    attacks by the three risks of WP29; the generator's validation file; a record of marks (AI Act, article 50); CLAIM
    2024 and a datasheet, prefilled; and a Croissant description of each set. In pack.json each number stands with the
    file and the place in it that it was read from.
    """

    folder: str = ""
    """folders of the run, as A,B; the words after the command, or --folder"""
    output_dir: str = ""
    """where the pack is written; the same command again writes the same files"""
    certificate: str = ""
    """PEM file that signs the manifest of text rows: your certificate, then those that issued it (with --key)"""
    key: str = ""
    """PEM file of the certificate's private key, not encrypted; only its owner should be able to read it"""

    def __post_init__(self) -> None:
        if not self.folder:
            raise ValueError(
                "what to pack is missing; name the folders of a synthetic set and its evidence, or of a study, after "
                "the command"
            )
        if not self.output_dir:
            raise ValueError("--output_dir is missing; name the folder that the pack is written to")
        if bool(self.certificate) != bool(self.key):
            raise ValueError("--certificate and --key belong together; give both, or none")


def main(args: PackArguments) -> None:
    """Read what lies there, fill the forms, write the pack.

    Raises:
        ValueError: there is no finished set, evidence is about another one, or a file is damaged; or see
            `read_identity`.
    """
    from clinsynth.hub.pack.pack import write_pack
    from clinsynth.hub.pack.runs import read_folders
    from clinsynth.hub.signing import read_identity
    from clinsynth.run_folder import create_run_folder

    identity = read_identity(Path(args.certificate), Path(args.key)) if args.key else None
    found = read_folders([Path(folder) for folder in args.folder.split(",")])
    for path in write_pack(found, create_run_folder(args.output_dir), identity):
        print(path)


if __name__ == "__main__":
    run(PackArguments, main)
