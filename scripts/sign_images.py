"""Sign the images of a finished synthetic set, or of a folder of PNG files, with a certificate of yours.

    clinsynth sign images runs/retina-synthetic --certificate chain.pem --key key.pem --output_dir runs/retina-signed
    clinsynth evaluate images --real retinamnist.npz --synthetic runs/retina-signed --output_dir runs/retina-evidence
    clinsynth inspect runs/retina-signed/data/train-00000-of-00003.parquet --anchors authority.pem

Each image gets a C2PA manifest, which says that a trained model made it, which one, and with which seed, and which
no longer holds once a byte of the file has changed. Pixels, rows and columns stay. A signature differs each time it is
made, so that evidence for `clinsynth push dataset` is measured on the signed set. The same command again goes on where
it stopped.

Whatever an image's size, a PNG file grows by 3.4 KB (a key on P-256, two certificates; 32 px images from 1.0 to
4.4 KB) and a row of a shard, which stores what repeats once, by 0.6 KB; with a time stamp by 13.2 and 1.9 KB. Signing
takes 2.3 ms an image on one core. Without a time stamp, a signature holds until the certificate expires.
"""

from dataclasses import dataclass
from pathlib import Path

from clinsynth.arguments import run


@dataclass
class SignImagesArguments:
    """Sign the images of a finished synthetic set, or of a folder of PNG files, with a certificate of yours.

    Only images that clinsynth has marked as synthetic are signed. Example:

      clinsynth sign images runs/retina-synthetic --certificate chain.pem --key key.pem --output_dir runs/retina-signed
    """

    folder: str = ""
    """the set, or the folder of PNG files; the word after the command, or --folder"""
    certificate: str = ""
    """PEM file: your certificate, then those that issued it; the topmost need not be there"""
    key: str = ""
    """PEM file of the certificate's private key, not encrypted; only its owner should be able to read it"""
    output_dir: str = ""
    """where the same set is written, with signed images"""
    timestamp: str | None = None
    """address of a time stamp authority (RFC 3161), which is asked once an image, so that signatures hold after the
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
        ValueError: certificate and key do not fit, or see `sign_set`.
    """
    from clinsynth.hub.signing import read_identity, sign_set

    identity = read_identity(Path(args.certificate), Path(args.key))
    count = sign_set(Path(args.folder), Path(args.output_dir), identity, args.timestamp)
    print(f"{count} images signed by {identity.name}: {args.output_dir}")
    if args.timestamp is None:
        print(f"without --timestamp, signatures hold until the certificate expires, {identity.valid_until:%Y-%m-%d}")


if __name__ == "__main__":
    run(SignImagesArguments, main)
