"""DICOM folders: pixels as the files mean them, nothing of the patients, and errors that name the file."""

import logging
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="needs the extra clinsynth[dicom]")

from clinsynth.data.arguments import ImageDataArguments  # noqa: E402
from clinsynth.data.dicom import apply_window, read_dicom  # noqa: E402
from clinsynth.data.images import load_image_arrays, load_image_dataset  # noqa: E402

RAMP = np.arange(1024, dtype=np.uint16).reshape(32, 32)


def write_dicom(path: Path, pixels: np.ndarray = RAMP, name: str = "Confidential^Carla", **tags) -> Path:
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = name, f"MRN{path.stem}", "19700101"
    dataset.InstitutionName, dataset.AccessionNumber = "Saint Secret", "ACC4711"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = pixels.itemsize * 8
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PixelData = pixels.tobytes()
    for tag, value in tags.items():
        if value is None:
            delattr(dataset, tag)
        else:
            setattr(dataset, tag, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_folder(folder: Path, extra: str = "sex,patient_name,operator", **tags) -> str:
    folder.mkdir()
    lines = [f"file,label,age,{extra}"]
    for number in range(12):
        write_dicom(folder / f"{number}.dcm", (RAMP + number).astype(np.uint16), **tags)
        cells = ["f", "Carla Confidential", "Olga"][: extra.count(",") + 1]
        lines.append(f"{number}.dcm,{'ill' if number % 2 else 'healthy'},{30 + number},{','.join(cells)}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return str(folder)


def test_folder_gives_pixels_labels_and_declared_subgroups_only(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "clinsynth"):
        splits = load_image_dataset(ImageDataArguments(write_folder(tmp_path / "set")))
    assert splits["train"].column_names == ["image", "label", "age", "sex"]
    assert splits["train"].features["label"].names == ["healthy", "ill"]
    assert sum(len(split) for split in splits.values()) == 12
    assert "come in): operator; patient_name (may identify a person)" in caplog.text
    assert "12 by the file's full range of values" in caplog.text


def test_no_patient_string_reaches_the_data_set(tmp_path, caplog):
    with caplog.at_level(logging.DEBUG, "clinsynth"):
        splits = load_image_dataset(ImageDataArguments(write_folder(tmp_path / "set")))
    splits.save_to_disk(tmp_path / "out")
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"PNG" in written
    for secret in ("Confidential", "Carla", "MRN", "19700101", "Secret", "ACC4711", "Olga"):
        assert secret.encode() not in written
        assert secret not in caplog.text


def test_one_patients_files_stay_together(tmp_path):
    tmp_path.joinpath("set").mkdir()
    lines = ["file,label"]
    for patient in range(20):
        for view in range(2):
            pixels = np.full((32, 32), patient, np.uint8)
            pixels[0, 0] = 255
            write_dicom(
                tmp_path / "set" / f"{patient}-{view}.dcm",
                pixels,
                PatientID=f"P{patient}",
                WindowCenter=127.5 + 0.5,
                WindowWidth=256,
            )
            lines.append(f"{patient}-{view}.dcm,{'ab'[patient % 2]}")
    (tmp_path / "set" / "labels.csv").write_text("\n".join(lines))
    splits = load_image_arrays(ImageDataArguments(str(tmp_path / "set")))
    patients = [set(split.images[:, 0, 5, 5].tolist()) for split in splits.values()]
    assert len(set.union(*patients)) == sum(map(len, patients)) == 20
    assert len(splits["test"].labels) == 8 and len(splits["validation"].labels) == 4


def test_window_from_the_spec(tmp_path):
    spec = write_folder(tmp_path / "set")
    arrays = load_image_arrays(ImageDataArguments(f"{spec}?window=512,100"))["train"]
    assert arrays.images.shape[1:] == (1, 32, 32)
    assert (arrays.images == 0).mean() > 0.4 and (arrays.images == 255).mean() > 0.4
    for wrong in ("window=5", "window=5,0", "size=3", "window=a,b"):
        with pytest.raises(ValueError, match=r"takes \?window=CENTRE,WIDTH"):
            load_image_dataset(ImageDataArguments(f"{spec}?{wrong}"))


def test_rescale_and_window_of_the_file(tmp_path):
    tags = {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}
    picture = read_dicom(write_dicom(tmp_path / "a.dcm", **tags))
    values = 2.0 * RAMP - 1024
    expected = np.clip((values - 39.5) / 399 + 0.5, 0, 1) * 255
    assert np.abs(np.asarray(picture.image) - expected).max() <= 0.5
    assert picture.windowing == "the file's window"


def test_first_of_several_windows_is_taken(tmp_path):
    several = read_dicom(write_dicom(tmp_path / "a.dcm", WindowCenter=[500, 40], WindowWidth=[300, 400]))
    one = read_dicom(write_dicom(tmp_path / "b.dcm", WindowCenter=500, WindowWidth=300))
    assert (np.asarray(several.image) == np.asarray(one.image)).all()


def test_monochrome1_is_inverted(tmp_path):
    bright = read_dicom(write_dicom(tmp_path / "a.dcm")).image
    dark = read_dicom(write_dicom(tmp_path / "b.dcm", PhotometricInterpretation="MONOCHROME1")).image
    assert np.asarray(bright)[0, 0] == 0
    assert (np.asarray(dark) == 255 - np.asarray(bright)).all()


def test_colour_is_taken_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert (np.asarray(read_dicom(write_dicom(tmp_path / "a.dcm", pixels)).image) == pixels).all()


def test_window_functions_at_their_landmarks():
    values = np.array([-1000.0, 40.0, 1000.0])
    assert apply_window(values, (40, 400), "LINEAR_EXACT").tolist() == [0, 128, 255]
    assert apply_window(values, (40, 400), "SIGMOID").tolist() == [0, 128, 255]
    assert apply_window(np.array([3.0, 3.0]), None, "LINEAR").tolist() == [0, 0]
    with pytest.raises(ValueError, match="VOI LUT Function value 'CUBIC'"):
        apply_window(values, (40, 400), "CUBIC")
    with pytest.raises(ValueError, match="Window Width must be greater than or equal to 1"):
        apply_window(values, (40, 0), "LINEAR")


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"PixelData": None}, r"a\.dcm has no pixel data"),
        ({"NumberOfFrames": 4}, r"a\.dcm has 4 frames; give \?frame=N, 1 to 4"),
        ({"BurnedInAnnotation": "yes "}, r"a\.dcm says that text is burned into its image"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, r"a\.dcm cannot be turned into an image"),
        ({"PhotometricInterpretation": "HSV"}, r"a\.dcm cannot be turned into an image: colour of kind HSV"),
        ({"PixelData": b"12"}, r"a\.dcm cannot be turned into an image"),
    ],
)
def test_unsuitable_files_are_refused_by_name(tmp_path, tags, message):
    with pytest.raises(ValueError, match=message):
        read_dicom(write_dicom(tmp_path / "a.dcm", **tags))


