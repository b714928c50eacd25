"""Sign the pictures of a finished synthetic set, or of a folder of PNG files, with a certificate of yours.

    clinsynth sign images runs/retina-synthetic --certificate chain.pem --key key.pem --output_dir runs/retina-signed
    clinsynth evaluate images --real retinamnist.npz --synthetic runs/retina-signed --output_dir runs/retina-evidence
    clinsynth inspect runs/retina-signed/data/train-00000-of-00003.parquet --anchors authority.pem

Each picture gets a C2PA manifest, which says that a trained model made it, which one, and with which seed, and which
no longer holds once a byte of the file has changed. Pixels, rows and columns stay. A signature differs each time it is
made, so that evidence for `clinsynth push dataset` is measured on the signed set. The same command again goes on where
it stopped.

Whatever a picture's size, a PNG file grows by 3.4 KB (a key on P-256, two certificates; 32 px pictures from 1.0 to
4.4 KB) and a row of a shard, which stores what repeats once, by 0.6 KB; with a time stamp by 13.2 and 1.9 KB. Signing
takes 2.3 ms a picture on one core. Without a time stamp, a signature holds until the certificate expires.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.arguments import run

if TYPE_CHECKING:
    from clinsynth.hub.credentials import PictureSigner

RECORD = "content_credentials.json"
COPIED = ("README.md", "config.yaml", "environment.json", "contact_sheets/*.png")
"""What of a set is carried over besides shards and generation.json; evidence is not, as it is about other shards."""


@dataclass
class SignImagesArguments:
    """Sign the pictures of a finished synthetic set, or of a folder of PNG files, with a certificate of yours.

    Only pictures that clinsynth has marked as synthetic are signed. Example:

      clinsynth sign images runs/retina-synthetic --certificate chain.pem --key key.pem --output_dir runs/retina-signed
    """

    folder: str = ""
    """the set, or the folder of PNG files; the word after the command, or --folder"""
    certificate: str = ""
    """PEM file: your certificate, then those that issued it; the topmost need not be there"""
    key: str = ""
    """PEM file of the certificate's private key, not encrypted; only its owner should be able to read it"""
    output_dir: str = ""
    """where the same set is written, with signed pictures"""
    timestamp: str | None = None
    """address of a time stamp authority (RFC 3161), which is asked once a picture, so that signatures hold after the
    certificate has expired; it sees hashes alone. Without this flag nothing goes over the network"""

    def __post_init__(self) -> None:
        if not self.folder:
            raise ValueError("what to sign is missing; name the folder of a synthetic set after the command")
        for name in ("certificate", "key", "output_dir"):
            if not getattr(self, name):
                raise ValueError(f"--{name} is missing; `clinsynth sign images --help` says what it takes")
        output = Path(self.output_dir).resolve()
        if Path(self.folder).resolve() in (output, *output.parents):
            raise ValueError(
                f"--output_dir must lie outside {self.folder}, which is kept as it is; got {self.output_dir}"
            )
        if self.timestamp is not None and not self.timestamp.startswith(("http://", "https://")):
            raise ValueError(f"--timestamp must be an address as http://timestamp.example.org, got {self.timestamp}")


def main(args: SignImagesArguments) -> None:
    """Sign what is not signed yet.

    Raises:
        ImportError: the packages of the extra c2pa are not installed.
        ValueError: certificate and key do not fit, a picture is not one that clinsynth marked, or --output_dir holds
            something else.
    """
    from clinsynth.hub.credentials import PictureSigner
    from clinsynth.hub.signing import read_identity
    from clinsynth.run_folder import create_run_folder

    identity = read_identity(Path(args.certificate), Path(args.key))
    folder, output = Path(args.folder), Path(args.output_dir)
    files = files_to_sign(folder)
    record = {
        "signed_by": identity.name,
        "certificate_sha256": identity.sha256,
        "valid_until": identity.valid_until.isoformat(),
        "timestamp": args.timestamp,
        "made_from_sha256": hash_files(files, folder),
    }
    check_same_work(output / RECORD, record)
    signer = PictureSigner(identity, args.timestamp)
    create_run_folder(output)
    count = sign_set(files, folder, output, record, signer)
    print(f"{count} pictures signed by {identity.name}: {output}")
    if args.timestamp is None:
        print(f"without --timestamp, signatures hold until the certificate expires, {identity.valid_until:%Y-%m-%d}")


