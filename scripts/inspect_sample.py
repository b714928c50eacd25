"""Read where a sample says it comes from: a PNG image, or a Parquet file of a published set.

clinsynth inspect eye.png
clinsynth inspect train-00000-of-00003.parquet
clinsynth inspect signed.png --anchors authority.pem
clinsynth inspect posts/data/train-00000-of-00001.parquet --manifest pack/rows-posts.json

This file is not called inspect.py, as a script's folder comes first on Python's path: every script that is started
from here would find it in the place of Python's own module of that name.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from clinsynth.arguments import run


@dataclass
class InspectArguments:
    """Read where a sample says it comes from: a PNG image, or a Parquet file of a published set.

    Nothing proves it, except where images are signed and you trust who signed them: whoever wants to can take it out
    or write it in. Example:

      clinsynth inspect eye.png
    """

    file: str = ""
    """PNG or Parquet file; the word after the command, or --file"""
    anchors: str = ""
    """PEM file of certificates whose holders you trust to sign: that all images come from them is then demanded"""
    manifest: str = ""
    """rows-….json of `clinsynth pack`: how many rows of a shard of texts it names, and who signed it"""

    def __post_init__(self) -> None:
        if not self.file:
            raise ValueError("what to inspect is missing; name a .png or .parquet file after the command")


def main(args: InspectArguments) -> None:
    """Print what the file says, as JSON.

    Raises:
        ValueError: it says nothing, cannot be read, or is neither PNG nor Parquet; or its signatures do not hold.
    """
    from clinsynth.hub.credentials import inspect_file, refuse_broken

    if args.manifest:
        from clinsynth.hub.credentials import read_anchors
        from clinsynth.hub.rows import inspect_manifest

        anchors = read_anchors(Path(args.anchors)) if args.anchors else None
        print(json.dumps(inspect_manifest(Path(args.file), Path(args.manifest), anchors), indent=2))
        return
    says = inspect_file(Path(args.file), args.anchors)
    if says is None:
        raise ValueError(f"{args.file} does not say where it comes from; that does not make it a real patient's")
    print(json.dumps(says, indent=2))
    refuse_broken(says.get("content_credentials"), args.file, args.anchors)


if __name__ == "__main__":
    run(InspectArguments, main)