def test_empty_rescale_tags_and_padding(tmp_path):
    plain = np.asarray(read_dicom(write_dicom(tmp_path / "a.dcm")).image)
    empty = read_dicom(write_dicom(tmp_path / "b.dcm", RescaleSlope="", RescaleIntercept=""))
    assert (np.asarray(empty.image) == plain).all()
    padded = RAMP.copy()
    padded[:4] = 63000
    found = np.asarray(read_dicom(write_dicom(tmp_path / "c.dcm", padded, PixelPaddingValue=63000)).image)
    values = RAMP[4:].astype(float)
    assert (found[:4] == 255).all() or (found[:4] == 0).all()
    assert np.abs(found[4:] - 255 * (values - 128) / (1023 - 128)).max() <= 1


def test_a_table_in_the_place_of_a_window(tmp_path):
    table = pydicom.Dataset()
    table.add_new("LUTDescriptor", "US", [1024, 0, 12])
    table.add_new("LUTData", "US", list(range(4095, 4095 - 4 * 1024, -4)))
    path = write_dicom(tmp_path / "a.dcm", VOILUTSequence=pydicom.Sequence([table]))
    found = read_dicom(path)
    ours = np.asarray(found.image, dtype=float) / 255
    theirs = pydicom.pixels.apply_voi_lut(RAMP, pydicom.dcmread(path)) / 4095
    assert found.windowing == "the file's table" and np.abs(ours - theirs).max() <= 1 / 255
    assert read_dicom(path, (600, 1600)).windowing == "the window given"