def files_to_sign(folder: Path) -> list[Path]:
    """The shards of a finished set of pictures, or all PNG files below a folder without shards.

    Raises:
        ValueError: there are none, or the set is not finished.
    """
    from clinsynth.hub.shards import find_shards
    from clinsynth.hub_cards.sets import read_generation

    if any((folder / "data").glob("*.parquet")) or (folder / "generation.json").exists():
        check_made_from_noise(read_generation(folder), folder)
        return find_shards(folder)
    files = sorted(path for path in folder.rglob("*.png") if not path.name.startswith("."))
    if not files:
        raise ValueError(
            f"{folder} holds neither a synthetic set nor PNG files; give what `clinsynth generate images` wrote"
        )
    return files


def check_made_from_noise(generation: dict[str, Any], folder: Path) -> None:
    """Refuse a set made from real pictures: that a model created them would not be true."""
    from clinsynth.hub.signing import NOT_CREATED

    if generation["generator"].get("from_images"):
        raise ValueError(f"{folder} was made from real pictures, {NOT_CREATED}")


def hash_files(files: list[Path], folder: Path) -> str:
    """SHA-256 over names and bytes of files."""
    whole = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            whole.update(f"{path.relative_to(folder)}\0".encode() + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def check_same_work(path: Path, record: dict[str, Any]) -> None:
    """Refuse a folder with anything but what signing these files so has begun there.

    Args:
        path: of the record that it left there.
    """
    from clinsynth.run_folder import check_unchanged, read_json

    output, before = path.parent, read_json(path)
    if not before and output.is_dir() and any(output.iterdir()):
        raise ValueError(f"--output_dir {output} holds other files; give a new folder")
    check_unchanged(output, before, record, "give another --output_dir to sign anew")


def sign_set(files: list[Path], folder: Path, output: Path, record: dict[str, Any], signer: "PictureSigner") -> int:
    """Write what is missing of the signed set, a file at a time; how many pictures it has."""
    from tqdm.auto import tqdm

    from clinsynth.hub.signing import sign_file
    from clinsynth.run_folder import atomic_write

    describe(folder, output, record, complete=False)
    counts = {path: count_pictures(path) for path in files}
    with tqdm(total=sum(counts.values()), desc="sign", unit="picture") as progress:
        for path in files:
            target = output / path.relative_to(folder)
            if target.exists():
                progress.update(counts[path])
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(target, sign_file(path, signer, progress))
    describe(folder, output, record, complete=True)
    return sum(counts.values())


def describe(folder: Path, output: Path, record: dict[str, Any], complete: bool) -> None:
    """Write what is known of the set besides its pictures; generation.json says that it is complete, last of all."""
    from clinsynth.run_folder import atomic_write, read_json

    if not complete:
        for leftover in output.rglob(".*.tmp"):
            leftover.unlink()
    atomic_write(output / RECORD, json.dumps({**record, "complete": complete}, indent=2) + "\n")
    generation = read_json(folder / "generation.json")
    if not generation:
        return
    for path in (path for pattern in COPIED for path in folder.glob(pattern)):
        target = output / path.relative_to(folder)
        target.parent.mkdir(exist_ok=True)
        atomic_write(target, path.read_bytes())
    generation.pop("looked_at", None)  # by publishing, which is about the shards before
    atomic_write(output / "generation.json", json.dumps(generation | {"complete": complete}, indent=2) + "\n")


def count_pictures(path: Path) -> int:
    from clinsynth.hub.shards import open_shard

    return int(open_shard(path).metadata.num_rows) if path.suffix == ".parquet" else 1


if __name__ == "__main__":
    run(SignImagesArguments, main)