def test_one_frame_of_several_and_its_own_window(tmp_path):
    frames = np.stack([RAMP, RAMP[::-1]])
    groups = []
    for centre in (200, 800):
        group, window, values = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        window.WindowCenter, window.WindowWidth = centre, 100
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, 0, "US"
        group.FrameVOILUTSequence = pydicom.Sequence([window])
        group.PixelValueTransformationSequence = pydicom.Sequence([values])
        groups.append(group)
    tags = {"NumberOfFrames": 2, "PerFrameFunctionalGroupsSequence": pydicom.Sequence(groups)}
    path = write_dicom(tmp_path / "a.dcm", RAMP, PixelData=frames.tobytes(), **tags)
    second = read_dicom(path, frame=2)
    assert second.windowing == "the file's window"
    assert (np.asarray(second.image) == apply_window(RAMP[::-1].astype(float), (800, 100), "LINEAR")).all()
    with pytest.raises(ValueError, match=r"has 2 frames, so that .frame=3 is none of them"):
        read_dicom(path, frame=3)


def test_the_tables_patients_count_where_the_files_have_none(tmp_path, caplog):
    folder = tmp_path / "set"
    folder.mkdir()
    lines = ["file,label,Patient ID"]
    for number in range(40):
        write_dicom(folder / f"{number}.dcm", (RAMP + number).astype(np.uint16), PatientID=None)
        lines.append(f"{number}.dcm,{'ab'[number // 4 % 2]},p{number // 4}")
    (folder / "labels.csv").write_text("\n".join(lines))
    splits = load_image_arrays(ImageDataArguments(str(folder)))
    persons = [set(split.persons.tolist()) for split in splits.values()]
    assert sum(map(len, persons)) == len(set.union(*persons)) == 10
    for number in range(40):
        write_dicom(folder / f"{number}.dcm", (RAMP + number).astype(np.uint16), PatientID="ANONYMOUS")
    again = load_image_arrays(ImageDataArguments(str(folder)))
    assert (again["train"].persons == splits["train"].persons).all()
    assert "1 PatientIDs of files stand under several ids in column Patient ID" in caplog.text
    (folder / "labels.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines))
    with pytest.raises(ValueError, match="all 40 images name one person"):
        load_image_dataset(ImageDataArguments(str(folder)))


def test_files_that_cannot_be_read_are_named_at_once_or_skipped(tmp_path):
    spec = write_folder(tmp_path / "set", "sex")
    with (tmp_path / "set" / "labels.csv").open("a") as table:
        for name in ("x.dcm", "y.dcm"):
            (tmp_path / "set" / name).write_bytes(b"cut")
            table.write(f"\n{name},ill,30,f")
    with pytest.raises(ValueError, match=r"2 of 14 images cannot be read:\n.*x\.dcm is no .*\n.*y\.dcm is no"):
        load_image_dataset(ImageDataArguments(spec))
    train = load_image_arrays(ImageDataArguments(spec, on_bad_file="skip"))["train"]
    assert "2 of 14 images cannot be read and were left out (--on_bad_file skip)" in train.notes


def test_no_dicom_and_no_file_are_refused(tmp_path):
    (tmp_path / "a.dcm").write_text("hello")
    with pytest.raises(ValueError, match=r"a\.dcm is no DICOM file"):
        read_dicom(tmp_path / "a.dcm")
    with pytest.raises(ValueError, match=r"there is no file .*b\.dcm; remove its row"):
        read_dicom(tmp_path / "b.dcm")


def test_table_is_needed_with_its_columns(tmp_path):
    write_dicom(tmp_path / "a.dcm")
    with pytest.raises(ValueError, match=r"a\.dcm lies in no class folder .* or write a \.csv of image, label"):
        load_image_dataset(ImageDataArguments(str(tmp_path)))
    (tmp_path / "labels.csv").write_text("file,score\na.dcm,1\n")
    with pytest.raises(ValueError, match="no column 'label'; it has image, score, patient_id"):
        load_image_dataset(ImageDataArguments(str(tmp_path)))
    (tmp_path / "labels.csv").write_text("label,age\n1,old\n")
    with pytest.raises(ValueError, match=r"labels\.csv has no column image; it has label, age, none of which"):
        load_image_dataset(ImageDataArguments(str(tmp_path)))
